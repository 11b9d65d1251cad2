"""What a person sees of a run; reads run folders and imports no torch.

`text`  a run as tables for the terminal; `terminal` draws charts in letters
`live`  what happens, while it happens, in a terminal; `notebook` in a notebook; `progress` is what both show
`page`  one HTML file out of blocks, by the templates beside it; `charts` draws for it, by matplotlib
`run_page`  a run as a page, out of `run_result`, `run_errors`, `run_search`, `run_rounds` and `run_costs`; `run_view` reads its folder,
            `history` its journal as curves, `predictions` has its errors, `recipes` its settings
`standings`  what many runs say together; `ranks` beside published ranks; `comparison` as tables, `comparison_page` as a page
"""

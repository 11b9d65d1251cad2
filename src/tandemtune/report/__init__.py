"""What a person sees of a run; reads run folders and imports no torch.

`text`  tables for the terminal
`live`  what happens, while it happens
`page`  one HTML file out of sections, tables and code; `plot` draws charts for it and for the terminal
`run_page`  a run as a page
`comparison`  many runs as tables; `ranks` has their ranks, `comparison_page` makes a page of them
"""

"""What a person sees of a run; reads run folders and imports no torch.

`text`  tables for the terminal
`live`  what happens, while it happens
"""

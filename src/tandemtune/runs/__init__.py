"""A run is a folder: recipe, append-only journal, checkpoint, result, adapter.

`journal`     one JSON line for every generation; everything else can be replayed from it
`checkpoint`  arrays and generator states, no pickle
`store`       the folder
"""

"""What judges written texts, row by row: one file for each kind. Higher is better.

`base`     the interface, and how a reward is found by its name or made of a function
`words`    exact match, containment, overlap of words, the last number
`overlap`  BLEU, chrF and ROUGE-L, by the libraries that papers use
`objects`  answers in JSON: a schema, and the fields of a reference
`own`      a function of the user's, in a process of its own (`worker`) with a time limit; `finding` says where it lies
"""

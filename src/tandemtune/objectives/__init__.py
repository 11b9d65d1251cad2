"""What a search minimises over label logits: one file for each, with its options beside it.

`base`           the interface, and penalties that all of them have
`cross_entropy`  the default
`hinge`          margins between the gold label's logit and the others
`black_box`      1 - accuracy and 1 - F1, for searches that need no gradient
"""

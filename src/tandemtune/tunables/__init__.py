"""What may change in a model, as flat vectors, one per block; one file each, with the options beside it.

`base`     the interface
`lora`     low-rank terms beside projections            `beside`   LoRA beside a prompt of words
`prompt`   vectors before the text, at every layer, too `adapter`  a bottleneck behind every layer
`bias`     biases alone                                 `full`     all weights; `weights`, `seeded`, `noise` search them
`peft`     any adapter of the PEFT library              `demonstrations`  solved examples before the text
`nothing`  the model as it is
"""

"""What may change in a model, as flat vectors, one per block.

`base`   the interface
`lora`   low-rank terms beside the query and key projections of every layer
"""

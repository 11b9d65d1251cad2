"""Optimizers see vectors (or texts) and numbers, never a model.

`base`           the ask/tell interface, and what all optimizers share
`cmaes`          CMA-ES, full and separable
`fireworks`      LoTFWA, GFWA, BBFWA and dynFWA, in a box
`es`             OpenAI's evolution strategies, with full or low-rank noise
`spsa`           SPSA, as MeZO uses it
`random_search`  the yardstick
`gradient`       AdamW, Adam and SGD along gradients that are handed in
`genetic`        genetic search over texts
`descent`        one step of SGD or Adam, for `es` and `spsa`
"""

"""Optimizers see vectors and numbers, never a model.

`base`    the ask/tell interface
`cmaes`   CMA-ES, full and separable
"""

"""Executors: where the candidates of a generation are scored.

`base`      what a recipe says about it, and evaluators that cut a generation into shards on fixed boundaries
`local`     in this process
`ray`       by workers on any number of machines
`shared`    an evaluator whose candidates are scored by workers
`pool`      who is given which shard; knows nothing of Ray
`messages`  what is sent to a worker, without what it knows already
`worker`    what a worker does
"""

from tandemtune.executors.base import Executor

__all__ = ["Executor"]

"""Many runs side by side: methods x tasks x models x seeds, on the same rows and budgets.

`plan`     reads a plan and makes a complete recipe for each run
`expected` published scores that a plan names
`execute`  makes every run that has not ended, each in a process of its own (a fork of one that has read the model, where that can be)
`cluster`  the same on any number of machines
"""

from tandemtune.comparisons.cluster import on_cluster
from tandemtune.comparisons.execute import StoppedError, check_plan, execute, records_of
from tandemtune.comparisons.plan import Plan, read_plan

__all__ = ["Plan", "StoppedError", "check_plan", "execute", "on_cluster", "read_plan", "records_of"]

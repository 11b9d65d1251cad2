"""The only wiring: a recipe becomes a task, a model with parameters beside it, an evaluator, and a search over them.

`task`       rows, template and label words; what can be checked without a model
`scorer`     the model with parameters beside it
`problem`    both with few-shot rows; what is checked before a run begins
`races`      what races will take of a run's tokens
`stages`     how long a search is, and in which order
`phases`     an optimizer around a point, for one stage
`search`     the search over a run's folder
`proposals`  who proposes points to go on from
"""

from tandemtune.wiring.phases import make_phase
from tandemtune.wiring.problem import check_rows, check_start, make_problem
from tandemtune.wiring.proposals import brief_of, check_proposer, check_proposer_again, graded, proposing, try_mentor
from tandemtune.wiring.scorer import load_backbone, make_scorer
from tandemtune.wiring.search import make_search
from tandemtune.wiring.stages import make_stages, outline, planned
from tandemtune.wiring.task import (
    as_searched,
    candidate_tasks,
    check,
    check_packages,
    hidden_columns,
    in_each,
    joined,
    make_task,
    task_of_run,
    with_length,
)

__all__ = [
    "as_searched",
    "brief_of",
    "candidate_tasks",
    "check",
    "check_packages",
    "check_proposer",
    "check_proposer_again",
    "check_rows",
    "check_start",
    "graded",
    "hidden_columns",
    "in_each",
    "joined",
    "load_backbone",
    "make_phase",
    "make_problem",
    "make_scorer",
    "make_search",
    "make_stages",
    "make_task",
    "outline",
    "planned",
    "proposing",
    "task_of_run",
    "try_mentor",
    "with_length",
]

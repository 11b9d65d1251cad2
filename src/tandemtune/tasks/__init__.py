"""Tasks: labelled rows, cloze templates, label words and metrics; no part of it knows a model.

`templates` parses prompts, `files` reads rows, `fewshot` draws them by seed, `metrics` scores classes, `base`
puts them together as `Task`, and `catalogue` holds one row for each known data set.
"""

from tandemtune.tasks.base import Task
from tandemtune.tasks.catalogue import TASKS, HubSource, TaskRow, build_task, get
from tandemtune.tasks.fewshot import draw, split, subsample
from tandemtune.tasks.files import check_source, read_examples
from tandemtune.tasks.metrics import METRICS, score
from tandemtune.tasks.templates import Template

__all__ = [
    "METRICS",
    "TASKS",
    "HubSource",
    "Task",
    "TaskRow",
    "Template",
    "build_task",
    "check_source",
    "draw",
    "get",
    "read_examples",
    "score",
    "split",
    "subsample",
]

"""Tasks: labelled rows, cloze templates, label words and metrics; no part of it knows a model.

`templates`   parses prompts
`table`       reads and writes whole files with all their columns (`encodings` and `delimited` know how programs write them)
`files`       turns the rows of a table into examples
`fewshot`     draws them by seed
`report`      counts what a user should know of them
`metrics`     scores classes
`base`        puts them together as `Task`
`joined`      is a task in several wordings at once
`catalogue`   holds one row for each known data set
"""

from tandemtune.tasks.base import Task
from tandemtune.tasks.catalogue import TASKS, HubSource, TaskRow, build_task, get
from tandemtune.tasks.fewshot import draw, hold_out, split, subsample
from tandemtune.tasks.files import check_source, examples_of, read_examples, texts_of
from tandemtune.tasks.metrics import METRICS, Metric, score
from tandemtune.tasks.report import DataReport, data_report
from tandemtune.tasks.table import Table, read_table, write_table
from tandemtune.tasks.templates import Template

__all__ = [
    "METRICS",
    "TASKS",
    "DataReport",
    "HubSource",
    "Metric",
    "Table",
    "Task",
    "TaskRow",
    "Template",
    "build_task",
    "check_source",
    "data_report",
    "draw",
    "examples_of",
    "get",
    "hold_out",
    "read_examples",
    "read_table",
    "score",
    "split",
    "subsample",
    "texts_of",
    "write_table",
]

"""A task that is answered with a text: rows with references, or rows that a reward judges."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from tandemtune.errors import DataError, UsageError
from tandemtune.rewards import base as rewards
from tandemtune.rewards.base import Reward, Written
from tandemtune.tasks.base import Task
from tandemtune.tasks.blanks import without_empty_rows
from tandemtune.tasks.files import examples_of
from tandemtune.tasks.judging import asked_once
from tandemtune.tasks.table import Source, Table, read_table, value_of
from tandemtune.tasks.wording import kind, nfc, show
from tandemtune.types import Example

ROW = "text"
"""What rows of such a task are counted as: they have no classes."""
METRIC = "token_f1"
"""What scores texts where a recipe names no metric."""
_WHOLE = re.compile(r"[+-]?(?:0|[1-9]\d{0,17})", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class TextTask(Task):
    """A task that is answered with a text.

    Args:
        answer_column: column of the reference, a text or a list of several; None where a reward judges without.
        max_new_tokens: longest answer.
        stop: texts that end an answer; they are no part of it.
        schema: JSON schema of an answer, for the metric that checks it.
        reward: the metric.
        seconds: time limit of one call of a reward function.
    """

    answers: ClassVar[str] = "texts"

    answer_column: str | None = None
    max_new_tokens: int = 64
    stop: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None
    reward: Reward = field(default_factory=lambda: rewards.get(METRIC))
    seconds: float = 60.0

    def __post_init__(self) -> None:
        column = self.answer_column
        composed: dict[str, Any] = {
            "labels": (ROW,),
            "words": {},
            "metric": self.reward.name,
            "reward": asked_once(self.reward),
            "answer_column": None if column is None else nfc(column),
        }
        for name, value in composed.items():
            object.__setattr__(self, name, value)

    def read_answers(self, example: Example, most: int) -> Sequence[str]:
        """The first references."""
        return example.references[:most]

    def read_of(self, tokens: int) -> int:
        """All, since a mark stands behind them, of a text that is not too long."""
        return min(tokens, self.max_new_tokens)

    def answer_to(self, example: Example) -> str:
        """The first reference.

        Raises:
            DataError: the row has none.
        """
        if not example.references:
            raise DataError("a row without a reference cannot be shown as solved: name their column in [task] answer")
        return example.references[0]

    @property
    def answer_room(self) -> int:
        """Tokens that may be written."""
        return self.max_new_tokens

    @property
    def has_references(self) -> bool:
        """Whether rows have right answers."""
        return self.answer_column is not None

    @property
    def needed(self) -> tuple[tuple[str, str], ...]:
        """The answer, where a column holds it."""
        return () if self.answer_column is None else (("answer", self.answer_column),)

    def gold(self, examples: Sequence[Example]) -> list[int]:
        """All rows are of one kind."""
        return [0] * len(examples)

    def written(self, prompts: Sequence[str], completions: Sequence[str], examples: Sequence[Example]) -> Written:
        """Texts with what they are judged by.

        Args:
            prompts: the template with the texts of each row, whole [N].
            completions: what it wrote [N].
            examples: the rows [N].
        """
        rows = [{**example.columns, **example.numbers} for example in examples]
        names = dict.fromkeys(name for row in rows for name in row)
        first = self.template.fields[0]
        return Written(
            prompts,
            completions,
            references=[example.references for example in examples],
            columns={name: [row.get(name) for row in rows] for name in names},
            settings=self.settings,
            rows=[f"the row with {first} {show(example.fields[first])}" for example in examples],
            questions=() if self.chat is None else self._asked(prompts, examples),
        )

    def _asked(self, prompts: Sequence[str], examples: Sequence[Example]) -> list[str]:
        """What was asked, without a model's form of conversation around it."""
        if self.question is None:
            return list(prompts)
        found = [self.question.render(example.fields, "") for example in examples]
        return [one.text[: one.mask[0]].rstrip() for one in found]

    @property
    def settings(self) -> dict[str, Any]:
        """What rewards may ask of a task."""
        return {} if self.schema is None else {"answer_schema": self.schema}

    def reward_problems(self, reward: Reward) -> list[str]:
        """What a reward lacks here."""
        if reward.needs == "references" and not self.has_references:
            return [f"{reward.name}: compares with references, but [task] answer names no column of them"]
        if reward.needs not in ("", "references") and reward.needs not in self.settings:
            return [f"{reward.name}: needs [task] {reward.needs}"]
        return []

    def _label_problems(self) -> list[str]:
        return []

    def _template_problems(self) -> list[str]:
        if self.answer_column not in self.template.fields:
            return []
        return [
            f"template {str(self.template)!r}: shows the column {self.answer_column!r}, so the prompt would hold the answer"
        ]

    def _word_problems(self) -> list[str]:
        return []

    def _metric_problems(self) -> list[str]:
        return [f"metric {problem}" for problem in self.reward_problems(self.reward)]

    def _read(self, source: Source) -> list[Example]:
        table = without_empty_rows(read_table(source))
        return self.examples(self._without_blanks(source, table, self.needed))

    def examples(self, table: Table) -> list[Example]:
        """Rows of a table with their references and all columns.

        Raises:
            DataError: a row cannot be used; names the file, line and field.
        """
        rows = examples_of(table, fields=self.template.fields, label=None, labels=None)
        numbers = columns_of_numbers(table)
        found: list[Example] = []
        for index, row in enumerate(rows):
            at = f"{table.name}, {table.places[index]}"
            references = self._references(at, table, index)
            own = {name: values[index] for name, values in numbers.items()}
            found.append(Example(row.fields, ROW, references, dict(table.rows[index]), own))
        return found

    def _references(self, at: str, table: Table, index: int) -> tuple[str, ...]:
        if self.answer_column is None:
            return ()
        return references_of(f"{at}, field {show(self.answer_column)}", value_of(table, index, self.answer_column))


def columns_of_numbers(table: Table) -> dict[str, list[float]]:
    """Columns of a CSV or TSV file with a number in every row, by name; numbers with zeros in front (codes) are texts.

    Args:
        table: the rows; those of other files say themselves what is a number.
    """
    found: dict[str, list[float]] = {}
    if table.format.suffix not in (".csv", ".tsv"):
        return found
    for name in table.columns:
        cells = [str(row.get(name, "")).strip() for row in table.rows]
        if cells and all(map(_NUMBER.fullmatch, cells)):
            kind = int if all(map(_WHOLE.fullmatch, cells)) else float
            values = [kind(cell) for cell in cells]
            if all(map(math.isfinite, values)):
                found[name] = values
    return found


def references_of(at: str, value: Any) -> tuple[str, ...]:
    """The right answers that a cell holds: a text, a number, an object (as JSON), or a list of them.

    Args:
        at: file, row and field, for messages.
        value: of the cell.

    Raises:
        DataError: it is empty or something else.
    """
    several = [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
    found: list[str] = []
    for one in several:
        if isinstance(one, Mapping):
            text = json.dumps(one, ensure_ascii=False)
        elif isinstance(one, bool):
            text = "true" if one else "false"
        elif isinstance(one, int | float) and math.isfinite(one):
            text = str(one)
        elif isinstance(one, str):
            text = one.strip()
        else:
            raise DataError(f"{at}: expected a text or a list of texts, got {kind(one)} {show(one)}: correct the row")
        if text:
            found.append(text)
    if not found:
        raise DataError(f"{at}: no answer, expected a text or a list of texts: fill it in or delete the row")
    return tuple(found)


def schema_in(file: Path) -> Any:
    """The JSON schema that a file holds.

    Raises:
        ValueError: there is no such file, or no JSON in it.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"expected a JSON schema as a table, or a .json file with one; {str(file)!r} cannot be read as such: {error}"
        ) from None


def check_schema(schema: Any) -> str:
    """What is wrong with a JSON schema; empty if nothing is, or it cannot be told here."""
    try:
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import SchemaError
    except ImportError:
        return ""
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return f"answer_schema: {error.message}"
    return ""


def metric_of(name: str | None, seconds: float) -> Reward:
    """The metric of a text task.

    Args:
        name: of a reward, or where a function lies; None for the default.
        seconds: time limit of one call of a function.

    Raises:
        UsageError: there is none of that name.
    """
    try:
        return rewards.get(name or METRIC, seconds)
    except UsageError as error:
        raise UsageError(f"metric: {error}") from None

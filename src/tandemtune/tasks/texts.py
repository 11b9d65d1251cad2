"""A task that is answered with a text: rows with references, or rows that a reward judges."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from tandemtune.errors import DataError, UsageError
from tandemtune.rewards import base as rewards
from tandemtune.rewards.base import Length, Reward, Written
from tandemtune.rewards.finding import may_read
from tandemtune.rewards.objects import schema_problem
from tandemtune.tasks.base import Task
from tandemtune.tasks.blanks import says, without_empty_rows
from tandemtune.tasks.files import examples_of
from tandemtune.tasks.judging import asked_once
from tandemtune.tasks.number_columns import (
    DELIMITED,
    Column,
    Kind,
    as_before,
    columns_of,
    kinds_of,
    like_before,
    numbers_in,
    together,
)
from tandemtune.tasks.table import HUB, Source, Table, column_of, read_table, value_of
from tandemtune.tasks.wording import kind, nfc, show
from tandemtune.types import Example

ROW = "text"
"""What rows of such a task are counted as: they have no classes."""
METRIC = "token_f1"
"""What scores texts where a recipe names no metric."""


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
        likely: whether the likelihood of the labelled rows' references may be asked for, so that each of these rows needs one.
        judges: what texts are judged by beside the metric.
        known_kinds: what the columns of a finished run's labelled rows held, as `kinds_in` said then.
        length: of the run, for rewards that ask how far it is.
    """

    answers: ClassVar[str] = "texts"

    answer_column: str | None = None
    max_new_tokens: int = 64
    stop: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None
    reward: Reward = field(default_factory=lambda: rewards.get(METRIC))
    seconds: float = 60.0
    likely: bool = True
    judges: tuple[Reward, ...] = ()
    known_kinds: Mapping[str, Kind] = field(default_factory=dict)
    length: Length = field(default_factory=Length)

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
        """The answer, where a column holds it and something compares with it."""
        return self._answer if self._compared else ()

    @property
    def _answer(self) -> tuple[tuple[str, str], ...]:
        return () if self.answer_column is None else (("answer", self.answer_column),)

    @cached_property
    def _compared(self) -> bool:
        """Whether the metric or another judge reads references, or a function may do so."""
        names = ("references", str(self.answer_column))
        several = (self.reward, *self.judges)
        return any(one.needs == "references" or (one.code and may_read(one.code, names)) for one in several)

    def _needed_in(self, source: Source) -> tuple[tuple[str, str], ...]:
        """What the rows of a source need beside a text: labelled ones an answer, too, where its likelihood is asked for."""
        learned = self.likely and source in (self.train_source, self.dev_source)
        return self._answer if learned else self.needed

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
        rows = [*map(_cells, examples)]
        names = dict.fromkeys(name for row in rows for name in row)
        return Written(
            prompts,
            completions,
            references=[example.references for example in examples],
            columns={name: [row.get(name) for row in rows] for name in names},
            settings=self.settings,
            rows=[*map(self.row_named, examples)],
            questions=() if self.chat is None else self._asked(prompts, examples),
            system=None if self.chat is None else self.chat.system,
            length=self.length,
        )

    def _asked(self, prompts: Sequence[str], examples: Sequence[Example]) -> list[str]:
        """What was asked, without a model's form of conversation around it."""
        if self.question is None:
            return list(prompts)
        found = [self.question.render(example.fields, "") for example in examples]
        return [one.text[: one.mask[0]].rstrip() for one in found]

    def kinds_in(self, examples: Sequence[Example]) -> dict[str, Kind]:
        """What the columns of some rows hold, as rewards get them."""
        return kinds_of(map(_cells, examples))

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

    def notes(self) -> list[str]:
        """What a user should know of how the files are written, columns that hold numbers in some of them only included."""
        return [*super().notes(), *self.mixed_columns]

    @property
    def mixed_columns(self) -> list[str]:
        """Columns that hold numbers in one file and something else in another one, one sentence each."""
        asked = [name for name in self._columns if name not in (*self.template.fields, self.answer_column)]
        mixed = [name for name in asked if any(name in one and one[name].number for one in self._columns_by_file)]
        return [
            f"rewards get the column {show(name)} as texts, although one file has numbers only there: {odd}; correct that if it should be one"
            for name in mixed
            if (odd := self._columns[name].odd)
        ]

    @cached_property
    def _columns_by_file(self) -> list[dict[str, Column]]:
        """What the columns of each CSV and TSV file hold, where there are several of them that can be read."""
        sources = [one for one in (self.train_source, self.dev_source, self.test_source) if _delimited(one)]
        return [*self._readable(sources)] if len(set(sources)) > 1 else []

    def _readable(self, sources: Sequence[Source | None]) -> Iterator[dict[str, Column]]:
        for source in dict.fromkeys(sources):
            with suppress(DataError):  # which shows where the file's rows are wanted
                assert source is not None
                yield columns_of(self._table(source))

    @cached_property
    def _columns(self) -> dict[str, Column]:
        """The same of all of these files together; nothing where each file is on its own."""
        return together(self._columns_by_file)

    def _table(self, source: Source) -> Table:
        table, needed = without_empty_rows(read_table(source)), self._needed_in(source)
        if self.answer_column is not None and column_of(table, self.answer_column) is not None:
            needed = self._answer  # rows without one are left out where others have it, whatever reads it
        return self._without_blanks(source, table, needed)

    def _read(self, source: Source) -> list[Example]:
        table = self._table(source)
        columns = self._columns if _delimited(source) and self._columns else columns_of(table)
        return self._examples(table, columns, bool(self._needed_in(source)))

    def examples(self, table: Table) -> list[Example]:
        """Rows of a table with their references and all columns, for a function of the user's of the kinds that are known already.

        Raises:
            DataError: a row cannot be used; names the file, line and field.
        """
        columns = columns_of(table)
        if self.reward.code:
            known = self.known_kinds
            columns = as_before(columns, known) if _delimited(table) else like_before(table, known)
        return self._examples(table, columns, bool(self.needed))

    def _examples(self, table: Table, columns: Mapping[str, Column], answered: bool) -> list[Example]:
        rows = examples_of(table, fields=self.template.fields, label=None, labels=None)
        numbers = numbers_in(table, columns)
        found: list[Example] = []
        for index, row in enumerate(rows):
            references = self._references(row.at, table, index, answered)
            own = {name: values[index] for name, values in numbers.items()}
            found.append(Example(row.fields, ROW, references, dict(table.rows[index]), own, row.at))
        return found

    def _references(self, at: str, table: Table, index: int, needed: bool) -> tuple[str, ...]:
        if self.answer_column is None or not (needed or says(table, index, self.answer_column)):
            return ()
        return references_of(f"{at}, field {show(self.answer_column)}", value_of(table, index, self.answer_column))


def _cells(example: Example) -> dict[str, Any]:
    """All columns of a row as rewards get them."""
    return {**example.columns, **example.numbers}


def _delimited(source: Source | None) -> bool:
    """Whether rows lie in a file that holds everything as text."""
    if isinstance(source, Table):
        return source.format.suffix in DELIMITED
    return (
        isinstance(source, str | Path) and not str(source).startswith(HUB) and Path(source).suffix.lower() in DELIMITED
    )


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
        elif isinstance(one, int) or (isinstance(one, float) and math.isfinite(one)):
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
        problem = schema_problem(schema)
    except ImportError:
        return ""
    return problem and f"answer_schema: {problem}"


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

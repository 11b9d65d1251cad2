"""A task: rows, template, label words, metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from tandemtune.errors import DataError
from tandemtune.tasks.fewshot import draw, everything, split, subsample
from tandemtune.tasks.files import HUB, check_source, read_examples
from tandemtune.tasks.metrics import METRICS, score
from tandemtune.tasks.templates import Template
from tandemtune.types import Example, Split

_Picked = TypeVar("_Picked")
FULL_DEV = 32
"""Dev rows of each class beside all training rows, where nobody says otherwise."""


@dataclass(frozen=True)
class Task:
    """Everything about a task that no model is needed for.

    Args:
        name: short name for reports and folders.
        template: cloze template over the columns of the rows.
        labels: label names; their order fixes the class numbers.
        words: label words of each label.
        metric: a name in `METRICS`.
        train_source: path or ``hub:`` address of the rows that train (and dev) are drawn from.
        test_source: rows for the final report; None if there are none.
        dev_source: rows that dev is drawn from, in place of the training rows.
        label_column: column of the label.
        positive: the label that the metric "f1" counts.
        hub_columns: the column's name in ``hub:`` sources, where it differs, by its name here.
        hub_labels: the label's name in `labels`, by its name in ``hub:`` sources, where they differ.
    """

    name: str
    template: Template
    labels: tuple[str, ...]
    words: Mapping[str, tuple[str, ...]]
    metric: str
    train_source: str
    test_source: str | None = None
    dev_source: str | None = None
    label_column: str = "label"
    positive: str | None = None
    hub_columns: Mapping[str, str] = field(default_factory=dict)
    hub_labels: Mapping[str, str] = field(default_factory=dict)
    _cache: dict[str, tuple[Example, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def train_rows(self) -> tuple[Example, ...]:
        """Read all training rows, once per task.

        Raises:
            DataError: the source or one of its rows cannot be used.
        """
        return self._read_once(self.train_source)

    def split(self, k: int | Literal["all"], seed: int, *, dev_k: int | None = None) -> Split:
        """Draw the rows of one seed.

        Args:
            k: rows of each class to train on, or "all".
            seed: decides which ones.
            dev_k: rows of each class for dev; None means `k`, or 32 beside all.

        Returns:
            Train and dev, without a text in common. Dev comes from `dev_source` if there is one.

        Raises:
            DataError: a row cannot be used, or classes have too few rows.
        """
        if k == "all":
            dev = None if self.dev_source is None else self._read_once(self.dev_source)
            count = FULL_DEV if dev_k is None else dev_k
            return self._drawn(self.train_source, lambda rows: everything(rows, self.labels, count, seed, dev=dev))
        if self.dev_source is None:
            return self._drawn(self.train_source, lambda rows: split(rows, self.labels, k, seed, dev_k=dev_k))
        train = self._drawn(self.train_source, lambda rows: split(rows, self.labels, k, seed, dev_k=0)).train
        dev_k = k if dev_k is None else dev_k
        if dev_k == 0:
            return Split(train, ())
        return Split(
            train,
            self._drawn(self.dev_source, lambda rows: draw(rows, self.labels, dev_k, seed, avoid=train)),
        )

    def test(self, limit: int | None = None, seed: int = 0) -> list[Example]:
        """Read the test rows: to be called once, for the final report, never to choose anything.

        Args:
            limit: at most this many rows, chosen by the seed; None for all.
            seed: decides which ones.

        Raises:
            DataError: there is no test source, or it cannot be used.
        """
        if self.test_source is None:
            raise DataError(f"task {self.name!r} has no test rows: give it a test file")
        return subsample(self._read(self.test_source), limit, seed)

    def unlabelled(self, count: int, seed: int, split: Split) -> list[Example]:
        """A seeded sample of training rows that are in no part of a split, without their labels.

        Args:
            count: how many at most.
            seed: of the sample.
            split: rows that are left out, and others with the same texts.
        """
        taken = {tuple(sorted(example.fields.items())) for example in (*split.train, *split.dev)}
        rows = self._read_once(self.train_source)
        rest = [Example(row.fields) for row in rows if tuple(sorted(row.fields.items())) not in taken]
        return subsample(rest, count, seed)

    def label_index(self, label: str) -> int:
        """Class number of a label.

        Raises:
            DataError: the task has no such label.
        """
        if label not in self.labels:
            raise DataError(f"task {self.name!r} has no label {label!r}, it has {', '.join(self.labels)}")
        return self.labels.index(label)

    def gold(self, examples: Sequence[Example]) -> list[int]:
        """Class numbers of labelled examples.

        Raises:
            DataError: an example has no label, or one that the task does not have.
        """
        numbers = {label: index for index, label in enumerate(self.labels)}
        for index, example in enumerate(examples):
            if example.label not in numbers:
                raise DataError(
                    f"example {index + 1} has the label {example.label!r}, expected one of {list(self.labels)}"
                )
        return [numbers[str(example.label)] for example in examples]

    def score(self, predictions: Sequence[int], gold: Sequence[int]) -> float:
        """Score predictions with the task's metric.

        Args:
            predictions: predicted class number of each row.
            gold: true class number of each row.

        Returns:
            A number from 0 to 1.

        Raises:
            UsageError: the two do not fit together, or the metric cannot be used.
        """
        positive = None if self.positive is None else self.label_index(self.positive)
        return score(self.metric, predictions, gold, len(self.labels), positive)

    def check(self) -> list[str]:
        """Find the problems that show without a model; reads all training rows, never the test rows.

        Returns:
            One readable sentence for each problem; empty if there are none.
        """
        problems = [*self._label_problems(), *self._word_problems(), *self._metric_problems()]
        for source in (self.test_source, self.dev_source):
            if source is not None:
                problems += _problem(check_source, source)
        if self.test_source is not None and self.test_source in (self.train_source, self.dev_source):
            problems.append(f"test: {self.test_source} is also a source of training or dev rows, so no row is unseen")
        if len(set(self.labels)) == len(self.labels):
            problems += _problem(self._read_once, self.train_source)
        return problems

    def _label_problems(self) -> list[str]:
        problems = []
        if len(self.labels) < 2:
            problems.append(f"labels: {list(self.labels)}, expected at least two")
        if len(set(self.labels)) != len(self.labels):
            twice = sorted({label for label in self.labels if self.labels.count(label) > 1})
            problems.append(f"labels: {', '.join(map(repr, twice))} named more than once")
        if any(not label.strip() for label in self.labels):
            problems.append("labels: an empty name, expected a word for every label")
        if self.label_column in self.template.fields:
            problems.append(
                f"template {str(self.template)!r}: shows the label column {self.label_column!r}, "
                "so the prompt would hold the answer"
            )
        return problems

    def _word_problems(self) -> list[str]:
        problems = []
        owners: dict[str, str] = {}
        for label in dict.fromkeys(self.labels):
            if not self.words.get(label):
                problems.append(f"label {label!r}: no label word, expected at least one")
            for word in self.words.get(label, ()):
                if not word.strip():
                    problems.append(f"label {label!r}: an empty label word {word!r}")
                elif any(char in word for char in "{}\n\r"):
                    problems.append(f"label {label!r}: label word {word!r} holds a brace or a line break")
                owner = owners.setdefault(word, label)
                if owner != label:
                    problems.append(f"label word {word!r}: used for both {owner!r} and {label!r}")
        problems += [
            f"label words for {label!r}: no such label, expected one of {', '.join(map(repr, self.labels))}"
            for label in self.words
            if label not in self.labels
        ]
        return problems

    def _metric_problems(self) -> list[str]:
        if self.metric not in METRICS:
            return [f"metric {self.metric!r}: not known, expected one of {', '.join(METRICS)}"]
        if self.metric == "f1" and self.positive is None:
            return ["metric 'f1': needs a positive label, the one whose F1 counts"]
        if self.positive is not None and self.positive not in self.labels:
            return [f"positive label {self.positive!r}: not one of the labels {', '.join(self.labels)}"]
        return []

    def _drawn(self, source: str, pick: Callable[[Sequence[Example]], _Picked]) -> _Picked:
        """Draw from a source's rows; an error names the source."""
        rows = self._read_once(source)
        try:
            return pick(rows)
        except DataError as error:
            raise DataError(f"{source}: {error}") from None

    def _read_once(self, source: str) -> tuple[Example, ...]:
        if source not in self._cache:
            self._cache[source] = tuple(self._read(source))
        return self._cache[source]

    def _read(self, source: str) -> list[Example]:
        if not source.startswith(HUB):
            return read_examples(source, fields=self.template.fields, label=self.label_column, labels=self.labels)
        columns = {self.hub_columns.get(name, name): name for name in self.template.fields}
        rows = read_examples(
            source,
            fields=list(columns),
            label=self.hub_columns.get(self.label_column, self.label_column),
            labels=[*self.hub_labels, *(label for label in self.labels if label not in self.hub_labels)],
        )
        return [
            Example(
                {columns[column]: text for column, text in row.fields.items()},
                self.hub_labels.get(str(row.label), row.label),
            )
            for row in rows
        ]


def _problem(step: Callable[[str], object], source: str) -> list[str]:
    try:
        step(source)
    except DataError as error:
        return [str(error)]
    return []

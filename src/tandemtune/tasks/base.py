"""A task: rows, template, label words, metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

import tandemtune.tasks.metrics as metrics
from tandemtune.errors import DataError
from tandemtune.tasks.blanks import without_blank_rows
from tandemtune.tasks.chat import Chat
from tandemtune.tasks.fewshot import draw, everything, hold_out, others, shared_out, split, subsample, text_key
from tandemtune.tasks.files import examples_of
from tandemtune.tasks.metrics import Metric
from tandemtune.tasks.problems import label_problems, metric_problems, word_problems
from tandemtune.tasks.report import CountTokens, DataReport, data_report
from tandemtune.tasks.table import HUB, Source, Table, check_source, columns_in, read_table
from tandemtune.tasks.templates import Template
from tandemtune.tasks.wording import nfc, show
from tandemtune.types import Example, Split

_Picked = TypeVar("_Picked")
BlankRows = Literal["refuse", "leave-out"]
FULL_DEV = 32
"""Dev rows of each class beside all training rows, where nobody says otherwise."""


@dataclass(frozen=True)
class Task:
    """Everything about a task that no model is needed for.

    Labels, label words and the names of columns are kept with composed accents (NFC), however they were written.

    Args:
        name: short name for reports and folders.
        template: cloze template over the columns of the rows.
        labels: label names; their order fixes the class numbers.
        words: label words of each label.
        metric: a name in `METRICS`; the name of `own_metric` where there is one.
        train_source: path or ``hub:`` address of the rows that train (and dev) are drawn from, or a `Table` in memory.
        test_source: rows for the final report; None if there are none.
        dev_source: rows that dev is drawn from, in place of the training rows.
        label_column: column of the label.
        positive: the label that the metric "f1" counts.
        hub_columns: the column's name in ``hub:`` sources, where it differs, by its name here.
        hub_labels: the label's name in `labels`, by its name in ``hub:`` sources, where they differ.
        test_share: share of the training rows of each class that are set aside for the final report, in place of
            `test_source`: the same ones whatever the seed, and none whose text is trained on or chosen by.
        own_metric: a metric that is in no list, in place of a name.
        blank_rows: what becomes of rows without a text, label or answer: an error, or they are left out.
        chat: how the template is asked in a model's own form of conversation; None where it is asked as it is.
        further: columns that are read beside the template's, for other templates of the recipe.
    """

    answers: ClassVar[str] = "labels"
    """What an answer is, see `tandemtune.answers`."""

    name: str
    template: Template
    labels: tuple[str, ...]
    words: Mapping[str, tuple[str, ...]]
    metric: str
    train_source: Source
    test_source: Source | None = None
    dev_source: Source | None = None
    label_column: str = "label"
    positive: str | None = None
    hub_columns: Mapping[str, str] = field(default_factory=dict)
    hub_labels: Mapping[str, str] = field(default_factory=dict)
    test_share: float | None = None
    own_metric: Metric | None = None
    blank_rows: BlankRows = "refuse"
    chat: Chat | None = None
    further: tuple[str, ...] = ()
    _cache: dict[Source, tuple[Example, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _open: dict[Source, tuple[Example, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _notes: dict[Source, tuple[str, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        composed = {
            "labels": tuple(map(nfc, self.labels)),
            "words": {nfc(label): tuple(map(nfc, words)) for label, words in self.words.items()},
            "label_column": nfc(self.label_column),
            "positive": None if self.positive is None else nfc(self.positive),
            "metric": self.metric if self.own_metric is None else self.own_metric.name,
        }
        for name, value in composed.items():
            object.__setattr__(self, name, value)

    def as_recorded(self, template: str, words: Mapping[str, tuple[str, ...]]) -> Task:
        """The task with the template and label words that a run has begun with."""
        chat = None if self.chat is None else replace(self.chat, asked=True)
        return replace(self, template=Template.parse(template), words=words, chat=chat)

    @cached_property
    def question(self) -> Template | None:
        """The template that the user asks in a conversation; None where there is none."""
        return None if self.chat is None else self.chat.question_in(self.template)

    @property
    def wordings(self) -> tuple[Task, ...]:
        """The task with each of the templates that a row is asked with; just itself."""
        return (self,)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns of texts that an unlabelled row needs."""
        return tuple(dict.fromkeys((*self.template.fields, *self.further)))

    @property
    def optional(self) -> tuple[str, ...]:
        """Those of the inputs that a row may lack."""
        return ()

    @property
    def needed(self) -> tuple[tuple[str, str], ...]:
        """What a row has to have beside a text, "label" or "answer", each with its column."""
        return (("label", self.label_column),)

    @property
    def first_pieces(self) -> Mapping[str, tuple[str, ...]]:
        """Words of which the first piece stands for a label, by label; empty where answers are read whole."""
        return self.words

    def read_answers(self, example: Example, most: int) -> Sequence[str]:
        """Answers that the model reads behind a row's prompt to say how likely they are; none where the prompt alone is read.

        Args:
            example: the row.
            most: references of a row that are read at most.
        """
        return ()

    def read_of(self, tokens: int) -> int:
        """Tokens that are read of an answer of so many: the last one predicts nothing."""
        return tokens - 1

    def answer_to(self, example: Example) -> str:
        """The right answer of a labelled row, as the model should give it.

        Raises:
            DataError: the row has none.
        """
        return self.words[self.labels[self.label_index(str(example.label))]][0]

    @property
    def answer_room(self) -> int:
        """Tokens of the longest answer that stands behind a prompt; 0 where none does."""
        return 0

    @property
    def has_test(self) -> bool:
        """Whether there are rows for the final report."""
        return self.test_source is not None or self.test_share is not None

    @property
    def shared_texts(self) -> tuple[str, ...] | None:
        """Texts that the model reads once for all rows together; None where it reads the rows."""
        return None

    def without_test(self) -> Task:
        """The task without a file of test rows; rows that are set aside stay so."""
        return self if self.test_share is not None else replace(self, test_source=None)

    def train_rows(self) -> tuple[Example, ...]:
        """All training rows but those that are set aside for test; read once per task.

        Raises:
            DataError: the source or one of its rows cannot be used.
        """
        return self._open_rows(self.train_source)

    def split(
        self,
        k: int | Literal["all"],
        seed: int,
        *,
        dev_k: int | None = None,
        short: Literal["refuse", "share"] = "refuse",
    ) -> Split:
        """Draw the rows of one seed.

        Args:
            k: rows of each class to train on, or "all".
            seed: decides which ones.
            dev_k: rows of each class for dev; None means `k`, or 32 beside all.
            short: what becomes of classes with fewer rows: an error, or at most half of their rows become dev.

        Returns:
            Train and dev, without a text in common. Dev comes from `dev_source` if there is one.

        Raises:
            DataError: a row cannot be used, or classes have too few rows.
        """
        count = (FULL_DEV if k == "all" else k) if dev_k is None else dev_k
        if short == "share" and self.dev_source is None:
            return self._drawn(self.train_source, lambda rows: shared_out(rows, self.labels, k, count, seed))
        if self.dev_source is None:
            if k == "all":
                return self._drawn(self.train_source, lambda rows: everything(rows, self.labels, count, seed))
            return self._drawn(self.train_source, lambda rows: split(rows, self.labels, k, seed, dev_k=count))
        if k == "all":
            dev = self._drawn_dev(count, seed, ())
            return Split(self._drawn(self.train_source, lambda rows: others(rows, self.labels, seed, dev)), dev)
        train = self._drawn(self.train_source, lambda rows: split(rows, self.labels, k, seed, dev_k=0)).train
        return Split(train, self._drawn_dev(count, seed, train))

    def test(self, limit: int | None = None, seed: int = 0) -> list[Example]:
        """The test rows: to be scored once, for the final report, never to choose anything.

        Args:
            limit: at most this many rows, chosen by the seed, each label with its share; None for all.
            seed: decides which ones.

        Raises:
            DataError: there are no test rows, or they cannot be used.
        """
        return subsample(self._test_rows(), limit, seed)

    def report(
        self, split: Split | None = None, *, count_tokens: CountTokens | None = None, limit: int | None = None
    ) -> DataReport:
        """Count what a user should know of the rows before a run.

        Args:
            split: the rows that a run draws; None where they are not drawn yet.
            count_tokens: tokens of a row's whole prompt, uncut; None counts none.
            limit: longest prompt that is not cut; needed with `count_tokens`.

        Raises:
            DataError: rows cannot be read.
        """
        parts: dict[str, Sequence[Example]] = {"train": self.train_rows()}
        sources = {"train": _short(self.train_source)}
        if self.dev_source is not None:
            parts["dev"], sources["dev"] = self._open_rows(self.dev_source), _short(self.dev_source)
        if self.has_test:
            parts["test"] = self._test_rows()
            sources["test"] = _short(self.train_source if self.test_source is None else self.test_source)
        used: dict[str, Sequence[Example]] = {}
        if split is not None:
            used = {"train": split.train, "dev": split.dev}
            if self.dev_source is None:
                used = {"train": (*split.train, *split.dev)}
        return data_report(parts, sources=sources, used=used, count_tokens=count_tokens, limit=limit)

    def row_named(self, example: Example) -> str:
        """What messages call a row: by its first text, and where it stands."""
        first = self.template.fields[0]
        where = example.at and f" in {example.at}"
        return f"the row with {first} {show(example.fields[first])}{where}"

    def notes(self) -> list[str]:
        """What a user should know about how the files that were read so far are written, one sentence each."""
        return [note for notes in self._notes.values() for note in notes]

    def unlabelled(self, count: int, seed: int, split: Split) -> list[Example]:
        """A seeded sample of training rows that are in no part of a split, without their labels.

        Args:
            count: how many at most.
            seed: of the sample.
            split: rows that are left out, and others with the same texts.
        """
        taken = {tuple(sorted(example.fields.items())) for example in (*split.train, *split.dev)}
        rows = self.train_rows()
        rest = [Example(row.fields, at=row.at) for row in rows if tuple(sorted(row.fields.items())) not in taken]
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
            A number within the metric's bounds, from 0 to 1 for those that have a name.

        Raises:
            UsageError: the two do not fit together, or the metric cannot be used.
        """
        positive = None if self.positive is None else self.label_index(self.positive)
        return (self.own_metric or metrics.get(self.metric))(predictions, gold, self.labels, positive)

    def check(self) -> list[str]:
        """Find the problems that show without a model. Reads all rows, those of test too: what is wrong with them must not
        come up when the search is over.

        Returns:
            One readable sentence for each problem; empty if there are none.
        """
        problems = [*self._label_problems(), *self.wording_problems(), *self._metric_problems()]
        sources = [source for source in (self.train_source, self.dev_source, self.test_source) if source is not None]
        if self.test_source is not None and self.test_source in (self.train_source, self.dev_source):
            problems.append(
                f"test: {_named(self.test_source)} is also a source of training or dev rows, so no row is unseen"
            )
        readable = len(set(self.labels)) == len(self.labels)
        for source in dict.fromkeys(sources):
            problems += _problem(self._read_once if readable else check_source, source)
        if self.test_share is not None:
            problems += self._share_problems(bool(problems))
        return problems

    def _share_problems(self, others: bool) -> list[str]:
        if self.test_source is not None:
            return [f"test_share: {self.test_share}, but there is a test file already: leave one of the two out"]
        return [] if others else _problem(lambda _: self._test_rows(), self.train_source)

    def _label_problems(self) -> list[str]:
        return label_problems(self.labels)

    def wording_problems(self) -> list[str]:
        """What is wrong with the template and its label words, one sentence each."""
        return [*self._template_problems(), *self._word_problems()]

    def _template_problems(self) -> list[str]:
        if self.label_column not in self.template.fields:
            return []
        return [
            f"template {str(self.template)!r}: shows the label column {self.label_column!r}, so the prompt would hold the answer"
        ]

    def _word_problems(self) -> list[str]:
        return word_problems(self.labels, self.words)

    def _metric_problems(self) -> list[str]:
        return metric_problems(self.own_metric or self.metric, self.labels, self.positive)

    def _drawn(self, source: Source, pick: Callable[[Sequence[Example]], _Picked]) -> _Picked:
        """Draw from a source's rows; an error names the source."""
        rows = self._open_rows(source)
        try:
            return pick(rows)
        except DataError as error:
            raise DataError(f"{_named(source)}: {error}") from None

    def _drawn_dev(self, count: int, seed: int, avoid: Sequence[Example]) -> tuple[Example, ...]:
        assert self.dev_source is not None
        if not count:
            return ()
        return self._drawn(self.dev_source, lambda rows: draw(rows, self.labels, count, seed, avoid=avoid))

    def _test_rows(self) -> tuple[Example, ...]:
        if self.test_source is not None:
            return self._read_once(self.test_source)
        if self.test_share is None:
            raise DataError(f"task {self.name!r} has no test rows: set test to a file, or test_share")
        return self._set_aside

    @cached_property
    def _set_aside(self) -> tuple[Example, ...]:
        """The rows that `test_share` takes from the training rows."""
        assert self.test_share is not None
        rows = self._read_once(self.train_source)
        try:
            return hold_out(rows, self.labels, self.test_share, seed=0)[1]
        except DataError as error:
            raise DataError(f"{_named(self.train_source)}: {error}") from None

    def _open_rows(self, source: Source) -> tuple[Example, ...]:
        """The rows of a source that may be trained on and chosen by: all whose text is not set aside for test."""
        if self.test_share is None or self.test_source is not None:
            return self._read_once(source)
        if source not in self._open:
            held = {text_key(row) for row in self._set_aside}
            self._open[source] = tuple(row for row in self._read_once(source) if text_key(row) not in held)
        return self._open[source]

    def _read_once(self, source: Source) -> tuple[Example, ...]:
        if source not in self._cache:
            self._cache[source] = tuple(self._read(source))
        return self._cache[source]

    def _read(self, source: Source) -> list[Example]:
        if not (isinstance(source, str) and source.startswith(HUB)):
            only = [column for name in (*self.inputs, self.label_column) for column in columns_in(name)]
            table = self._without_blanks(source, read_table(source, only=list(dict.fromkeys(only))), self.needed)
            return examples_of(
                table, fields=self.inputs, label=self.label_column, labels=self.labels, optional=self.optional
            )
        names = {name: self.hub_columns.get(name, name) for name in (*self.inputs, self.label_column)}
        needed = [(what, names[column]) for what, column in self.needed]
        texts = [names[name] for name in self.template.fields]
        rows = examples_of(
            self._without_blanks(source, read_table(source), needed, texts),
            fields=[names[name] for name in self.inputs],
            label=names[self.label_column],
            labels=[*self.hub_labels, *(label for label in self.labels if label not in self.hub_labels)],
            optional=[names[name] for name in self.optional],
        )
        return [
            replace(
                row,
                fields={name: row.fields[names[name]] for name in self.inputs if names[name] in row.fields},
                label=self.hub_labels.get(str(row.label), row.label),
            )
            for row in rows
        ]

    def _without_blanks(
        self, source: Source, table: Table, needed: Sequence[tuple[str, str]], texts: Sequence[str] | None = None
    ) -> Table:
        """A table as the task takes it: where blank rows are left out, without these. What is odd about it is noted."""
        if self.blank_rows == "leave-out":
            shown = self.template.fields if texts is None else texts
            table = without_blank_rows(table, shown, needed, self.labels, self.optional)
        self._notes[source] = table.notes
        return table


def _named(source: Source) -> str:
    return source.name if isinstance(source, Table) else str(source)


def _short(source: Source) -> str:
    """The name of a source without its folder, for what may be shown to others."""
    name = _named(source)
    return name if name.startswith(HUB) else Path(name).name


def _problem(step: Callable[[Source], object], source: Source) -> list[str]:
    try:
        step(source)
    except DataError as error:
        return [str(error)]
    return []

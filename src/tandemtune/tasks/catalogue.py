"""The known tasks, one row each: columns, templates, label words, metric, where the rows are found."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from tandemtune.errors import DataError, UsageError
from tandemtune.plugins import members, register
from tandemtune.tasks.base import Task
from tandemtune.tasks.metrics import Metric
from tandemtune.tasks.table import HUB, Source
from tandemtune.tasks.templates import Template
from tandemtune.tasks.wording import nfc

Kind = Literal["masked", "causal", "seq2seq"]
Words = Mapping[str, tuple[str, ...]]
FILE_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class HubSource:
    """Where a task's rows lie on a data hub, and what differs there.

    Args:
        name: data set, for example "nyu-mll/glue".
        config: its configuration; None for the default.
        train: split to draw few-shot rows from.
        test: split with public labels for the final report.
        columns: the hub's column name by ours, where they differ.
        labels: our label name by the hub's, where they differ.
    """

    name: str
    config: str | None = None
    train: str = "train"
    test: str = "test"
    columns: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    def address(self, split: str) -> str:
        """The source string of a split, as `read_examples` takes it.

        Args:
            split: name of the split.

        Returns:
            For example ``hub:nyu-mll/glue@sst2:train``.
        """
        config = f"@{self.config}" if self.config else ""
        return f"{HUB}{self.name}{config}:{split}"


@dataclass(frozen=True)
class TaskRow:
    """One known task.

    Args:
        name: what a recipe calls it.
        summary: one line on what is decided.
        words: label words of each label, in the fixed order of the labels.
        masked: template for models with a mask token.
        causal: template for models that answer behind the text (causal, seq2seq); ends with ``{mask}``.
        metric: a name in `METRICS`.
        positive: the label that "f1" counts.
        causal_words: label words for models that answer behind the text, where they differ.
        stem: local files are called ``<stem>.train.jsonl`` and ``<stem>.test.jsonl``; "" means `name`.
        hub: where the rows lie on a data hub; None if they are not there.
        label_column: column of the label in local files.
    """

    name: str
    summary: str
    words: Words
    masked: str
    causal: str
    metric: str = "accuracy"
    positive: str | None = None
    causal_words: Words | None = None
    stem: str = ""
    hub: HubSource | None = None
    label_column: str = "label"

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names in their fixed order."""
        return tuple(self.words)

    def template(self, kind: Kind) -> Template:
        """The template for a kind of model.

        Args:
            kind: "masked", "causal" or "seq2seq".
        """
        return Template.parse(self.masked if kind == "masked" else self.causal)

    def words_for(self, kind: Kind) -> Words:
        """The label words for a kind of model.

        Args:
            kind: "masked", "causal" or "seq2seq".
        """
        return self.causal_words if kind != "masked" and self.causal_words is not None else self.words


def get(name: str) -> TaskRow:
    """Look up a known task.

    Args:
        name: its name, for example "sst2".

    Returns:
        Its row of the catalogue.

    Raises:
        UsageError: there is no such task; suggests the nearest name.
    """
    if name in TASKS:
        return TASKS[name]
    near = difflib.get_close_matches(name.lower().replace("-", "").replace("_", ""), TASKS, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise UsageError(f"unknown task {name!r}{hint}, expected one of {', '.join(TASKS)}")


def build_task(
    row: TaskRow | str,
    *,
    kind: Kind,
    data: str | Path | None = None,
    template: Template | str | None = None,
    words: Mapping[str, Sequence[str]] | None = None,
    metric: str | Metric | None = None,
    positive: str | None = None,
    train: Source | None = None,
    test: Source | None = None,
    dev: Source | None = None,
    label_column: str | None = None,
    test_share: float | None = None,
) -> Task:
    """Make a task from its row of the catalogue.

    Args:
        row: the row or its name.
        kind: the kind of model, "masked", "causal" or "seq2seq": it decides template and words.
        data: folder with ``<stem>.train.*`` and ``<stem>.test.*``; None takes the hub.
        template: in place of the row's template.
        words: in place of the row's label words; must name the same labels, may list them in any order.
        metric: in place of the row's metric.
        positive: in place of the row's positive label.
        train: in place of the training rows found in `data` or on the hub.
        test: likewise for the test rows.
        dev: rows to draw dev from; None draws it from the training rows.
        label_column: in place of the row's label column.
        test_share: share of the training rows to set aside for test, in place of the row's test rows.

    Returns:
        The task. No row has been read yet.

    Raises:
        DataError: the folder or a file in it is missing, or the row has no hub source.
        UsageError: unknown task or kind, or `words` for other labels.
    """
    if isinstance(row, str):
        row = get(row)
    if kind not in get_args(Kind):
        raise UsageError(f"kind {kind!r}: expected one of {', '.join(get_args(Kind))}")
    words = None if words is None else {nfc(label): own for label, own in words.items()}
    if words is not None and set(words) != set(row.labels):
        raise UsageError(
            f"task {row.name!r}: label words for {', '.join(map(repr, words))}, "
            f"expected them for {', '.join(map(repr, row.labels))}"
        )
    chosen = row.words_for(kind) if words is None else words
    parsed = Template.parse(template) if isinstance(template, str) else template or row.template(kind)
    return Task(
        name=row.name,
        template=parsed,
        labels=row.labels,
        words={label: tuple(chosen[label]) for label in row.labels},
        metric=metric if isinstance(metric, str) else row.metric,
        positive=positive or row.positive,
        train_source=_source(row, data, "train") if train is None else _as_source(train),
        test_source=_test_source(row, data, test, test_share),
        dev_source=None if dev is None else _as_source(dev),
        label_column=label_column or row.label_column,
        hub_columns=row.hub.columns if row.hub else {},
        hub_labels=row.hub.labels if row.hub else {},
        test_share=test_share,
        own_metric=metric if isinstance(metric, Metric) else None,
    )


def _as_source(source: Source) -> Source:
    return str(source) if isinstance(source, Path) else source


def _test_source(row: TaskRow, data: str | Path | None, test: Source | None, share: float | None) -> Source | None:
    if test is not None:
        return _as_source(test)
    return _source(row, data, "test") if share is None else None


def _source(row: TaskRow, data: str | Path | None, split: Literal["train", "test"]) -> str:
    if data is None:
        if row.hub is None:
            raise DataError(f"task {row.name!r} is on no hub: name a folder with its files, or the {split} file")
        return row.hub.address(row.hub.train if split == "train" else row.hub.test)
    folder = Path(data)
    if not folder.is_dir():
        state = "is a file" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {state}, expected a folder with the files of task {row.name!r}")
    names = [f"{row.stem or row.name}.{split}{suffix}" for suffix in FILE_SUFFIXES]
    for name in names:
        if (folder / name).is_file():
            return str(folder / name)
    raise DataError(
        f"{folder}: no {split} rows of task {row.name!r}, looked for {', '.join(names)}: "
        "add one of these files, or name the file in the recipe"
    )


_SENTIMENT: Words = {"negative": ("terrible",), "positive": ("great",)}
_SENTIMENT_CAUSAL: Words = {"negative": ("negative",), "positive": ("positive",)}
_YES_NO: Words = {"true": ("Yes",), "false": ("No",)}
_INFERENCE: Words = {"entailment": ("Yes",), "neutral": ("Maybe",), "contradiction": ("No",)}
_BOOLEANS = {"False": "false", "True": "true"}

_ROWS = (
    TaskRow(
        name="sst2",
        summary="Does a sentence of a film review praise or pan?",
        words=_SENTIMENT,
        causal_words=_SENTIMENT_CAUSAL,
        masked="{text} It was {mask}.",
        causal="Review: {text}\nSentiment: {mask}",
        hub=HubSource("nyu-mll/glue", "sst2", test="validation", columns={"text": "sentence"}),
    ),
    TaskRow(
        name="yelp",
        summary="Does a review of a business praise or pan? Long texts.",
        words=_SENTIMENT,
        causal_words=_SENTIMENT_CAUSAL,
        masked="{text} It was {mask}.",
        causal="Review: {text}\nSentiment: {mask}",
        hub=HubSource("fancyzhx/yelp_polarity", labels={"1": "negative", "2": "positive"}),
    ),
    TaskRow(
        name="movie-reviews",
        summary="Does a snippet of a film review praise or pan?",
        words=_SENTIMENT,
        causal_words=_SENTIMENT_CAUSAL,
        masked="{text} It was {mask}.",
        causal="Review: {text}\nSentiment: {mask}",
        hub=HubSource("cornell-movie-review-data/rotten_tomatoes", labels={"neg": "negative", "pos": "positive"}),
    ),
    TaskRow(
        name="agnews",
        summary="Which section of a newspaper does an article belong to?",
        words={
            "world": ("World",),
            "sports": ("Sports",),
            "business": ("Business",),
            "technology": ("Tech",),
        },
        causal_words={
            "world": ("World",),
            "sports": ("Sports",),
            "business": ("Business",),
            "technology": ("Technology",),
        },
        masked="{mask} News: {text}",
        causal="News: {text}\nSection: {mask}",
        hub=HubSource(
            "fancyzhx/ag_news",
            labels={"World": "world", "Sports": "sports", "Business": "business", "Sci/Tech": "technology"},
        ),
    ),
    TaskRow(
        name="dbpedia",
        summary="Which of 14 kinds of thing does an encyclopedia entry describe?",
        words={
            "company": ("company",),
            "school": ("school",),
            "artist": ("artist",),
            "athlete": ("athlete",),
            "politician": ("politician",),
            "transportation": ("transportation",),
            "building": ("building",),
            "nature": ("nature",),
            "village": ("village",),
            "animal": ("animal",),
            "plant": ("plant",),
            "album": ("album",),
            "film": ("film",),
            "book": ("book",),
        },
        masked="[ Category: {mask} ] {text}",
        causal="{text}\nCategory: {mask}",
        hub=HubSource(
            "fancyzhx/dbpedia_14",
            columns={"text": "content"},
            labels={
                "Company": "company",
                "EducationalInstitution": "school",
                "Artist": "artist",
                "Athlete": "athlete",
                "OfficeHolder": "politician",
                "MeanOfTransportation": "transportation",
                "Building": "building",
                "NaturalPlace": "nature",
                "Village": "village",
                "Animal": "animal",
                "Plant": "plant",
                "Album": "album",
                "Film": "film",
                "WrittenWork": "book",
            },
        ),
    ),
    TaskRow(
        name="trec",
        summary="What kind of answer does a question ask for?",
        words={
            "abbreviation": ("Expression",),
            "description": ("Description",),
            "entity": ("Entity",),
            "human": ("Human",),
            "location": ("Location",),
            "number": ("Number",),
        },
        causal_words={
            "abbreviation": ("abbreviation",),
            "description": ("description",),
            "entity": ("thing",),
            "human": ("person",),
            "location": ("place",),
            "number": ("number",),
        },
        masked="{mask} question: {text}",
        causal="Question: {text}\nThis question asks for a {mask}",
        hub=HubSource(
            "CogComp/trec",
            columns={"label": "coarse_label"},
            labels={
                "ABBR": "abbreviation",
                "DESC": "description",
                "ENTY": "entity",
                "HUM": "human",
                "LOC": "location",
                "NUM": "number",
            },
        ),
    ),
    TaskRow(
        name="mrpc",
        summary="Do two sentences say the same?",
        words={"different": ("No",), "equivalent": ("Yes",)},
        metric="f1",
        positive="equivalent",
        masked="{text} ? {mask} , {text_b}",
        causal="{text}\nQuestion: {text_b} Do both sentences mean the same?\nAnswer: {mask}",
        hub=HubSource(
            "nyu-mll/glue",
            "mrpc",
            columns={"text": "sentence1", "text_b": "sentence2"},
            labels={"not_equivalent": "different"},
        ),
    ),
    TaskRow(
        name="snli",
        summary="Does a sentence follow from the caption of a picture, contradict it, or neither?",
        words=_INFERENCE,
        masked="{text} ? {mask} , {text_b}",
        causal="{text}\nQuestion: {text_b} Yes, no or maybe?\nAnswer: {mask}",
        hub=HubSource("stanfordnlp/snli", columns={"text": "premise", "text_b": "hypothesis"}),
    ),
    TaskRow(
        name="rte",
        summary="Does a sentence follow from a text?",
        words={"entailment": ("Yes",), "not_entailment": ("No",)},
        masked="{text} ? {mask} , {text_b}",
        causal="{text}\nQuestion: {text_b} Yes or no?\nAnswer: {mask}",
        hub=HubSource(
            "nyu-mll/glue",
            "rte",
            test="validation",
            columns={"text": "sentence1", "text_b": "sentence2"},
        ),
    ),
    TaskRow(
        name="boolq",
        summary="What is the answer to a yes-or-no question about a passage?",
        words=_YES_NO,
        masked="{passage} Question: {question}? Answer: {mask}.",
        causal="{passage}\nQuestion: {question}?\nAnswer: {mask}",
        stem="superglue_boolq",
        hub=HubSource("aps/super_glue", "boolq", test="validation", labels=_BOOLEANS),
    ),
    TaskRow(
        name="cb",
        summary="Is the writer of a text committed to a clause in it?",
        words=_INFERENCE,
        masked="{premise} ? {mask} , {hypothesis}",
        causal="{premise}\nQuestion: {hypothesis}. Yes, no or maybe?\nAnswer: {mask}",
        stem="superglue_cb",
        hub=HubSource("aps/super_glue", "cb", test="validation"),
    ),
    TaskRow(
        name="copa",
        summary="Which of two sentences is the cause or effect of a third?",
        words={"0": ("First",), "1": ("Second",)},
        masked="{premise} What was the {question}? First: {choice1} Second: {choice2} Answer: {mask}.",
        causal="{premise} What was the {question}?\nFirst: {choice1}\nSecond: {choice2}\nAnswer: {mask}",
        stem="superglue_copa",
        hub=HubSource("aps/super_glue", "copa", test="validation", labels={"choice1": "0", "choice2": "1"}),
    ),
    TaskRow(
        name="wic",
        summary="Does a word mean the same in two sentences?",
        words=_YES_NO,
        masked='"{sentence1}" "{sentence2}" Same meaning of "{word}"? {mask}.',
        causal='{sentence1}\n{sentence2}\nDoes "{word}" mean the same in both sentences?\nAnswer: {mask}',
        stem="superglue_wic",
        hub=HubSource("aps/super_glue", "wic", test="validation", labels=_BOOLEANS),
    ),
    TaskRow(
        name="wsc",
        summary="Does a pronoun stand for a certain noun?",
        words=_YES_NO,
        masked='{text} Does "{span2_text}" mean "{span1_text}"? {mask}.',
        causal='{text}\nQuestion: Does "{span2_text}" refer to "{span1_text}"?\nAnswer: {mask}',
        stem="superglue_wsc",
        hub=HubSource("aps/super_glue", "wsc.fixed", test="validation", labels=_BOOLEANS),
    ),
)

for _row in _ROWS:
    register("task", _row.name)(_row)


class _Known(Mapping[str, TaskRow]):
    """All registered tasks, those of installed plug-ins among them."""

    def __getitem__(self, name: str) -> TaskRow:
        row: TaskRow = members("task")[name]
        return row

    def __iter__(self) -> Iterator[str]:
        return iter(members("task"))

    def __len__(self) -> int:
        return len(members("task"))


TASKS: Mapping[str, TaskRow] = _Known()

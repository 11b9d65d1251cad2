"""What a recipe makes of its rows, told before a run: rows used and idle, classes, cut texts, duplicates, label pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from tandemtune import wiring
from tandemtune.answers import answers_of
from tandemtune.answers.references import notes_on
from tandemtune.config import RunConfig
from tandemtune.errors import ConfigError, DataError, ModelError, TandemTuneError
from tandemtune.estimate import SAMPLE, Estimate, RowCosts, estimate
from tandemtune.models import hub
from tandemtune.models import load as loading
from tandemtune.models.answers import behind, stem_of, stops, unfit
from tandemtune.models.backbone import Kind
from tandemtune.models.conversations import in_conversation
from tandemtune.models.marks import as_words, special_tokens
from tandemtune.models.pace import Matrices, matrices
from tandemtune.models.prompts import (
    SHORTEST,
    UNBOUNDED,
    longest_of,
    no_room,
    no_room_beside,
    prompt_text,
    token_counter,
)
from tandemtune.models.spans import alike
from tandemtune.tasks.base import Task
from tandemtune.tasks.choices import ChoiceTask
from tandemtune.tasks.report import DataReport
from tandemtune.tasks.texts import TextTask
from tandemtune.tasks.verbalizers import Verbalizer, resolve
from tandemtune.types import Example


@dataclass(frozen=True)
class DataCard:
    """What a recipe makes of its rows.

    Args:
        rows: by part ("train", "dev", "test"), how many a run uses; those that there are not are left out.
        report: what the rows are like.
        pieces: the pieces of each label's words; None where the tokenizer does not lie on this machine.
        remarks: what a user should know of how files are read and words are cut.
        expected: what a run will cost at most; None where tokens cannot be counted.
    """

    rows: dict[str, int]
    report: DataReport
    pieces: dict[str, list[str]] | None
    remarks: tuple[str, ...]
    expected: Estimate | None = None

    def notes(self) -> list[str]:
        """One sentence for each thing that a user should know before a run."""
        return [*self.remarks, *self.report.notes(), *(self.expected.notes() if self.expected is not None else ())]

    def lines(self) -> list[str]:
        """The card as lines of text."""
        report = self.report
        idle = report.parts["train"].rows + (report.parts["dev"].rows if "dev" in report.parts else 0)
        idle -= self.rows["train"] + self.rows["dev"]
        used = ", ".join(f"{count:,} {name}" for name, count in self.rows.items())
        lines = [f"rows used: {used}; {idle:,} idle" if idle else f"rows used: {used}"]
        for name, part in report.parts.items():
            classes = ", ".join(f"{label} {count:,}" for label, count in sorted(part.classes.items()))
            told = f" ({classes})" if len(part.classes) > 1 else ""  # texts are all of one kind
            lines.append(f"{name}: {part.rows:,} rows in {part.source}{told}")
        lengths = {name: part.lengths for name, part in report.parts.items() if part.lengths is not None}
        for name, found in lengths.items():
            cut = f"{found.cut:,} cut" if found.cut else "none cut"
            lines.append(f"{name}: longest prompt {found.longest:,} tokens of {found.limit}, {cut}")
        if self.pieces is None:
            return [*lines, "tokens and label pieces: not counted, the model does not lie on this machine yet"]
        lines += [f"label {label!r}: pieces {', '.join(found)}" for label, found in self.pieces.items()]
        return [*lines, *(self.expected.lines() if self.expected is not None else [])]


def data_card(config: RunConfig, task: Task) -> DataCard:
    """Count what a recipe makes of its rows; nothing is downloaded.

    Args:
        config: the recipe.
        task: its task, checked.

    Raises:
        TandemTuneError: rows cannot be read, or label words not be told apart.
    """
    section = config.task
    split = task.split(section.shots, section.seed, dev_k=section.dev_shots, short=section.short_classes)
    tokens = _tokens(config, task)
    count, limit, pieces, notes = (
        (None, None, None, ()) if tokens is None else (tokens.count, tokens.limit, tokens.pieces, tokens.notes)
    )
    shared = task.shared_texts
    report = task.report(split, count_tokens=count if shared is None else None, limit=limit)
    rows: dict[str, Sequence[Example]] = {"train": split.train, "dev": split.dev}
    if task.has_test:
        rows["test"] = task.test(section.test_rows, section.seed)
    expected = None
    if tokens is not None:
        for row in (row for part in rows.values() for row in part):
            _check_choices(task, row, tokens)
        _check_views(config, task, tokens.model)
        templates = len(wiring.candidate_tasks(section, task, tokens.kind))
        if shared is None:
            most, known = answers_of(task).most_judged, [*split.train, *split.dev]
            costs = [_row_costs(one, tokens.task, tokens, known) for one in config.stretches]
            expected = estimate(config, rows, costs, tokens.model, templates, most)
        else:  # as if every part was one row
            once, all_of_them = {name: part[:1] for name, part in rows.items()}, sum(map(tokens.whole, shared))
            costs = [RowCosts(lambda row: all_of_them, lambda row: all_of_them)] * len(config.stretches)
            expected = estimate(config, once, costs, tokens.model)
    told = () if tokens is None else tokens.told([*split.train, *split.dev])
    remarks = (*task.notes(), *wiring.hidden_columns(config, split.train), *notes, *told)
    return DataCard({name: len(part) for name, part in rows.items()}, report, pieces, remarks, expected)


def _check_choices(task: Task, row: Example, tokens: _Tokens) -> None:
    """Refuse answers to choose from that the model will not read."""
    if not isinstance(task, ChoiceTask):
        return
    task.missing(row)
    for text in task.read_answers(row, 1):
        count = len(tokens.answer(text))
        if not 0 < count <= min(task.answer_room, tokens.room):
            raise unfit(text, count, task.answer_room, tokens.room, task.whose(row))


def _check_views(config: RunConfig, task: Task, model: Matrices) -> None:
    """Refuse views of a readout that a model does not have, as far as its configuration says how many layers it has."""
    if model.reading:
        encoder = model.reading if model.answering else None
        engine = answers_of(task).engine_type
        config.method.readout.check_views(engine, model.reading + model.answering, encoder)


def _row_costs(config: RunConfig, task: Task, tokens: _Tokens, rows: Sequence[Example]) -> RowCosts:
    """What rows of a task cost; `rows` tell what all of them begin with."""
    most, added = config.task.references, config.method.tunable.added_tokens
    mark = 1 if tokens.kind == "seq2seq" else 0  # what its decoder begins each answer with
    shares = tokens.shares and config.method.tunable.shares_beginnings
    shared = added + alike([tokens.ids(row) for row in rows[:SAMPLE]]) if shares else 0

    def prompt(row: Example) -> int:
        return min(tokens.count(row), tokens.limit) + added

    def answers(row: Example) -> list[int]:
        return [task.read_of(tokens.words(text)) for text in task.read_answers(row, most)]

    def whole(row: Example) -> int:
        read = answers(row)
        return max(1, len(read)) * (prompt(row) + mark) + sum(read)

    def own(row: Example) -> int:
        return prompt(row) + sum(answers(row)) - shared if shares else whole(row)

    if not isinstance(task, TextTask):
        return RowCosts(whole, own, shared)
    return RowCosts(whole, own, shared, prompt, task.answer_room, config.method.objective.judge(task) is not None)


@dataclass(frozen=True)
class _Tokens:
    """What counts tokens: of prompts, of words inside a text, of a text with the marks around it; the tokens of an answer behind a prompt; how many there may be, and of an answer,
    what is known of how right answers can be written, the pieces of label words and notes on them, and what is known of the model: whether prompts may share what they begin with, too."""

    count: Callable[[Example], int]
    ids: Callable[[Example], tuple[int, ...]]
    words: Callable[[str], int]
    whole: Callable[[str], int]
    answer: Callable[[str], tuple[int, ...]]
    limit: int
    room: int
    pieces: dict[str, list[str]]
    told: Callable[[Sequence[Example]], Iterator[str]]
    notes: tuple[str, ...]
    kind: Kind
    model: Matrices
    shares: bool
    task: Task


def _first_usable(
    config: RunConfig, task: Task, tokenizer: Any, kind: Kind
) -> tuple[Task, Verbalizer, tuple[str, ...]]:
    """The first of a recipe's templates whose label words the tokenizer knows, these words, and why others are passed over.

    Raises:
        TandemTuneError: there is none, or the only one cannot be used.
    """
    reasons: list[str] = []
    first: TandemTuneError | None = None
    for one in wiring.candidate_tasks(config.task, task, kind):
        asked = in_conversation(one, tokenizer, config.model.name, kind)
        try:
            found = resolve(tokenizer, asked.template, asked.first_pieces, alone=kind == "seq2seq")
        except (DataError, ModelError) as error:
            first = first or error
            reasons.append(f"template {str(one.template)!r} is passed over: {error}")
        else:
            return one, found, tuple(reasons)
    assert first is not None
    raise first


def _tokens(config: RunConfig, task: Task) -> _Tokens | None:
    """How tokens are counted; None without the tokenizer."""
    section = config.model
    place = loading.lies_here(section.name)
    if place is None:
        return None
    try:
        settings = loading.read_config(place, section.revision, local=True)
        tokenizer = loading.read_tokenizer(place, section.revision, local=True)
    except ModelError:
        if place == section.name:  # a hub id that is in no cache
            return None
        raise
    kind = section.kind or loading.kind_of(settings)
    usable, found, passed_over = _first_usable(config, task, tokenizer, kind)
    task = in_conversation(usable, tokenizer, section.name, kind)
    pieces = {
        label: [str(tokenizer.convert_ids_to_tokens(found.token_ids[position])) for position in members]
        for label, members in zip(found.labels, found.members, strict=True)
    }
    longest = longest_of(settings)
    left = longest - max(one.method.tunable.added_tokens for one in config.stretches)
    room = task.answer_room if isinstance(task, TextTask) and kind == "causal" else 0
    if room and left - room < SHORTEST:
        raise ConfigError([no_room_beside(room, longest)])
    limit, most = min(config.task.max_tokens, left - room), left - SHORTEST if kind == "causal" else UNBOUNDED
    count = token_counter(tokenizer, kind, task.template)
    if count(Example(dict.fromkeys(task.template.fields, ""))) > limit:
        raise no_room(task.template, limit, longest)

    def words(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def whole(text: str) -> int:
        return len(tokenizer(text, verbose=False)["input_ids"])

    stem, blank = stem_of(task.template, kind)
    special = tuple(special_tokens(tokenizer))

    @cache
    def answer(text: str) -> tuple[int, ...]:
        return behind(tokenizer, stem, as_words(blank + text, special))

    stop = stops(tokenizer, task.stop)[1] if isinstance(task, TextTask) else ()

    def told(rows: Sequence[Example]) -> Iterator[str]:
        right = [reference for row in rows for reference in row.references]
        return notes_on(right, tokenizer, answer, task.answer_room, stop)

    def ids(row: Example) -> tuple[int, ...]:
        read = tokenizer(prompt_text(tokenizer, kind, task.template, row.fields)[0], verbose=False)["input_ids"]
        return tuple(read[: count(row)])

    shares = kind == "causal" and loading.may_share(settings)
    return _Tokens(
        count,
        ids,
        words,
        whole,
        answer,
        limit,
        most,
        pieces,
        told,
        (*passed_over, *found.notes),
        kind,
        matrices(hub.folder(place, section.revision) or place, settings),
        shares,
        usable,
    )

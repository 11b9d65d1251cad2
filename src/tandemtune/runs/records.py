"""What a run writes down, as typed records: lines of the journal, facts, result and task card.

Everybody who writes or reads a run's files goes through this module. Losses that are NaN or infinite are None, since JSON has
no word for them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from tandemtune.errors import RunError

SCHEMA = 2
"""Number of the form in which records are written; a change that old readers would misread raises it."""
DIGITS = 6
"""Decimals of scores and losses in results."""

Loss = float | None


class Record(BaseModel):
    """Base of all records: immutable, complete, nothing that is not declared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def plain(self) -> dict[str, Any]:
        """The record as JSON has it; optional fields that are not set are left out."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @classmethod
    def read(cls, content: Mapping[str, Any], where: Path | str) -> Self:
        """A record out of JSON.

        Raises:
            RunError: the content is not such a record; names the file and the first field that is wrong.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise RunError(f"{where}: {_first_problem(error)}") from None


class Evaluation(Record):
    """Loss and metric of one point on one set of rows."""

    loss: Loss
    score: float


class Costs(Record):
    """What a run has spent so far.

    Args:
        candidates: points scored on the training rows.
        gradient_steps: gradients taken.
        forward: tokens times layers (in units of the mean layer) that ran forwards, for everything but the final scores.
        backward: the same backwards.
        generated: tokens written.
    """

    candidates: int = 0
    gradient_steps: int = 0
    forward: int = 0
    backward: int = 0
    generated: int = 0

    def __add__(self, other: Costs) -> Costs:
        return Costs(
            candidates=self.candidates + other.candidates,
            gradient_steps=self.gradient_steps + other.gradient_steps,
            forward=self.forward + other.forward,
            backward=self.backward + other.backward,
            generated=self.generated + other.generated,
        )

    def times(self, count: int) -> Costs:
        """The same so many times."""
        return Costs(
            candidates=count * self.candidates,
            gradient_steps=count * self.gradient_steps,
            forward=count * self.forward,
            backward=count * self.backward,
            generated=count * self.generated,
        )


class Gain(Record):
    """What a point adds to another one on the dev rows: the mean difference of their losses, row by row.

    Args:
        mean: loss at the point that is kept so far (at the end: where the search began), less the loss at the new one.
        standard_error: of the mean over rows.
        rows: dev rows.
        kept: whether the new point is kept.
    """

    mean: float
    standard_error: float
    rows: int
    kept: bool


class PromptRecord(Record):
    """A prompt that was scored: words, or a point made by noise.

    Args:
        text: what a reader sees.
        ids: its tokens; None for a point that is no words.
        loss: on the training rows.
        score: the metric on the training rows.
        distance: mean distance of the vectors it was read from to its tokens' embeddings; 0 for words of their own.
        soft_loss: loss of the vectors that it was read from.
        seed: of the noise; None for words.
        dev: loss and score on the dev rows, where they were looked at.
        probabilities: mean probability of each label on the training rows, by the vectors where it was read from some; None where
            nobody is told.
        steps: gradient steps from these words to the vectors that loss and score are of; 0 for the words themselves.
    """

    text: str
    ids: tuple[int, ...] | None
    loss: Loss
    score: float
    distance: float = 0.0
    soft_loss: Loss = None
    seed: int | None = None
    dev: Evaluation | None = None
    probabilities: tuple[float, ...] | None = None
    steps: int = 0


class StartRecord(Record):
    """The first line: the point that a search begins with."""

    event: Literal["start"]
    schema_: Annotated[int, Field(alias="schema")]
    phase: str
    train_loss: Loss
    dev: Evaluation
    words: PromptRecord | None = None

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


class GenerationRecord(Record):
    """One generation of candidates.

    Args:
        step: number of the turn, from 1.
        phase: name of the method.
        sweep: how often all blocks have had their turn.
        layer: the block that changed; None for several at once.
        losses: one for each candidate.
        incumbent: loss of the incumbent, scored as one more candidate; None where no candidate is kept.
        elites: (candidate, loss on all rows) of the best ones, where they are scored again.
        incumbent_again: the incumbent's loss on all rows beside them.
        best: lowest loss.
        accepted: whether the incumbent moved.
        train_loss: the incumbent's loss afterwards.
        dev: the evaluation on dev, when it was time for one.
        costs: spent so far, this turn included.
        text: the best text so far, where texts are searched.
        words: the incumbent read as words, when it was time for that.
        gain: on dev, over the point that was kept before, where a guard asks for it.
    """

    event: Literal["generation"]
    step: int
    phase: str
    sweep: int
    layer: int | None
    losses: tuple[Loss, ...]
    incumbent: Loss
    best: Loss
    accepted: bool
    train_loss: Loss
    costs: Costs
    elites: tuple[tuple[int, Loss], ...] | None = None
    incumbent_again: Loss = None
    dev: Evaluation | None = None
    text: str | None = None
    words: PromptRecord | None = None
    gain: Gain | None = None


class StepRecord(Record):
    """One gradient step: loss and gradient before it, the learning rate that it took."""

    event: Literal["step"]
    step: int
    phase: str
    loss: Loss
    gradient_norm: Loss
    lr: float
    costs: Costs
    dev: Evaluation | None = None
    words: PromptRecord | None = None
    gain: Gain | None = None

    @property
    def train_loss(self) -> Loss:
        """The loss on the step's rows, under the name that all turns have."""
        return self.loss


Restart = Literal["no", "best", "start"]
StepSize = Literal["smaller", "same", "larger"]


class Actions(Record):
    """How the next round of a layer-by-layer search is run.

    Args:
        layers: that have turns in it; all if empty.
        restart: go on ("no"), from the point with the lowest dev loss so far ("best"), or with all layers as they are in the pretrained
            model ("start").
        steps: half as large as before ("smaller"), the same, or twice as large ("larger").
    """

    layers: tuple[int, ...] = ()
    restart: Restart = "no"
    steps: StepSize = "same"


class ProposalRecord(Record):
    """Points that somebody proposed to go on from.

    Args:
        round: its number, from 1.
        proposer: who was asked.
        trained: loss on the training rows of the point that the search would go on from otherwise, and its dev evaluation.
        drafts: the proposed points, scored.
        taken: which of them the search goes on from; None for the trained point.
        costs: spent so far, the scoring of the drafts included.
        shown: prompts that the proposer was shown, worst first.
        refused: (text, reason) of what may not be tried.
        failure: why nobody answered.
        spent: what asking has cost so far: tokens, seconds, money.
        dev: the evaluation of the point that was taken.
        raced: the drafts are not scored as they are, but trained side by side in the lines that follow.
        actions: how the next round is run, where somebody steers; None where nobody does, or no answer could be used.
        unsteered: why no answer could be used.
    """

    event: Literal["proposal"]
    round: int
    proposer: str
    trained_loss: Loss
    trained_dev: Evaluation
    drafts: tuple[PromptRecord, ...]
    taken: int | None
    costs: Costs
    shown: tuple[PromptRecord, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    failure: str | None = None
    spent: dict[str, float] = {}
    dev: Evaluation | None = None
    raced: bool = False
    actions: Actions | None = None
    unsteered: str = ""


class RaceEntry(Record):
    """One that takes part in a race, after a leg.

    Args:
        name: "continuing" (the trained prompt), "proposed" (a draft as it is), "residual" (a draft with what was learned since the
            last words).
        text: of the draft.
        ids: its tokens; None where there is no draft, or it is no words.
        losses: at each step of the leg, on the step's rows.
        train: after the leg, on the training rows.
        dev: the same on the dev rows.
        probabilities: mean probability of each label on the training rows; None where nobody is told.
    """

    name: Literal["continuing", "proposed", "residual"]
    losses: tuple[Loss, ...]
    train: Evaluation
    dev: Evaluation
    text: str = ""
    ids: tuple[int, ...] | None = None
    probabilities: tuple[float, ...] | None = None


class RaceRecord(Record):
    """One leg of a race: all entrants take the same steps on the same rows, and the worst ones drop out.

    Args:
        round: number of the round whose proposals race, from 1.
        step: steps that each entrant still in the race has behind it.
        phase: name of the method.
        entrants: all that ran this leg.
        kept: which of them go on, best first; the search stands at the first one.
        costs: spent so far, all entrants' steps and evaluations included.
        dev: the evaluation of the first one.
    """

    event: Literal["race"]
    round: int
    step: int
    phase: str
    entrants: tuple[RaceEntry, ...]
    kept: tuple[int, ...]
    costs: Costs
    dev: Evaluation | None = None

    @property
    def train_loss(self) -> Loss:
        """The loss on the training rows of the point that the search stands at."""
        return self.entrants[self.kept[0]].train.loss


class EndRecord(Record):
    """The last line: why the search ended, and the last evaluation on dev if one was missing."""

    event: Literal["end"]
    step: int
    stop_reason: str
    dev: Evaluation | None = None
    gain: Gain | None = None


TurnRecord = GenerationRecord | StepRecord | ProposalRecord | RaceRecord
JournalRecord = Annotated[
    StartRecord | GenerationRecord | StepRecord | ProposalRecord | RaceRecord | EndRecord, Field(discriminator="event")
]
_JOURNAL: TypeAdapter[JournalRecord] = TypeAdapter(JournalRecord)


def to_line(record: JournalRecord) -> str:
    """A journal record as one line of JSON. What has a default is left out, but for the losses of candidates."""
    content = {"event": record.event, **record.plain()}
    return json.dumps(content, ensure_ascii=False, allow_nan=False)


def from_line(content: Mapping[str, Any], where: str) -> JournalRecord:
    """A journal record out of a line's JSON.

    Raises:
        RunError: it is none; names the line and the first field that is wrong.
    """
    try:
        record = _JOURNAL.validate_python(content)
    except ValidationError as error:
        raise RunError(f"{where}: {_first_problem(error)}") from None
    if isinstance(record, StartRecord):
        _check_schema(record.schema_, where)
    return record


class CalibratedScores(Record):
    """Scores after contextual calibration (arXiv 2102.09690)."""

    train_loss: Loss
    dev_loss: Loss
    dev: float
    test: float | None = None


class Scores(Record):
    """What one point reaches on every split.

    Args:
        calibrated: after contextual calibration; None for answers that are no labels.
        prior: label probabilities of empty inputs, in the order of the labels.
        test: the metric on the test rows; None if there are none.
    """

    train_loss: Loss
    train: float
    dev_loss: Loss
    dev: float
    calibrated: CalibratedScores | None = None
    prior: tuple[float | None, ...] = ()
    test: float | None = None

    def after_calibration(self, split: str) -> float | None:
        """The metric on "dev" or "test" after contextual calibration; None where there is none."""
        return None if self.calibrated is None else getattr(self.calibrated, split)


class NamedScores(Record):
    """A row of a table of scores: what stands in it, and whether it is a side line."""

    name: str
    test: float | None
    dev: float
    dev_loss: Loss
    train: float | None
    train_loss: Loss
    aside: bool = False


class FinalCosts(Record):
    """What a finished run has cost: whole-model tokens, seconds of search over all processes, the peak memory of any of them.

    Args:
        generated_tokens: tokens that were written.
        proposer: what asking a proposer has cost, by name (tokens, seconds, money).
    """

    candidates: int
    gradient_steps: int
    forward_tokens: int
    backward_tokens: int
    generated_tokens: int = 0
    seconds: float
    peak_rss_mb: float
    proposer: dict[str, float] = {}


class RowCounts(Record):
    """Rows that a run used."""

    train: int
    dev: int
    test: int


class Versioned(Record):
    """Base of records that stand in files of their own; they say in which form they are written."""

    schema_: Annotated[int, Field(alias="schema")] = SCHEMA

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)

    def plain(self) -> dict[str, Any]:
        """The record as JSON has it, its schema number first."""
        return {"schema": self.schema_, **self.model_dump(mode="json", exclude={"schema_"}, by_alias=True)}

    @classmethod
    def read(cls, content: Mapping[str, Any], where: Path | str) -> Self:
        """A record out of JSON.

        Raises:
            RunError: it was written in another form, or is damaged.
        """
        _check_schema(content.get("schema"), str(where))
        return super().read(content, where)


class UnseenClasses(Record):
    """Scores among classes that no row was labelled with, and harmonic means of these and the scores among the others.

    Args:
        labels: the unseen classes.
        rows: their test rows.
        zero_shot: score of the pretrained model with its template.
        tuned: score of the best point.
        harmonic_zero_shot: harmonic mean of both test scores of the pretrained model.
        harmonic: of both test scores of the best point; a readout knows the seen classes alone and does not count.
    """

    labels: tuple[str, ...]
    rows: int
    zero_shot: float
    tuned: float
    harmonic_zero_shot: float | None
    harmonic: float | None

    def sentence(self) -> str:
        """What a reader should know of it."""
        means = "" if self.harmonic is None else f"; harmonic mean with the seen classes {self.harmonic:.3f}"
        before = "" if self.harmonic_zero_shot is None else f" (zero-shot {self.harmonic_zero_shot:.3f})"
        return f"{len(self.labels)} unseen classes, {self.rows:,} test rows: {self.tuned:.3f} (zero-shot {self.zero_shot:.3f}){means}{before}"


class YardstickScores(Record):
    """What a simple classifier reaches that learns from the train and dev rows.

    Args:
        name: which one.
        dev: the metric on the dev rows, each row by a classifier of other rows (ten folds).
        dev_loss: cross-entropy there.
        test: the metric on the test rows; None if there are none.
    """

    name: str
    dev: float
    dev_loss: Loss
    test: float | None = None


class Result(Versioned):
    """``result.json``: what a finished run reached and cost.

    Args:
        zero_shot: the pretrained model with its label words.
        tuned: what the run leaves behind: the best point, with the readout where there is one. Scores on train and dev rows are
            then those of each row by a readout of all others (leave one out).
        zero_shot_readout: the readout solved on the pretrained model.
        tuned_words: the best point with its label words alone, where `tuned` has a readout.
        gain: what tuning adds to the readout on the dev rows; None where nothing was tuned, or without a readout.
        yardsticks: simple classifiers of the same rows.
        kept_step: turn after which the kept point was found: the best one on dev.
        kept_record: number of the journal's record that found it; 0 is the starting point.
        notes: what a reader of the scores should know, one sentence each.
        unanswered: why nobody ever proposed anything, where somebody was asked; such a run says nothing about a mentor.
        unseen: scores among classes that were left out of the task; None where none were.
    """

    method: str
    model: str
    task: str
    metric: str
    seed: int
    shots: int | Literal["all"]
    zero_shot: Scores
    tuned: Scores
    majority: float | None
    zero_shot_readout: Scores | None = None
    tuned_words: Scores | None = None
    gain: Gain | None = None
    yardsticks: tuple[YardstickScores, ...] = ()
    kept_step: int
    kept_record: int
    steps: int
    cost: FinalCosts
    rows: RowCounts
    stop_reason: str
    versions: dict[str, str]
    notes: tuple[str, ...] = ()
    unanswered: str = ""
    unseen: UnseenClasses | None = None

    def yardstick(self, name: str) -> YardstickScores | None:
        """What one of them reached; None where it was not asked for."""
        return next((one for one in self.yardsticks if one.name == name), None)

    def scores(self) -> list[NamedScores]:
        """What was measured, in the order of a table: each row should be above those before it."""
        rows = [*_pair_of("zero-shot", self.zero_shot)]
        rows += [
            NamedScores(
                name=one.name,
                test=one.test,
                dev=one.dev,
                dev_loss=one.dev_loss,
                train=None,
                train_loss=None,
                aside=False,
            )
            for one in self.yardsticks
        ]
        if self.zero_shot_readout is not None and self.steps:
            rows.append(_row_of("zero-shot, readout", self.zero_shot_readout))
        if self.tuned_words is None:
            return [*rows, *_pair_of("tuned", self.tuned)]
        if self.steps:
            rows.append(_row_of("tuned, label words alone", self.tuned_words))
        return [*rows, _row_of("tuned, readout" if self.steps else "readout", self.tuned)]


def _pair_of(name: str, scores: Scores) -> list[NamedScores]:
    after = scores.calibrated
    if after is None:
        return [_row_of(name, scores)]
    calibrated = NamedScores(
        name=f"{name}, calibrated",
        test=after.test,
        dev=after.dev,
        dev_loss=after.dev_loss,
        train=None,
        train_loss=after.train_loss,
        aside=True,
    )
    return [_row_of(name, scores), calibrated]


def _row_of(name: str, scores: Scores) -> NamedScores:
    return NamedScores(
        name=name,
        test=scores.test,
        dev=scores.dev,
        dev_loss=scores.dev_loss,
        train=scores.train,
        train_loss=scores.train_loss,
    )


class PredictionRecord(Record):
    """One line of ``predictions.jsonl``: a test row, and what the tuned model says of it.

    Args:
        fields: the row's texts by name.
        gold: its true label; None where it is unknown.
        label: the predicted label.
        probabilities: of every label; None for what is not finite; empty where the answer is a text.
        references: right answers, where the answer is a text.
        untuned: what the pretrained model says, where the answer is a text.
        rewards: of the answer, by name, where it is a text.
    """

    fields: dict[str, str]
    gold: str | None
    label: str
    probabilities: dict[str, float | None]
    references: tuple[str, ...] = ()
    untuned: str | None = None
    rewards: dict[str, float] = {}


class SweepPoint(Record):
    """Where a method of a comparison stands in a sweep: the method that is varied, the setting, and its value."""

    of: str
    key: str
    value: JsonValue


class ComparedRun(Record):
    """One run of a comparison.

    Args:
        method: its name in the plan; likewise `task` and `model`.
        seed: of the rows and the search.
        folder: where the run lies.
        sweep: where its method stands in a sweep.
        result: what it reached; None while there is no result.
        failure: why there is none.
        unknown: settings of its recipe that this version does not know.
    """

    method: str
    task: str
    model: str
    seed: int
    folder: str
    sweep: SweepPoint | None = None
    result: Result | None = None
    failure: str | None = None
    unknown: tuple[str, ...] = ()


class ComparedRuns(Versioned):
    """``records.json`` of a comparison: all of its runs, in the plan's order."""

    runs: tuple[ComparedRun, ...]


class Assessment(Record):
    """How a model does on labelled rows.

    Args:
        metric: the task's.
        score: its value.
        interval: 95 % of bootstrap resamples of the rows lie between.
        loss: mean cross-entropy of the gold labels; None where answers are texts.
        brier: mean squared distance between the probabilities of all labels and the true label's 1 (Brier 1950).
        calibration_error: mean distance between confidence and accuracy, over bins of equally many rows.
        rows: how many.
        labels: names, in the order of the matrix.
        confusion: rows of each gold label by predicted label.
        worst: (row's texts, gold, label, probability of the gold label) of the most confident errors, worst first.
    """

    metric: str
    score: float
    interval: tuple[float, float]
    loss: Loss
    brier: Loss = None
    calibration_error: Loss = None
    rows: int
    labels: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    worst: tuple[tuple[dict[str, str], str, str, float], ...]

    def by_label(self) -> dict[str, tuple[float, float, float]]:
        """Precision, recall and F1 of each label; 0 where there is nothing to divide by."""
        found: dict[str, tuple[float, float, float]] = {}
        for index, label in enumerate(self.labels):
            hits = self.confusion[index][index]
            said, true = sum(row[index] for row in self.confusion), sum(self.confusion[index])
            precision, recall = hits / said if said else 0.0, hits / true if true else 0.0
            both = precision + recall
            found[label] = precision, recall, 2 * precision * recall / both if both else 0.0
        return found


class TunableFacts(Record):
    """Sizes of what is tuned; `details` holds what only one kind of tunable has."""

    parameters: int
    layers: tuple[int, ...]
    details: dict[str, JsonValue] = {}


class TemplateScore(Record):
    """A template with its label words, judged by a readout of all other labelled rows.

    Args:
        template: the template.
        labels: label words by label.
        loss: leave-one-out loss of a ridge readout; None where the template cannot be used.
        standard_error: of the mean loss over rows.
        score: the metric of the leave-one-out predictions.
        zero_shot: the metric of the label words alone, on the same rows.
        refused: why it cannot be used.
    """

    template: str
    labels: dict[str, tuple[str, ...]]
    loss: Loss = None
    standard_error: Loss = None
    score: float = 0.0
    zero_shot: float = 0.0
    refused: str = ""


class FurtherTemplate(Record):
    """A template that a readout reads together with the first, and the label words behind it."""

    template: str
    label_words: dict[str, tuple[str, ...]]


class Facts(Versioned):
    """``run.json``: versions, and what was found out or decided on this machine when the run began.

    Args:
        planned: how much the recipe allows in all, counted in `unit`; None where nobody said.
        unit: what a run's progress is counted in; steps are generations and gradient steps.
        instead: the method whose parts are used, where those of the recipe's own did not fit this machine.
    """

    kind: str
    dtype: str
    device: str
    threads: int
    layers: int
    depth: float
    tunable: TunableFacts
    template: str
    labels: dict[str, tuple[str, ...]]
    pieces: tuple[str, ...]
    label_pieces: dict[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()
    lr: float | None = None
    train_rows: int = 0
    train_tokens: int = 0
    dev_rows: int = 0
    dev_tokens: int = 0
    rows_sha256: str = ""
    weights_sha256: str = ""
    plugins: dict[str, str] = {}
    templates: tuple[TemplateScore, ...] = ()
    calibrated: bool | None = None
    chunk_tokens: int | None = None
    max_memory: float | None = None
    compiled: float | None = None
    rank_correlation: dict[str, float] | None = None
    gradient_cosine: dict[str, float] | None = None
    versions: dict[str, str] = {}
    planned: int | None = None
    unit: Literal["candidates", "steps"] = "candidates"
    instead: str = ""


class TaskCard(Versioned):
    """``task_card.json``: everything that is needed to use an adapter without its recipe, with its scores and costs.

    Args:
        temperature: what label logits are divided by before they are made probabilities, chosen on labelled rows; None in cards
            of earlier versions, where it is 1.
        together: further templates that the readout reads each text in.
    """

    base_model: str
    revision: str | None
    kind: str
    task: str
    template: str
    label_words: dict[str, tuple[str, ...]]
    pieces: dict[str, tuple[str, ...]]
    shots: int | Literal["all"]
    seed: int
    dtype: str
    max_tokens: int
    method: dict[str, JsonValue]
    calibrated: bool
    readout: str
    prior: dict[str, float | None]
    temperature: float | None = None
    together: tuple[FurtherTemplate, ...] = ()
    metric: str
    zero_shot: Scores
    tuned: Scores
    cost: FinalCosts


def rounded(value: float | None) -> float | None:
    """A number as a result has it."""
    return round(value, DIGITS) if value is not None and math.isfinite(value) else None


def to_loss(value: float) -> Loss:
    """A loss as a record has it: None stands for NaN and infinity."""
    value = float(value)
    return value if math.isfinite(value) else None


def from_loss(value: Loss) -> float:
    """A recorded loss as a number: None was NaN or infinite, and counts as infinite."""
    return math.inf if value is None else value


def _check_schema(found: Any, where: str) -> None:
    if found != SCHEMA:
        came = "none" if found is None else repr(found)
        raise RunError(
            f"{where}: written in another form (schema {came}, this version reads {SCHEMA}): read it with the version of "
            "TandemTune that made it, or make the run anew"
        )


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"damaged, {place}: {first['msg']}; restore the file"

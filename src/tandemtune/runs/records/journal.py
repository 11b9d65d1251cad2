"""Lines of the journal: what happens in a search, turn by turn."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from tandemtune.errors import RunError
from tandemtune.runs.records.base import Loss, Record, check_schema, first_problem


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

    @property
    def where_texts_are_written(self) -> Costs:
        """These, if texts were written; else nothing. Written tokens count wherever a search writes them, while what is only read to
        look at its first and its last point does not."""
        return self if self.generated else Costs()

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
        residual: whether these steps began at the words plus what had been learned before.
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
    residual: bool = False


class StartRecord(Record):
    """The first line: the point that a search begins with.

    Args:
        phase: name of the method.
        train_loss: of that point.
        dev: its evaluation on dev.
        words: the point read as words, where somebody proposes.
        costs: of all that, and of texts that candidates will be held near to; nothing where no texts are written.
    """

    event: Literal["start"]
    schema_: Annotated[int, Field(alias="schema")]
    phase: str
    train_loss: Loss
    dev: Evaluation
    words: PromptRecord | None = None
    costs: Costs = Costs()

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
        train_loss: the incumbent's loss afterwards; where no candidate is kept, the mean of `losses`: the point that moves is not measured.
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
    spent: dict[str, float] = Field(default={})
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


class HandOverRecord(Record):
    """One search has ended and another one goes on from the best point so far, by an objective of its own.

    Args:
        stretch: number of the search that begins, from 2: [method] itself is the first.
        step: turns of all optimizers so far.
        phase: name of the method that begins.
        reason: what ended the search before: its steps, budget or patience, or its share of what the run may use.
        last: evaluation on dev, by the objective before, of the point where that search ended; None where it had been looked at.
        last_gain: the same over the point that was kept, where a guard asks for it.
        kept_step: turn after which the point was found that is handed over.
        train_loss: its loss on the training rows by the objective that follows.
        dev: its evaluation on dev by that objective: what is better from now on is better than this.
        costs: spent so far, these measurements included.
    """

    event: Literal["handover"]
    stretch: int
    step: int
    phase: str
    reason: str
    last: Evaluation | None = None
    last_gain: Gain | None = None
    kept_step: int
    train_loss: Loss
    dev: Evaluation
    costs: Costs


class EndRecord(Record):
    """The last line: why the search ended, and the last evaluation on dev if one was missing.

    Args:
        step: turns of all optimizers.
        stop_reason: why it ended.
        dev: the evaluation, if it was missing.
        gain: of it, where a guard asks for it.
        costs: spent in all, where texts were written for it; None where the line before says so.
    """

    event: Literal["end"]
    step: int
    stop_reason: str
    dev: Evaluation | None = None
    gain: Gain | None = None
    costs: Costs | None = None


TurnRecord = GenerationRecord | StepRecord | ProposalRecord | RaceRecord
JournalRecord = Annotated[
    StartRecord | GenerationRecord | StepRecord | ProposalRecord | RaceRecord | HandOverRecord | EndRecord,
    Field(discriminator="event"),
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
        raise RunError(f"{where}: {first_problem(error)}") from None
    if isinstance(record, StartRecord):
        check_schema(record.schema_, where)
    return record

"""What a finished run reached and cost, and what is needed to use its adapter."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from tandemtune.runs.records.base import Loss, Record, Versioned
from tandemtune.runs.records.journal import Gain


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
        test_by_batch: of the pretrained model after batch calibration (arXiv 2309.17249), by the mean label distribution of all test rows.
    """

    train_loss: Loss
    train: float
    dev_loss: Loss
    dev: float
    calibrated: CalibratedScores | None = None
    prior: tuple[float | None, ...] = ()
    test: float | None = None
    test_by_batch: float | None = None

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
    proposer: dict[str, float] = Field(default={})


class RowCounts(Record):
    """Rows that a run used."""

    train: int
    dev: int
    test: int


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
        found_by: which of several stretches found it; empty where there is one, or where the starting point is kept.
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
    found_by: str = ""
    steps: int
    cost: FinalCosts
    rows: RowCounts
    stop_reason: str
    versions: dict[str, str]
    notes: tuple[str, ...] = ()
    unanswered: str = ""
    unseen: UnseenClasses | None = None

    @property
    def searched(self) -> bool:
        """Whether anything was tried: turns of an optimizer, or what was proposed."""
        return bool(self.steps or self.cost.candidates)

    @property
    def moved(self) -> bool:
        """Whether the best point may be another model than the pretrained one: something was tried, or stands before each text."""
        return self.searched or (self.tuned if self.tuned_words is None else self.tuned_words) != self.zero_shot

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
        if self.zero_shot_readout is not None and self.moved:
            rows.append(_row_of("zero-shot, readout", self.zero_shot_readout))
        if self.tuned_words is None:
            return [*rows, *_pair_of("tuned", self.tuned)]
        if self.moved:
            rows.append(_row_of("tuned, label words alone", self.tuned_words))
        return [*rows, _row_of("tuned, readout" if self.moved else "readout", self.tuned)]


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


class FurtherTemplate(Record):
    """A template that a readout reads together with the first, and the label words behind it."""

    template: str
    label_words: dict[str, tuple[str, ...]]


class TaskCard(Versioned):
    """``task_card.json``: everything that is needed to use an adapter without its recipe, with its scores and costs.

    Args:
        rows: what the run has seen; readouts are solved on train and dev rows. None in cards of earlier versions.
        prior: how likely each label is for inputs without content, which `calibrated` answers are divided by.
        label_bias: what is to be added to the logit of each label where the readout is an adapter; empty where it is none.
        assumed_prior: how often the readout assumes each label to come up; empty without one.
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
    rows: RowCounts | None = None
    seed: int
    dtype: str
    max_tokens: int
    method: dict[str, JsonValue]
    calibrated: bool
    readout: str
    prior: dict[str, float | None]
    label_bias: dict[str, float] = Field(default={})
    assumed_prior: dict[str, float] = Field(default={})
    temperature: float | None = None
    together: tuple[FurtherTemplate, ...] = ()
    metric: str
    zero_shot: Scores
    tuned: Scores
    cost: FinalCosts

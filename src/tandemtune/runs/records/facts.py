"""What was found out or decided on a machine when a run began."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from tandemtune.runs.records.base import Loss, Record, Versioned


class TunableFacts(Record):
    """Sizes of what is tuned; `details` holds what only one kind of tunable has."""

    parameters: int
    layers: tuple[int, ...]
    details: dict[str, JsonValue] = Field(default={})


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
        tokens: that went through the model for it.
    """

    template: str
    labels: dict[str, tuple[str, ...]]
    loss: Loss = None
    standard_error: Loss = None
    score: float = 0.0
    zero_shot: float = 0.0
    refused: str = ""
    tokens: int = 0


class TemplatesTogether(Record):
    """How many of the best templates a readout reads together, where their losses decided.

    Args:
        count: how many.
        losses: leave-one-out losses of a readout of the best template, of the best two together, and so on.
    """

    count: int
    losses: tuple[Loss, ...]


class StretchFacts(Record):
    """What was decided for one of several stretches of a run.

    Args:
        name: of its method.
        lr: learning rate that it begins with.
        calibrated: whether its losses and scores are those after contextual calibration; None where nobody asks for that.
    """

    name: str
    lr: float | None = None
    calibrated: bool | None = None


class Facts(Versioned):
    """``run.json``: versions, and what was found out or decided on this machine when the run began.

    Args:
        planned: how much the recipe allows in all, counted in `unit`; None where nobody said.
        unit: what a run's progress is counted in; steps are generations and gradient steps.
        stretches: what was decided for each of several stretches; empty where there is one.
        instead: the method whose parts are used, where those of the recipe's own did not fit this machine.
        mended: a sentence for each reward whose code was mended after it had stopped the run.
        columns: what the columns of the labelled rows hold, of a task that is answered with texts; None where nobody looked.
        answer_end: the mark behind right answers, of a task that is answered with texts; None in a run that began with the first of the
            model's marks behind all answers, those that a KL penalty reads included.
        together: how many templates are read together, where the recipe left that to their losses.
        all_right: whether the readout is right on all labelled rows, so that nothing is searched; None where nobody looked.
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
    plugins: dict[str, str] = Field(default={})
    templates: tuple[TemplateScore, ...] = ()
    together: TemplatesTogether | None = None
    calibrated: bool | None = None
    chunk_tokens: int | None = None
    max_memory: float | None = None
    compiled: float | None = None
    rank_correlation: dict[str, float] | None = None
    gradient_cosine: dict[str, float] | None = None
    versions: dict[str, str] = Field(default={})
    planned: int | None = None
    unit: Literal["candidates", "steps"] = "candidates"
    instead: str = ""
    stretches: tuple[StretchFacts, ...] = ()
    mended: tuple[str, ...] = ()
    columns: dict[str, Literal["int", "float", "text"]] | None = None
    answer_end: int | None = None
    all_right: bool | None = None

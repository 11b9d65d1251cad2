"""Readouts that a recipe may name, and a solved one beside an adapter: what it says, saved and read back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from safetensors.torch import load_file, save_file
from torch import Tensor

from tandemtune.errors import ConfigError, DataError, RunError, UsageError
from tandemtune.evaluators.batch import Batch
from tandemtune.evaluators.engine import Engine
from tandemtune.evaluators.features import PassReading, read
from tandemtune.evaluators.views import ANSWER, View
from tandemtune.models.backbone import Backbone
from tandemtune.models.way_out import logit_scale
from tandemtune.plugins import Member, register
from tandemtune.readout import as_adapter
from tandemtune.readout.design import assumed_shares, check_shares
from tandemtune.readout.fitting import FORMS, FormName, Readout, Settings
from tandemtune.tasks.verbalizers import Verbalizer
from tandemtune.tunables.base import Point

FOLDER = "readout"
"""Folder of a readout inside an adapter's."""


MOST_LOGISTIC = 3000
"""Labelled rows of logistic readouts, whose cost grows with the third power of their number."""
MOST_NUMBERS = 50_000_000
"""Rows x rows x labels that they are solved with at most: 400 MB, of which there are five at once."""

ENOUGH = 60
"""So many rows that are all right leave at most a twentieth of errors on others (3 / rows, at a confidence of 95 %); of fewer ones all
may be right by luck."""


class ReadoutMember(Member):
    """Base of what a recipe's ``[method.readout]`` may be: what is solved on the labelled rows after a search, or alone.

    Attributes:
        form: what the readout is made of; None for no readout.
    """

    noun: ClassVar[str] = "readout"
    form: ClassVar[FormName | None] = None

    prior: Literal["balanced", "train"] | list[float] = Field(
        default="balanced",
        description="how often each label is assumed to come up: equally often, as in the labelled rows, or shares",
    )
    keep: Literal["tuned", "better", "clearly-better"] = Field(
        default="tuned",
        description='the point that a readout is solved at: the best "tuned" one, or that only where it is "better": where the '
        'loss of the dev rows, each by a readout of all others, falls with it; "clearly-better" wants more than a standard error',
    )
    all_right: Literal["search", "stop"] = Field(
        default="search",
        description="what becomes of a search before which the readout is right on all labelled rows, each by a readout of all others, and "
        f'these are {ENOUGH} or more: "search" for lower losses, or "stop", since no row is left that could be set right',
    )

    @field_validator("prior", mode="before")
    @classmethod
    def _shares(cls, given: Any) -> Any:
        """A name, or numbers."""
        numbers = isinstance(given, list | tuple) and all(
            isinstance(x, Real) and not isinstance(x, bool) for x in given
        )
        if not numbers and not (isinstance(given, str) and given in ("balanced", "train")):
            raise ValueError(
                f'expected "balanced", "train" or a share for each label, in their order, such as [0.3, 0.7], got {given!r}'
            )
        return given

    def choices(self, further: Sequence[View]) -> tuple[tuple[View, ...], ...]:
        """Views of each row that it may read beside the label logits: one set, or several to choose from, the simplest first.

        Args:
            further: views beside the answer that rows of this kind have (`Engine.further_views`).
        """
        return ((),)

    def seen(self, further: Sequence[View]) -> tuple[View, ...]:
        """All views that it may read, as for `choices`."""
        return tuple(dict.fromkeys(view for views in self.choices(further) for view in views))

    def assumed(self, labels: Sequence[str], rows: Sequence[str | None]) -> str:
        """In words, how often the readout assumes each label to come up.

        Args:
            labels: names of the labels, in their order.
            rows: the label of each labelled row.
        """
        if self.prior == "balanced":
            return "all labels come up equally often, whatever the labelled rows are"
        told = "with these shares" if not isinstance(self.prior, str) else "as often as in the labelled rows"
        named = ", ".join(f"{label} {share:.3g}" for label, share in self.shares(labels, rows).items())
        return f"labels come up {told}: {named}"

    def shares(self, labels: Sequence[str], rows: Sequence[str | None]) -> dict[str, float]:
        """How often the readout assumes each label to come up, as shares that add up to 1; arguments as for `assumed`."""
        numbers = torch.tensor([labels.index(str(row)) for row in rows])
        return dict(zip(labels, assumed_shares(numbers, len(labels), self.prior).tolist(), strict=True))

    def check_labels(self, labels: Sequence[str]) -> None:
        """Refuse a prior that is none of a task's labels.

        Args:
            labels: of the task.

        Raises:
            DataError: it has another number of shares, or they do not add up to 1.
        """
        if self.form is not None and not isinstance(self.prior, str):
            check_shares(self.prior, len(labels))

    def check_views(self, engine: Engine | type[Engine], layers: int, encoder: int | None) -> None:
        """Refuse views that a model does not have.

        Args:
            engine: what reads them, or its class.
            layers: how many the model has, those of a decoder of its own among them.
            encoder: how many stand before such a decoder; None in a model of one stack.

        Raises:
            ConfigError: there is such a view.
        """
        try:
            engine.check_views(self.seen(engine.further_views), layers, encoder)
        except UsageError as error:
            raise ConfigError([f"[method] views: {error}"]) from None

    def check_rows(self, rows: int, labels: int) -> None:
        """Refuse more labelled rows than the solver can take.

        Args:
            rows: labelled rows.
            labels: of the task.

        Raises:
            DataError: there are too many.
        """
        if self.form is None or FORMS[self.form].solver != "logistic" or not FORMS[self.form].reads:
            return
        most = min(MOST_LOGISTIC, int((MOST_NUMBERS / labels) ** 0.5))
        if rows > most:
            raise DataError(
                f"readout {self.kind} is solved between rows and takes at most {most:,} labelled ones of {labels} labels, got {rows:,}: take "
                "readout ridge, or fewer shots and dev_shots"
            )

    def problems(self, recipe: Any) -> Iterator[str]:
        """Views that are none."""
        try:
            self.seen(())
        except UsageError as error:
            yield f"[method] views: {error}"


class FeatureReadout(ReadoutMember):
    """Base of readouts that read what the model knows of a row, not its label logits alone."""

    views: list[str] | Literal["auto"] = Field(
        default=["answer"],
        description='what is read of each row: "answer" (what enters the output embedding), "mean" (the text\'s mean), or one of '
        'them at a layer, such as "mean@6", or "mean@middle" whatever the model; of images "answer" (the vector that texts are compared with) and "tower" (what the image tower '
        'pools before it is mapped there); several are weighted by the leave-one-out loss. "auto" adds the mean (of images the tower) '
        "to the answer where that lowers the leave-one-out loss by more than its standard error",
    )

    @field_validator("views", mode="before")
    @classmethod
    def _listed(cls, given: Any) -> Any:
        """One view is a list of one."""
        if isinstance(given, str):
            return given if given == "auto" else [given]
        if not isinstance(given, list | tuple) or not all(isinstance(view, str) for view in given):
            raise ValueError(f'expected "auto", a view or a list of views, such as ["answer", "mean"], got {given!r}')
        return given

    def problems(self, recipe: Any) -> Iterator[str]:
        """No view at all, or one twice, beside what all readouts refuse."""
        wrong = [*super().problems(recipe)]
        yield from wrong
        named = [*self.choices(())[0]] if not wrong and self.views != "auto" else []
        twice = [str(view) for view in dict.fromkeys(named) if named.count(view) > 1]
        if twice:
            yield f"[method] views: {', '.join(twice)} more than once, which says nothing more: name each view once"
        if not self.views:
            yield f'[method] views: none, but readout {self.kind} reads some: name one, such as "answer", or take readout affine'

    def choices(self, further: Sequence[View]) -> tuple[tuple[View, ...], ...]:
        """The views by name."""
        if self.views == "auto":
            return (ANSWER,), *((ANSWER, view) for view in further)
        return (tuple(View.parse(text) for text in self.views),)


@register
class NoReadout(ReadoutMember):
    """The label words' own logits."""

    kind: ClassVar[str] = "none"
    summary: ClassVar[str] = "the label words' own logits"


@register
class BiasReadout(ReadoutMember):
    """A shift of each label's logit."""

    kind: ClassVar[str] = "bias"
    summary: ClassVar[str] = "a shift of each label's logit"
    source: ClassVar[str] = "arXiv 2102.09690, with labelled rows"
    form: ClassVar[FormName | None] = "bias"


@register
class AffineReadout(ReadoutMember):
    """Label logits as a linear map of label logits."""

    kind: ClassVar[str] = "affine"
    summary: ClassVar[str] = "a linear map of the label logits, and a shift"
    source: ClassVar[str] = "arXiv 2505.23783, in closed form"
    form: ClassVar[FormName | None] = "affine"


@register
class LogisticReadout(FeatureReadout):
    """New rows of the output embedding for the label words, by penalised logistic regression."""

    kind: ClassVar[str] = "logistic"
    summary: ClassVar[str] = "the label words' rows of the output embedding, by logistic regression that starts at them"
    form: ClassVar[FormName | None] = "logistic"


@register
class RidgeReadout(FeatureReadout):
    """New rows of the output embedding for the label words, by ridge regression."""

    kind: ClassVar[str] = "ridge"
    summary: ClassVar[str] = "the label words' rows of the output embedding, by ridge regression on labels"
    source: ClassVar[str] = "Rasmussen and Williams 2006, eq. 5.10-5.12 and section 6.5"
    form: ClassVar[FormName | None] = "ridge"


@register
class KernelReadout(FeatureReadout):
    """Ridge regression on features and label log-probabilities."""

    kind: ClassVar[str] = "kernel"
    summary: ClassVar[str] = "ridge regression on features and label log-probabilities; no ordinary adapter"
    source: ClassVar[str] = "Rasmussen and Williams 2006, eq. 5.10-5.12 and section 6.5"
    form: ClassVar[FormName | None] = "kernel"


@dataclass(frozen=True)
class SolvedReadout:
    """A readout of one point on some labelled rows.

    Args:
        member: what the recipe said.
        views: what is read of each row.
        settings: what was chosen by the leave-one-out loss.
        readout: the solution.
        without: logits [N, C] of each labelled row by a readout of all others.
        loss: their loss.
    """

    member: ReadoutMember
    views: tuple[View, ...]
    settings: Settings | None
    readout: Readout
    without: Tensor
    loss: float

    def logits(self, engine: Engine, batch: Batch, point: Point) -> Tensor:
        """Label logits [N, C] of a point, float32."""
        return self.answers(read(engine, batch, point, self.views))

    def answers(self, reading: PassReading) -> Tensor:
        """Label logits [N, C] of rows that were read at the readout's point, float32."""
        said = self.readout.logits([reading.views[view] for view in self.views], reading.logits)
        return said.float().to(reading.logits.device)

    def no_adapter(self, engine: Engine) -> str:
        """Why it is no adapter on the output embedding; empty where it is one."""
        if not engine.no_adapter and self.views not in ((), (ANSWER,)):
            named = ", ".join(map(str, self.views))
            return f'a readout of {named} is no change of the output embedding: take views = ["answer"]'
        return engine.no_adapter or self.readout.no_correction

    def save(
        self, point: Point, folder: Path, backbone: Backbone, engine: Engine, verbalizer: Verbalizer, base: str
    ) -> dict[str, float]:
        """Write the solution, and as a PEFT adapter on the output embedding where it is one.

        Args:
            point: the one that it was solved at, which may have changed the output embedding, too.
            folder: the adapter's folder; a folder inside it is made.
            backbone: the model.
            engine: its engine.
            verbalizer: the label words.
            base: name of the base model.

        Returns:
            What is to be added to the logit of each label where it is such an adapter; else nothing.
        """
        place = folder / FOLDER
        place.mkdir(parents=True, exist_ok=True)
        parts = {f"features.{number}": weight for number, weight in enumerate(self.readout.features)}
        tensors = {**parts, "labels": self.readout.labels, "bias": self.readout.bias}
        save_file({k: v.contiguous() for k, v in tensors.items()}, place / "readout.safetensors", {"format": "pt"})
        told: dict[str, Any] = {
            "kind": self.member.kind,
            "label_view": self.readout.label_view,
            "views": [str(view) for view in self.views],
            "loss": self.loss,
        }
        bias: dict[str, float] = {}
        if reason := self.no_adapter(engine):
            told["no_adapter"] = reason
        else:
            scale = logit_scale(backbone.model, engine.stack.head) or 1.0
            with engine.tunable.applied(point):
                shift = as_adapter.save(self.readout, backbone, engine.stack, verbalizer, place, scale, base)
            told["label_bias"] = bias = dict(zip(verbalizer.labels, shift.tolist(), strict=True))
        (place / "readout.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        return bias


def load_readout(member: ReadoutMember, folder: Path) -> SolvedReadout | None:
    """Read what `SolvedReadout.save` wrote; None where the recipe has no readout.

    Raises:
        RunError: the file is missing or damaged.
    """
    if member.form is None:
        return None
    path = folder / FOLDER / "readout.safetensors"
    try:
        tensors = load_file(path)
        told = json.loads((folder / FOLDER / "readout.json").read_text(encoding="utf-8"))
        views = tuple(View.parse(text) for text in told["views"])
        features = tuple(tensors[f"features.{number}"] for number in range(len(views)))
        readout = Readout(features, tensors["labels"], tensors["bias"], told["label_view"])
        return SolvedReadout(member, views, None, readout, torch.empty(0), float(told["loss"]))
    except Exception as error:  # safetensors raises its own, undocumented types
        raise RunError(f"readout {path} cannot be read: {error}") from error

"""The section of a run's bounds."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tandemtune.config.checks import Positive
from tandemtune.config.parts import PartOf
from tandemtune.executors.base import Executor
from tandemtune.plugins import Options


class RunSection(Options):
    """[run]: bounds on what a run may use, where its candidates are scored, and how often it is saved."""

    executor: Annotated[Executor, PartOf("executor")] = Field(
        description="where candidates are scored (`tandemtune ls executors`): in this process, or on a cluster"
    )
    max_memory: Positive | None = Field(
        None,
        description="bound on the activations of scored candidates, in megabytes; if left out, 256 on a processor and half of "
        "the free memory on an accelerator",
    )
    max_seconds: Positive | None = Field(
        None, description="stop after so many seconds, those of choosing a template among them"
    )
    max_forward_tokens: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="end the search after so many tokens through the whole model (a token through half of the layers is half); choosing a "
        "template and solving a readout come on top",
    )
    max_generated_tokens: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="end the search with the generation that reaches so many written tokens; a generation is always finished, so somewhat more are written",
    )
    checkpoint_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        20.0, description="least time between checkpoints; 0 writes one every generation"
    )
    yardsticks: list[str] = Field(
        [],
        description="simple classifiers of the same rows to score beside (`tandemtune ls yardsticks`); they learn from train and "
        "dev rows, and their dev scores are those of ten folds",
    )
    report_to: str | list[str] = Field(
        "none",
        description="experiment trackers that are told every turn (`tandemtune ls trackers`): one name or several, or none",
    )

    @property
    def trackers(self) -> list[str]:
        """Names of the trackers."""
        named = [self.report_to] if isinstance(self.report_to, str) else self.report_to
        return [name for name in dict.fromkeys(named) if name != "none"]

    def of_share(self, share: float) -> RunSection:
        """The same section for a part of the run that may use so much of what is bounded."""
        tokens = {
            key: max(1, round(share * bound))
            for key in ("max_forward_tokens", "max_generated_tokens")
            if (bound := getattr(self, key)) is not None
        }
        seconds = None if self.max_seconds is None else share * self.max_seconds
        return self.model_copy(update={**tokens, "max_seconds": seconds})

"""The interface of objectives over label logits. Lower is better."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from tandemtune.plugins import Member

if TYPE_CHECKING:
    from torch import Tensor

    from tandemtune.rewards.base import Reward, Written
    from tandemtune.tasks.base import Task
    from tandemtune.tasks.texts import TextTask

LossFunction = Callable[["Tensor", "Tensor"], "Tensor"]
"""(label logits [P, N, C] in float32, gold labels [N]) -> loss of each candidate [P]."""
Judge = Callable[["Written"], float]
"""Texts to a loss."""


class Objective(Member):
    """Base of what a recipe's ``[method.objective]`` may be.

    Attributes:
        differentiable: whether optimizers that follow gradients can use it.
        by_rows: whether it is a mean over rows, so that these can be weighted.
        of: the answers that it judges, "labels" or "texts" or both.
    """

    noun: ClassVar[str] = "objective"
    differentiable: ClassVar[bool] = False
    by_rows: ClassVar[bool] = True
    of: ClassVar[frozenset[str]] = frozenset({"labels"})

    calibrate: bool | Literal["auto"] = Field(
        default=False,
        description="losses and scores after contextual calibration (arXiv 2102.09690), in the search, too; auto where the dev "
        "loss of the point that it begins with is lower so",
    )
    kl_penalty: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] = Field(
        default=0.0,
        description="this times KL(untuned || tuned) on unlabelled rows is added to losses: of the label distribution, or of texts that the "
        "untuned model writes for them (a token of a sample)",
    )
    kl_rows: Annotated[int, Field(ge=1)] = Field(
        default=32, description="unlabelled rows for kl_penalty, from the training file"
    )

    def loss(self, task: Task) -> LossFunction:
        """The loss of a task's rows."""
        raise NotImplementedError

    def judge(self, task: TextTask, grader: Reward | None = None) -> Judge | None:
        """What texts that candidates write are judged by; None for the likelihood of references.

        Args:
            task: the task.
            grader: grades of a language model, where `asks_model`.
        """
        return None

    @property
    def grading(self) -> tuple[Any, ...] | None:
        """What a language model grades by, to be told from another objective's; None where none grades."""
        return None

    @property
    def asks_model(self) -> bool:
        """Whether a language model grades texts."""
        return self.grading is not None

    @property
    def temperature(self) -> float:
        """At which texts are sampled while candidates are scored; 0 for the most likely tokens."""
        return 0.0

    def problems(self, recipe: Any) -> Iterator[str]:
        """Penalties that only searches have, and an untuned model that there is not."""
        method = recipe.method
        if recipe.task.class_weights is not None and not self.by_rows:
            yield f"[task] class_weights: {self.kind} is no mean over rows that could be weighted: take ce or hinge"
        answers = "texts" if recipe.task.writes else "labels"
        if answers not in self.of:
            yield f"[method] objective: {self.kind} does not judge {answers}, which this task is answered with"
        if answers == "texts" and self.calibrate:
            yield "[method] calibrate: for tasks that are answered with labels"
        if self.calibrate and recipe.task.choices == "columns":
            yield "[method] calibrate: by prompts without content, but each row has answers of its own: set it to false"
        for name in ("kl_penalty", "calibrate"):
            if getattr(self, name) and not method.optimizer.searches:
                yield (
                    f"[method] {name}: {getattr(self, name)} is for searches without gradient, got optimizer "
                    f"{method.optimizer.kind}"
                )
        if self.kl_penalty and method.tunable.words_only:
            yield (
                f"[method] kl_penalty: {self.kl_penalty}, but the words of {method.tunable.kind} change, so no model is the "
                "untuned one"
            )

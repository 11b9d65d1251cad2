"""Rewards of the texts that candidates write: for searches without gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from tandemtune import plugins
from tandemtune.errors import UsageError
from tandemtune.mentor.grading import NAME
from tandemtune.objectives.base import Objective
from tandemtune.plugins import register
from tandemtune.rewards import base as rewards
from tandemtune.rewards.base import Reward, Written
from tandemtune.tasks.judging import asked_once
from tandemtune.tasks.texts import TextTask


@dataclass(frozen=True)
class WeightedSum:
    """Minus the weighted sum of rewards.

    Args:
        parts: rewards with their weights.
    """

    parts: tuple[tuple[Reward, float], ...]

    def __call__(self, written: Written) -> float:
        """The loss of texts: of each reward the mean."""
        numbers = zip(self.parts, self._numbers(written), strict=True)
        return 0.0 - math.fsum([weight * math.fsum(one) / len(written) for (_, weight), one in numbers])

    def each(self, written: Written) -> list[float]:
        """The sum of each text [N]."""
        numbers = zip(self.parts, self._numbers(written), strict=True)
        found = [[weight * value for value in one] for (_, weight), one in numbers]
        return [math.fsum(values) for values in zip(*found, strict=True)]

    def _numbers(self, written: Written) -> list[list[float]]:
        """Each reward of each text [R][N]; 0 where one does not apply."""
        several = [reward for reward, _ in self.parts]
        return rewards.somewhere(several, [reward.where_it_applies(written) for reward in several], written)


@register
class MinusReward(Objective):
    """Minus the mean reward of what is written; of several rewards, their weighted sum."""

    kind: ClassVar[str] = "reward"
    summary: ClassVar[str] = (
        "minus the mean reward of the texts that candidates write: named rewards, or functions as trl's GRPO takes them"
    )
    of: ClassVar[frozenset[str]] = frozenset({"texts"})

    rewards: dict[str, float] = Field(
        default={},
        description="reward -> weight: a name (`tandemtune ls rewards`), or module:function or file.py:function for one of your own; "
        "judge for the grades of [mentor]'s model; the task's metric if left out",
    )
    rubric: str = Field(
        default="",
        description="of the reward judge: what a good answer is. Prompts and texts are shown to [mentor]'s model, which may be elsewhere",
    )
    grades: Annotated[int, Field(ge=1, le=100)] = Field(
        default=10, description="of the reward judge: the highest grade"
    )
    show_references: bool = Field(default=False, description="of the reward judge: show it the right answers, too")
    sampled_at: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = Field(
        default=0.0,
        description="temperature at which texts are sampled in the search, with the same random numbers for all candidates; 0 "
        "for the most likely tokens",
    )

    @field_validator("rewards", mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        """Names, functions, or a table of either with weights."""
        several = given if isinstance(given, Mapping) else dict.fromkeys(_listed(given), 1.0)
        named = {one if isinstance(one, str) else plugins.address_of(one): weight for one, weight in several.items()}
        for name, weight in named.items():
            if isinstance(weight, bool) or not isinstance(weight, Real) or not math.isfinite(weight):
                raise ValueError(f"the weight of {name} is {weight!r}, expected a finite number")
        if named and not any(named.values()):
            raise ValueError("all weights are 0, so all texts would be worth the same: give one reward another weight")
        return {plugins.absolute(name): float(weight) for name, weight in named.items()}

    @property
    def temperature(self) -> float:
        """At which texts are sampled while candidates are scored."""
        return self.sampled_at

    def judge(self, task: TextTask, grader: Reward | None = None) -> WeightedSum:
        """Minus the weighted sum of all mean rewards."""
        known = {NAME: grader or Reward(NAME, "nobody grades", _nobody)}
        found = [
            (known.get(name) or asked_once(rewards.get(name, task.seconds), task.reward), weight)
            for name, weight in self.rewards.items()
        ]
        return WeightedSum(tuple(found or [(task.reward, 1.0)]))

    @property
    def grading(self) -> tuple[Any, ...] | None:
        """Rubric, highest grade, and whether right answers are shown."""
        return (self.rubric, self.grades, self.show_references) if NAME in self.rewards else None

    def problems(self, recipe: Any) -> Iterator[str]:
        """Rewards that there are not, or that lack something."""
        yield from super().problems(recipe)
        if self.asks_model != bool(self.rubric.strip()):
            yield f"[method] rubric: what the reward {NAME} grades by; give both or none of them"
        if self.asks_model and recipe.mentor.client == "file":
            yield f"[mentor] client: file, but the reward {NAME} asks about every text: choose endpoint or local"
        for name in self.named_rewards:
            try:
                found = rewards.get(name)
            except UsageError as error:
                yield f"[method] rewards: {error}"
                continue
            lacks = recipe.task.lacks(found.needs)
            if lacks:
                yield f"[method] rewards: {found.name} needs {lacks}"

    def named(self) -> list[tuple[str, str]]:
        """The rewards by noun and name."""
        return [("reward", name) for name in self.named_rewards]

    @property
    def named_rewards(self) -> list[str]:
        """Rewards but the grades of a model."""
        return [name for name in self.rewards if name != NAME]


def _nobody(written: Written) -> Sequence[float]:
    raise UsageError(f"reward {NAME}: nobody was asked to grade texts, expected a run of a recipe with [mentor]")


def _listed(given: Any) -> Sequence[str | Callable[..., Any]]:
    if isinstance(given, str) or callable(given):
        return [given]
    if not isinstance(given, list | tuple):
        raise ValueError(f"expected a name, a list of names or a table of weights, got {given!r}")
    return list(given)

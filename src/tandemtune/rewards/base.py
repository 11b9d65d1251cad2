"""The interface of rewards: texts in, one number for each row out. A text task's metric is a reward, too."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tandemtune import plugins
from tandemtune.errors import UsageError
from tandemtune.plugins import register


@dataclass(frozen=True)
class Written:
    """Texts that a model wrote, with what they are judged by.

    Args:
        prompts: what the model was given [N].
        completions: what it wrote [N].
        references: right answers of each row [N]; empty where there are none.
        columns: all columns of the rows by name, [N] each.
        settings: of the task, for rewards that need some (a JSON schema).
    """

    prompts: Sequence[str]
    completions: Sequence[str]
    references: Sequence[Sequence[str]]
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.completions)

    def of(self, rows: Sequence[int]) -> Written:
        """Some rows alone."""
        columns = {name: [values[row] for row in rows] for name, values in self.columns.items()}
        prompts, completions, references = (
            [values[row] for row in rows] for values in (self.prompts, self.completions, self.references)
        )
        return Written(prompts, completions, references, columns, self.settings)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Reward:
    """A reward and what others need to know of it.

    Args:
        name: what recipes and reports call it.
        summary: one line on what it measures.
        rows: a number for each row.
        corpus: the score of all rows together, where that is not the mean over rows.
        needs: what a task must have: "references", or the name of a setting; empty for nothing.
        package: what has to be installed; empty for nothing.
        lower: no number is below it.
        upper: no number is above it.
    """

    name: str
    summary: str
    rows: Callable[[Written], Sequence[float]]
    corpus: Callable[[Written], float] | None = None
    needs: str = ""
    package: str = ""
    lower: float = 0.0
    upper: float = 1.0

    def each(self, written: Written) -> list[float]:
        """The number of each row [N].

        Raises:
            UsageError: a reward that is no number; names the row.
        """
        return checked(self.name, self.rows(written), len(written))

    def score(self, written: Written) -> float:
        """The score of all rows together.

        Raises:
            UsageError: there are no rows, or a reward is no number.
        """
        if not len(written):
            raise UsageError(f"metric {self.name!r} has no rows to score, expected at least one")
        if self.corpus is not None:
            return self.corpus(written)
        found = self.each(written)
        return math.fsum(found) / len(found)


def checked(name: str, found: Any, rows: int) -> list[float]:
    """What a reward gave, as numbers.

    Args:
        name: of the reward.
        found: what it gave.
        rows: how many it was asked for.

    Raises:
        UsageError: it is no list of so many numbers; names the first row that has none.
    """
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise UsageError(f"reward {name!r} gave {_shown(found)}, expected a list of {rows} numbers")
    if len(found) != rows:
        raise UsageError(f"reward {name!r} gave {len(found)} numbers for {rows} texts, expected one for each")
    for row, value in enumerate(found):
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise UsageError(f"reward {name!r}, row {row + 1}: {_shown(value)}, expected a finite number")
    return [float(value) for value in found]


def get(reward: str, seconds: float = 60.0) -> Reward:
    """A reward by its name or address.

    Args:
        reward: a registered name, ``"package.module:name"`` or ``"path/file.py:name"`` of a function.
        seconds: time limit of one call of a function.

    Raises:
        UsageError: there is no such reward, or its package is not installed.
    """
    if plugins.is_address(reward):
        from tandemtune.rewards.own import own_reward

        return own_reward(reward, seconds)
    found: Reward = plugins.find("reward", reward)
    if found.package:
        needed(found.package, found.name)
    return found


def needed(package: str, name: str) -> None:
    """Refuse a reward whose package is not installed.

    Raises:
        UsageError: says how to install it.
    """
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise UsageError(
            f"reward {name!r} needs the package {package.replace('_', '-')}: pip install 'tandemtune[generation]'"
        )


def add(reward: Reward) -> Reward:
    """Make a reward known by its name."""
    register("reward", reward.name)(reward)
    return reward


def best_over(
    references: Sequence[Sequence[str]], completions: Sequence[str], alike: Callable[[str, str], float]
) -> list[float]:
    """How alike each completion is to the reference that it is most alike to; 0 where there is none."""
    return [
        max((alike(completion, reference) for reference in several), default=0.0)
        for completion, several in zip(completions, references, strict=True)
    ]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

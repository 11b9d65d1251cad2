"""The interface of rewards: texts in, one number for each row out. A text task's metric is a reward, too."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tandemtune import plugins
from tandemtune.errors import RewardError, UsageError
from tandemtune.plugins import register


@dataclass(frozen=True)
class Length:
    """How long a run is at most, as far as its recipe says that.

    Args:
        turns: of its optimizers, one after another; None where only time or tokens end them.
        share: of the training rows, as many as one turn reads; None where stretches differ in it.
    """

    turns: int | None = None
    share: float | None = None


@dataclass(frozen=True)
class Written:
    """Texts that a model wrote, with what they are judged by.

    Args:
        prompts: as they were before truncation, without words or demonstrations that a method adds [N].
        completions: what it wrote [N].
        references: right answers of each row [N]; empty where there are none.
        columns: all columns of the rows by name, [N] each.
        settings: of the task, for rewards that need some (a JSON schema).
        rows: what messages call each row [N]; empty where nobody says.
        ids: tokens of the completions, and the mark at the end of each that ends by one [N]; empty where nobody says.
        questions: what was asked in the model's own form of conversation, without that form [N]; empty where it was not asked so.
        system: what the system says before each of these; None for nothing of the task's own.
        step: the generation in which candidates wrote them; 0 where a point is measured.
        length: of the run.
    """

    prompts: Sequence[str]
    completions: Sequence[str]
    references: Sequence[Sequence[str]]
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[str] = ()
    ids: Sequence[Sequence[int]] = ()
    questions: Sequence[str] = ()
    system: str | None = None
    step: int = 0
    length: Length = Length()

    def __len__(self) -> int:
        return len(self.completions)

    def of(self, rows: Sequence[int]) -> Written:
        """Some rows alone."""
        columns = {name: [values[row] for row in rows] for name, values in self.columns.items()}
        lists = ("prompts", "completions", "references", "rows", "ids", "questions")
        picked: dict[str, Any] = {
            name: [values[row] for row in rows] for name in lists if (values := getattr(self, name))
        }
        return replace(self, **picked, columns=columns)

    def told(self, row: int) -> str:
        """A row as messages show it, with what was written for it."""
        where = self.rows[row] if self.rows else f"row {row + 1}"
        return f"{where} (completion {shown(self.completions[row])})"


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
        code: where a function of the user's lies; empty for others.
    """

    name: str
    summary: str
    rows: Callable[[Written], Sequence[float | None]]
    corpus: Callable[[Written], float] | None = None
    needs: str = ""
    package: str = ""
    lower: float = 0.0
    upper: float = 1.0
    code: str = ""

    def each(self, written: Written) -> list[float]:
        """The number of each row [N].

        Raises:
            RewardError: a reward that is no number, or does not apply to a row; shows the row.
        """
        return somewhere([self], [self.where_it_applies(written)], written)[0]

    def where_it_applies(self, written: Written) -> list[float | None]:
        """The number of each row [N]; None where a function says that it does not apply.

        Raises:
            RewardError: a reward that is no number; shows the row.
        """
        return checked(self.name, self.rows(written), written, code=self.code)

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


def checked(name: str, found: Any, written: Written, *, code: str = "") -> list[float | None]:
    """What a reward gave, as numbers; None stays, for a row to which it does not apply.

    Args:
        name: of the reward.
        found: what it gave.
        written: what it was asked about.
        code: where it lies, if it is a function of the user's.

    Raises:
        RewardError: it is no list of so many numbers; shows the first row that has none.
    """
    rows = len(written)
    if not one_each(found, rows):
        raise RewardError(f"reward {name!r} gave {counted(found, rows)}", code)
    numbers = [_finite(value) for value in found]
    for row, (value, number) in enumerate(zip(found, numbers, strict=True)):
        if value is not None and number is None:
            raise RewardError(
                f"reward {name!r} gave {shown(value)} for {written.told(row)}, expected a finite number", code
            )
    return numbers


def one_each(found: Any, rows: int) -> bool:
    """Whether what a reward gave is a list with something for each of so many texts."""
    return isinstance(found, Sequence) and not isinstance(found, str) and len(found) == rows


def counted(found: Any, rows: int) -> str:
    """What a reward gave in place of one number for each of so many texts."""
    if not isinstance(found, Sequence) or isinstance(found, str):
        return f"{shown(found)}, expected a list of {rows} {'number' if rows == 1 else 'numbers'}"
    what, texts = "number" if len(found) == 1 else "numbers", "text" if rows == 1 else "texts"
    return f"{len(found)} {what} for {rows} {texts}, expected one for each"


def _finite(value: Any) -> float | None:
    """A number as rewards are added up; None for what is none, or has no end or no place among them."""
    if not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def somewhere(
    rewards: Sequence[Reward], found: Sequence[Sequence[float | None]], written: Written
) -> list[list[float]]:
    """Numbers of several rewards [R][N], 0 where one does not apply to a row.

    Raises:
        RewardError: none of them applies to a row; shows it.
    """
    for row in range(len(written)):
        if all(values[row] is None for values in found):
            names = " and ".join(repr(reward.name) for reward in rewards)
            raise RewardError(
                f"reward {names} gave None for {written.told(row)}: expected a number from one reward at least, and from a metric for each row",
                rewards[0].code,
            )
    return [[0.0 if value is None else value for value in values] for values in found]


def get(reward: str, seconds: float = 60.0) -> Reward:
    """A reward by its name or address.

    Args:
        reward: a registered name, ``"package.module:name"`` or ``"path/file.py:name"`` of a function.
        seconds: time limit of one call of a function.

    Raises:
        UsageError: there is no reward of that name, or its package is not installed. Whether a function lies where an address says
            shows when it is asked, or by `tandemtune.rewards.finding`.
    """
    if plugins.is_address(reward):
        from tandemtune.rewards.own import own_reward

        return own_reward(reward, seconds)
    found = plugins.find("reward", reward)
    if not isinstance(found, Reward):  # a function that was registered
        from tandemtune.rewards.own import own_reward

        return own_reward(plugins.place_of(found), seconds, reward)
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


def shown(value: Any) -> str:
    """A value in messages, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

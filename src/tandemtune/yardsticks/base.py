"""What a yardstick is: a classifier that is fitted to texts and labels, and asked about other texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tandemtune.errors import UsageError
from tandemtune.plugins import Member

FOLDS = 10


@dataclass(frozen=True)
class Answers:
    """What a classifier says of some texts.

    Args:
        labels: in alphabetical order.
        probabilities: [N, len(labels)].
    """

    labels: tuple[str, ...]
    probabilities: NDArray[np.float64]

    @property
    def predicted(self) -> tuple[str, ...]:
        """The most likely label of each text."""
        return tuple(self.labels[index] for index in self.probabilities.argmax(axis=1))


class Yardstick(Member):
    """Base of the classifiers that a run may be measured against.

    Attributes:
        package: module that it needs; empty for none.
        extra: what installs that.
    """

    noun: ClassVar[str] = "yardstick"
    package: ClassVar[str] = ""
    extra: ClassVar[str] = ""

    def answers(self, texts: Sequence[str], labels: Sequence[str], others: Sequence[str]) -> Answers:
        """Learn from labelled texts, and answer for others.

        Args:
            texts: N texts to learn from.
            labels: of each.
            others: texts to label.
        """
        raise NotImplementedError

    def without(self, texts: Sequence[str], labels: Sequence[str]) -> Answers:
        """What it says of each text after learning from others: those of all other folds, unless a subclass knows better.

        Args:
            texts: N texts.
            labels: of each; every label is spread evenly over the folds.
        """
        names = tuple(sorted(set(labels)))
        place: dict[str, int] = {}
        parts = np.empty(len(texts), dtype=int)
        for index, label in enumerate(labels):
            parts[index] = place[label] = (place.get(label, -1) + 1) % FOLDS
        found = np.zeros((len(texts), len(names)))
        for fold in sorted(set(parts.tolist())):
            kept: list[int] = np.flatnonzero(parts != fold).tolist()
            asked: list[int] = np.flatnonzero(parts == fold).tolist()
            if len({labels[i] for i in kept}) < 2:
                found[asked] = 1 / len(names)
                continue
            answers = self.answers([texts[i] for i in kept], [labels[i] for i in kept], [texts[i] for i in asked])
            columns = [names.index(label) for label in answers.labels]
            found[np.array(asked)[:, None], np.array(columns)] = answers.probabilities
        return Answers(names, found)

    @classmethod
    def available(cls) -> bool:
        """Whether what it needs is installed."""
        return not cls.package or find_spec(cls.package) is not None

    @classmethod
    def check(cls) -> None:
        """Refuse to begin without what it needs.

        Raises:
            UsageError: says what to install.
        """
        if not cls.available():
            raise UsageError(
                f"[run] yardsticks: {cls.kind} needs {cls.package}: pip install 'tandemtune[{cls.extra}]', or leave it out"
            )

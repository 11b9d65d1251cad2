"""Ridge regression on frozen sentence embeddings; its strength is chosen by leave-one-out predictions, which cost nothing more
(Rasmussen & Williams 2006, eq. 5.10 to 5.12)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tandemtune.models.sentence import MODEL, embed
from tandemtune.plugins import register
from tandemtune.yardsticks.base import Answers, Yardstick

Matrix = NDArray[np.float64]
NOISES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
SCALES = tuple(0.5 * 1.4**i for i in range(14))
"""Strengths of the penalty, and factors from predictions of one-hot labels to logits, that are tried."""


@register
class EmbeddingRidge(Yardstick):
    """A small sentence encoder, frozen, and a ridge regression of the labels on what it says."""

    kind: ClassVar[str] = "embedding"
    summary: ClassVar[str] = "frozen sentence embeddings (all-MiniLM-L6-v2), ridge regression"
    source: ClassVar[str] = "arXiv 1908.10084"

    model: str = Field(MODEL, description="an encoder: pypi:KEY, a local folder or a hub id")

    def answers(self, texts: Sequence[str], labels: Sequence[str], others: Sequence[str]) -> Answers:
        """Embed all texts, and solve the regression on the labelled ones."""
        names, targets = _one_hot(labels)
        logits, _ = ridge(self._embedded(texts), targets, self._embedded(others))
        return Answers(names, _softmax(logits))

    def without(self, texts: Sequence[str], labels: Sequence[str]) -> Answers:
        """What it says of each text after learning from all others, exactly."""
        names, targets = _one_hot(labels)
        known = self._embedded(texts)
        _, logits = ridge(known, targets, known[:0])
        return Answers(names, _softmax(logits))

    def _embedded(self, texts: Sequence[str]) -> Matrix:
        return _embedded(self.model, tuple(texts))


@lru_cache(maxsize=4)
def _embedded(model: str, texts: tuple[str, ...]) -> Matrix:
    return embed(texts, model=model).astype(float)


def _one_hot(labels: Sequence[str]) -> tuple[tuple[str, ...], Matrix]:
    names = tuple(sorted(set(labels)))
    return names, np.array([[float(label == name) for name in names] for label in labels])


def ridge(known: Matrix, targets: Matrix, others: Matrix) -> tuple[Matrix, Matrix]:
    """Label logits by a ridge regression on labelled rows.

    Args:
        known: features [N, F].
        targets: one-hot labels [N, C].
        others: features [M, F].

    Returns:
        [M, C] of the other rows, and [N, C] of each labelled row by all other labelled ones; of the penalties and factors tried,
        those with the lowest cross-entropy of the latter.
    """
    middle, share = known.mean(axis=0), targets.mean(axis=0)
    left, values, right = np.linalg.svd(known - middle, full_matrices=False)
    turned, gold = left.T @ (targets - share), targets.argmax(axis=1)
    best: tuple[float, Matrix, Matrix] | None = None
    for noise in NOISES:
        shrunk = values**2 / (values**2 + noise)
        reach = np.minimum((left**2 * shrunk).sum(axis=1) + 1 / len(known), 1 - 1e-9)
        predicted = share + left @ (shrunk[:, None] * turned)
        without = targets - (targets - predicted) / (1 - reach)[:, None]
        for scale in SCALES:
            chances = _softmax(scale * without)[np.arange(len(gold)), gold]
            loss = float(-np.log(np.maximum(chances, 1e-300)).mean())
            if best is None or loss < best[0]:
                weights = right.T @ ((values / (values**2 + noise))[:, None] * turned)
                best = loss, scale * (share + (others - middle) @ weights), scale * without
    assert best is not None
    return best[1:]


def _softmax(logits: Matrix) -> Matrix:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: Matrix = shifted / shifted.sum(axis=1, keepdims=True)
    return found


def embedding(texts: Sequence[str], labels: Sequence[str], others: Sequence[str]) -> Answers:
    """Ridge regression on sentence embeddings of labelled texts, asked about others.

    Raises:
        AssetError: the encoder could not be fetched.
    """
    return EmbeddingRidge(model=MODEL).answers(texts, labels, others)

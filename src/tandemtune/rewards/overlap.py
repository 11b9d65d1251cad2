"""BLEU and chrF by `sacrebleu`, ROUGE-L by `rouge-score`: what papers report, from 0 to 1 in place of 0 to 100.

As a reward of a row BLEU is smoothed (Lin and Och, COLING 2004), since a short text often has no four words in a row right.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandemtune.rewards.base import Reward, Written, add, best_over
from tandemtune.rewards.words import pieces


def _columns(written: Written) -> list[list[str | None]]:
    """References as `sacrebleu` takes them: the first of each row, the second of each, and so on; None where there is none, since
    an empty text would be the shortest reference of all, and no answer too short for it."""
    most = max((len(several) for several in written.references), default=0)
    return [[(several[i] if i < len(several) else None) for several in written.references] for i in range(most)]


@cache
def _sacrebleu(name: str, **options: Any) -> Any:
    import sacrebleu

    return getattr(sacrebleu, name)(**options)


class OfAll:
    """A score of `sacrebleu` of all texts together. It is made of counts that are added up over rows, so the texts are looked at once for the
    scores of any of them.

    Args:
        name: of the metric there.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, written: Written) -> float:
        """The score of all rows."""
        return _share(_sacrebleu(self.name).corpus_score(list(written.completions), _columns(written)).score)

    def of_parts(self, written: Written) -> Callable[[NDArray[np.int64]], float]:
        """What gives the score of some rows, each as often as its number comes."""
        metric = _sacrebleu(self.name)
        counts = np.array(metric._extract_corpus_statistics(list(written.completions), _columns(written)))
        return lambda rows: _share(metric._compute_score_from_stats(counts[rows].sum(axis=0).tolist()).score)


def _sentences(name: str, written: Written, **options: Any) -> list[float]:
    metric = _sacrebleu(name, **options)
    return [
        _share(metric.sentence_score(completion, list(several)).score)
        for completion, several in zip(written.completions, written.references, strict=True)
    ]


def _share(percent: float) -> float:
    """What a hundred rounds beyond."""
    return min(1.0, float(percent) / 100)


class _Words:
    """Words of any script, where `rouge-score` alone would see those of a to z and digits only."""

    def tokenize(self, text: str) -> list[str]:
        """The words in small letters."""
        return pieces(text.lower())


@cache
def _rouge(plain: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"]) if plain else RougeScorer(["rougeL"], tokenizer=_Words())


def _plain(text: str) -> bool:
    """Whether all letters of a text are those from a to z."""
    return not any(sign.isalpha() and not sign.isascii() for sign in text)


def _rouge_l(written: Written) -> list[float]:
    def alike(completion: str, reference: str) -> float:
        scorer = _rouge(_plain(completion) and _plain(reference))
        return float(scorer.score(reference, completion)["rougeL"].fmeasure)

    return best_over(written.references, written.completions, alike)


BLEU = add(
    Reward(
        "bleu",
        "BLEU-4 of all texts together; of a row as a reward, smoothed",
        lambda written: _sentences("BLEU", written, effective_order=True),
        OfAll("BLEU"),
        needs="references",
        package="sacrebleu",
    )
)
CHRF = add(
    Reward(
        "chrf",
        "F2 of character n-grams, of all texts together",
        lambda written: _sentences("CHRF", written),
        OfAll("CHRF"),
        needs="references",
        package="sacrebleu",
    )
)
ROUGE_L = add(
    Reward(
        "rouge_l",
        "F1 of the longest common subsequence of words (of Chinese and Japanese: of signs), with the nearest reference",
        _rouge_l,
        needs="references",
        package="rouge_score",
    )
)

"""Whether two methods differ: paired sign flips over the runs that both have, and intervals of means."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from statistics import NormalDist, mean, stdev
from typing import Any

from tandemtune import plugins
from tandemtune.errors import UsageError
from tandemtune.report.ranks import ROUNDING
from tandemtune.rewards.base import Reward
from tandemtune.runs.records import Record
from tandemtune.tasks.metrics import Metric

EXACT = 14
"""Pairs up to which all sign flips are counted; above, a seeded sample of them."""
SAMPLE = 20_000
Key = tuple[str, int]
"""A column of a comparison and a seed."""


class Paired(Record):
    """A two-sided sign-flip test of a mean difference.

    Args:
        difference: mean of the pairs' differences.
        p: share of all sign flips whose mean is at least as far from zero.
        pairs: their number.
        wins: a tie counted half.
        ties: pairs without a difference.
    """

    difference: float
    p: float
    pairs: int
    wins: float
    ties: int


def paired(one: Mapping[Key, float], other: Mapping[Key, float]) -> Paired | None:
    """A two-sided sign-flip (permutation) test of the mean difference over the pairs that both have.

    Args:
        one: score by pair.
        other: the baseline's.

    Returns:
        The test, by all sign flips; beyond `EXACT` pairs by a seeded sample of them, the observed signs counted in. None
        without pairs.
    """
    differences = [one[key] - other[key] for key in one if key in other]
    if not differences:
        return None
    count, total = len(differences), sum(differences)
    least = abs(total) - 2 * ROUNDING * count
    if count <= EXACT:
        flips = itertools.product((1, -1), repeat=count)
        hits = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= least for signs in flips]
        p = float(mean(hits))
    else:
        generator = random.Random(0)
        drawn = (generator.getrandbits(count) for _ in range(SAMPLE))
        sums = (total - 2 * sum(d for i, d in enumerate(differences) if bits >> i & 1) for bits in drawn)
        p = (1 + sum(abs(flipped) >= least for flipped in sums)) / (1 + SAMPLE)
    won, ties = sum(d > ROUNDING for d in differences), sum(abs(d) <= ROUNDING for d in differences)
    difference = mean(differences) + 0.0  # no negative zero
    return Paired(difference=difference, p=p, pairs=count, wins=won + ties / 2, ties=ties)


def mean_interval(values: Sequence[float], bounds: tuple[float, float]) -> tuple[float, float] | None:
    """Student's 95 % interval of a mean of scores; None for fewer than three values, which say too little.

    The quantile is Cornish and Fisher's expansion, within 0.5 % from three degrees of freedom on; the first two are exact.

    Args:
        values: the scores.
        bounds: no score lies outside, so no mean does; infinite where nothing is known.
    """
    count = len(values)
    if count < 3:
        return None
    half = _student(count - 1) * stdev(values) / math.sqrt(count)
    low, high = bounds if bounds[0] <= min(values) and max(values) <= bounds[1] else (-math.inf, math.inf)
    return max(low, mean(values) - half), min(high, mean(values) + half)


def score_bounds(metrics: Iterable[str]) -> tuple[float, float]:
    """Between what scores of some metrics lie; infinite for one of the user's that says nothing."""
    lows, highs = [], []
    for name in metrics:
        found: Any = None
        for noun in ("metric", "reward"):
            with suppress(UsageError):
                found = found or plugins.find(noun, name)
        lows.append(found.lower if isinstance(found, Metric | Reward) else -math.inf)
        highs.append(found.upper if isinstance(found, Metric | Reward) else math.inf)
    return min(lows, default=-math.inf), max(highs, default=math.inf)


def _student(freedom: int) -> float:
    exact = {1: 12.7062, 2: 4.3027}
    if freedom in exact:
        return exact[freedom]
    z, v = NormalDist().inv_cdf(0.975), freedom
    terms = (
        (z**3 + z) / (4 * v),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3),
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4),
    )
    return z + sum(terms)

"""Whether two methods differ: paired sign flips over the runs that both have, and intervals of means."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from statistics import NormalDist, mean, stdev

from tandemtune.report.ranks import ROUNDING
from tandemtune.runs.records import Record

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


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's 95 % interval of a mean of scores, cut to 0 and 1; None for fewer than three values, which say too little.

    The quantile is Cornish and Fisher's expansion, within 0.5 % from three degrees of freedom on; the first two are exact.
    """
    count = len(values)
    if count < 3:
        return None
    half = _student(count - 1) * stdev(values) / math.sqrt(count)
    return max(0.0, mean(values) - half), min(1.0, mean(values) + half)


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

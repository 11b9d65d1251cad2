"""Classes that were left out of tasks (base-to-new), over the runs of a comparison: scores among the seen and the unseen ones, and their
harmonic mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from statistics import mean, stdev

from tandemtune.report.numbers import score
from tandemtune.runs.records import Result, UnseenClasses

UnseenScores = dict[str, tuple[float, ...]]
"""Scores of each run by what they are."""
ZERO_SHOT = "(zero-shot)"
_Read = Callable[[Result, UnseenClasses], float | None]
_TUNED: dict[str, _Read] = {
    "seen classes": lambda result, unseen: (result.tuned_words or result.tuned).test,
    "unseen classes": lambda result, unseen: unseen.tuned,
    "harmonic mean": lambda result, unseen: unseen.harmonic,
}
_PRETRAINED: dict[str, _Read] = {
    "seen classes": lambda result, unseen: result.zero_shot.test,
    "unseen classes": lambda result, unseen: unseen.zero_shot,
    "harmonic mean": lambda result, unseen: unseen.harmonic_zero_shot,
}


def unseen_scores(results: Mapping[str, Iterable[Result]], shared: Iterable[Result]) -> dict[str, UnseenScores]:
    """Scores of methods, and of the pretrained model, in runs that left classes out; empty where none did.

    Args:
        results: of each method.
        shared: one result for each task and seed, for what all methods share.
    """
    found = {name: _scores(several, _TUNED) for name, several in results.items()}
    found[ZERO_SHOT] = _scores(shared, _PRETRAINED)
    return {name: scores for name, scores in found.items() if scores["unseen classes"]}


def unseen_rows(found: Mapping[str, UnseenScores]) -> tuple[list[str], list[list[str]]]:
    """The same as text cells, mean and standard deviation over runs: headers and rows."""
    return ["method", *_TUNED], [[name, *map(_cell, scores.values())] for name, scores in found.items()]


def _scores(results: Iterable[Result], reads: Mapping[str, _Read]) -> UnseenScores:
    known = [(result, result.unseen) for result in results if result.unseen is not None]
    values = {name: [read(result, unseen) for result, unseen in known] for name, read in reads.items()}
    return {name: tuple(value for value in several if value is not None) for name, several in values.items()}


def _cell(values: tuple[float, ...]) -> str:
    if not values:
        return "–"
    return score(mean(values)) + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")

"""What is wrong with the labels, label words and metric of a task, one sentence for each problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tandemtune.tasks.metrics as metrics
from tandemtune.errors import UsageError
from tandemtune.tasks.metrics import METRICS, Metric


def label_problems(labels: Sequence[str]) -> list[str]:
    """What is wrong with the names of labels.

    Args:
        labels: in their order.
    """
    problems = []
    if len(labels) < 2:
        problems.append(f"labels: {list(labels)}, expected at least two")
    if len(set(labels)) != len(labels):
        twice = sorted({label for label in labels if labels.count(label) > 1})
        problems.append(f"labels: {', '.join(map(repr, twice))} named more than once")
    if any(not label.strip() for label in labels):
        problems.append("labels: an empty name, expected a word for every label")
    return problems


def word_problems(labels: Sequence[str], words: Mapping[str, Sequence[str]]) -> list[str]:
    """What is wrong with label words.

    Args:
        labels: names of the labels.
        words: of each label.
    """
    problems = []
    owners: dict[str, str] = {}
    for label in dict.fromkeys(labels):
        if not words.get(label):
            problems.append(f"label {label!r}: no label word, expected at least one")
        for word in words.get(label, ()):
            if not word.strip():
                problems.append(f"label {label!r}: an empty label word {word!r}")
            elif any(char in word for char in "{}\n\r"):
                problems.append(f"label {label!r}: label word {word!r} holds a brace or a line break")
            owner = owners.setdefault(word, label)
            if owner != label:
                problems.append(f"label word {word!r}: used for both {owner!r} and {label!r}")
    problems += [
        f"label words for {label!r}: no such label, expected one of {', '.join(map(repr, labels))}"
        for label in words
        if label not in labels
    ]
    return problems


def metric_problems(metric: Metric | str, labels: Sequence[str], positive: str | None) -> list[str]:
    """What is wrong with a metric.

    Args:
        metric: the metric or its name.
        labels: names of the labels.
        positive: the label that it counts, where it counts one.
    """
    try:
        found = metrics.get(metric) if isinstance(metric, str) else metric
    except UsageError:
        return [f"metric {metric!r}: not known, expected one of {', '.join(METRICS)}"]
    if found.needs_positive and positive is None:
        return [f"metric {found.name!r}: needs a positive label, the one that it counts"]
    if positive is not None and positive not in labels:
        return [f"positive label {positive!r}: not one of the labels {', '.join(labels)}"]
    return []

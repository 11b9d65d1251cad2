"""What can be wrong with labels and label words, found without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def label_problems(labels: Sequence[str]) -> list[str]:
    """What is wrong with the names of labels, one sentence each."""
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
    """What is wrong with label words, one sentence each."""
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

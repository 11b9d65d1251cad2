"""Small tasks with whole answers to choose from: phrases for all rows, or texts of each row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import small

PHRASES = {"negative": "very bad", "positive": "very good and great"}
ENDINGS = (("the plot was dull", "great acting"), ("it was fine", "a terrible film , never"), ("yes", "no and no"))


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows of random words with two answers each, of which the label counts one."""
    return [
        {
            "text": row["text"],
            "first": ENDINGS[i % 3][0],
            "second": ENDINGS[i % 3][1],
            "endings": list(ENDINGS[i % 3]),
            "right": i % 2,
        }
        for i, row in enumerate(small.rows(count, seed, labels=("only",)))
    ]


def phrases(place: Path, model: str = "llama", **changes: Any) -> dict[str, dict[str, Any]]:
    """A recipe with phrases as label words."""
    return small.recipe(place, model, **{"task__labels": PHRASES, "task__choices": "phrases", **changes})


def columns(place: Path, model: str = "llama", **changes: Any) -> dict[str, dict[str, Any]]:
    """A recipe whose rows have their own answers."""
    for name, seed in (("train", 1), ("test", 2)):
        small.write_rows(place / f"{name}.jsonl", rows(24, seed))
    base = {
        "task__labels": {"0": "first", "1": "second"},
        "task__choices": "columns",
        "task__label_column": "right",
        "task__template": "{text} so {mask}",
    }
    return small.recipe(place, model, **{**base, **changes})

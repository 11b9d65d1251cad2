"""Small tasks that are answered with texts, and a reward function in every state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import small

ANSWERS = ("great film", "terrible plot and acting", "it was fine", "dull")


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows of random words with one or two references each."""
    made = small.rows(count, seed, labels=("only",))
    return [
        {"text": row["text"], "answer": list(ANSWERS[i % 3 : i % 3 + 1 + i % 2]), "length": 3 + i % 3}
        for i, row in enumerate(made)
    ]


def recipe(place: Path, model: str = "llama", **changes: Any) -> dict[str, dict[str, Any]]:
    """A recipe of a task that is answered with texts, over files in `place`."""
    for name, seed in (("train", 1), ("test", 2)):
        if not (place / f"{name}.jsonl").exists():
            small.write_rows(place / f"{name}.jsonl", rows(12, seed))
    base = {
        "task__labels": None,
        "task__answer": "answer",
        "task__metric": "token_f1",
        "task__max_new_tokens": 5,
        "method__budget": 40,
        "method__popsize": 4,
    }
    return small.recipe(place, model, **{**base, **changes})


REWARDS = '''
"""Rewards of tests."""

import os
import time
from pathlib import Path


def length(prompts, completions, length, **columns):
    """How near a text is to its length."""
    print("what a function prints harms nobody")
    return [-abs(len(text.split()) - wanted) for text, wanted in zip(completions, length)]


def second(prompts, completions):
    return [float("was" in text) for text in completions]


def asked(prompts, completions):
    """How many words of a prompt are "verily", whatever is written."""
    return [float(prompt.split().count("verily")) for prompt in prompts]


def raises(prompts, completions, **columns):
    raise KeyError("no such thing")


def raises_for_one(prompts, completions, text, **columns):
    if any(one == TEXT for one in text):
        raise ValueError("not this one")
    return [0.0] * len(completions)


def nothing(prompts, completions, **columns):
    return [0.0, float("nan"), *[0.0] * (len(completions) - 2)]


def short(prompts, completions, **columns):
    return [1.0]


def word(prompts, completions, **columns):
    return "good"


def hangs(prompts, completions, **columns):
    time.sleep(1000)


def dies(prompts, completions, **columns):
    os._exit(7)


def breaks_later(prompts, completions, **columns):
    if MARK.exists():
        raise ValueError("now it is broken")
    return [float(len(text.split())) for text in completions]


TEXT = "TEXT"
MARK = Path("MARK")
'''


def rewards_in(place: Path, *, text: str = "", mark: Path | None = None) -> Path:
    """The reward functions as a file."""
    content = REWARDS.replace('"TEXT"', repr(text)).replace('"MARK"', repr(str(mark or place / "mark")))
    path = place / "rewards.py"
    path.write_text(content, encoding="utf-8")
    return path

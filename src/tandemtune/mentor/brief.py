"""What a mentor is told about a task. Plain records; they know no model and no client."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tried:
    """One prompt that was measured.

    Args:
        prompt: its text.
        loss: lower is better.
        score: the task's metric, where it was measured.
    """

    prompt: str
    loss: float
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Brief:
    """Everything a mentor is told in one turn.

    Args:
        definition: what the task is, in a sentence.
        labels: names of the classes.
        label_words: words that the tuned model answers with.
        metric: name of the score.
        manual: a prompt written by a person.
        usage: how the prompt stands beside the text, for example "[PROMPT] Review: {text} Sentiment: [ANSWER]".
        tried: measured prompts, worst first, best last.
        wanted: how many new prompts are asked for.
        limit: tokens of the tuned model that a prompt may have.
        slots: field names that a prompt must hold in braces, each once; usually none.
    """

    definition: str
    labels: tuple[str, ...]
    label_words: tuple[str, ...]
    metric: str
    manual: str | None
    usage: str
    tried: tuple[Tried, ...]
    wanted: int
    limit: int
    slots: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.wanted < 1 or self.limit < 1:
            raise ValueError(f"expected wanted and limit of at least 1, found {self.wanted} and {self.limit}")

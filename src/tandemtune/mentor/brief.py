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
        trained: loss of the trained vectors that it was read from; None for words of their own.
        distance: of these vectors to the words, from 0 (the same) to 2.
        probabilities: mean probability of each label on the training rows, by the trained vectors where there are some; empty if
            it is not known.
        steps: gradient steps from these words to what loss and score are of; 0 for the words as they are.
        residual: whether these steps began at the words plus what had been learned before.
    """

    prompt: str
    loss: float
    score: float | None = None
    trained: float | None = None
    distance: float = 0.0
    probabilities: tuple[float, ...] = ()
    steps: int = 0
    residual: bool = False


@dataclass(frozen=True, slots=True)
class Misread:
    """A row that the tuned model gets wrong.

    Args:
        text: its texts.
        gold: its label, or a right answer; empty where nobody knows one.
        said: the label that was predicted, or what was written.
        reward: of what was written; None for labels.
    """

    text: str
    gold: str
    said: str
    reward: float | None = None


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
        confusion: training rows of each gold label by predicted label, as the tuned model stands; empty if it is not known.
        probabilities: the mean probability of each label on the training rows.
        misread: training rows that it gets wrong, where they may be shown.
        filled: a prompt of fewer tokens than the limit is repeated until it has as many, since so many vectors are tuned.
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
    confusion: tuple[tuple[int, ...], ...] = ()
    probabilities: tuple[float, ...] = ()
    misread: tuple[Misread, ...] = ()
    filled: bool = False

    def __post_init__(self) -> None:
        if self.wanted < 1 or self.limit < 1:
            raise ValueError(f"expected wanted and limit of at least 1, found {self.wanted} and {self.limit}")

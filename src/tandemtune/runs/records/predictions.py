"""What a model says of rows: one line for each, or an assessment of all."""

from __future__ import annotations

from pydantic import Field

from tandemtune.runs.records.base import Loss, Record


class PredictionRecord(Record):
    """One line of ``predictions.jsonl``: a test row, and what the tuned model says of it.

    Args:
        fields: the row's texts by name.
        gold: its true label; None where it is unknown.
        label: the predicted label.
        probabilities: of every label; None for what is not finite; empty where the answer is a text.
        references: right answers, where the answer is a text.
        untuned: what the pretrained model says, where the answer is a text.
        rewards: of the answer, by name, where it is a text.
    """

    fields: dict[str, str]
    gold: str | None
    label: str
    probabilities: dict[str, float | None]
    references: tuple[str, ...] = ()
    untuned: str | None = None
    rewards: dict[str, float] = Field(default={})


class Assessment(Record):
    """How a model does on labelled rows.

    Args:
        metric: the task's.
        score: its value.
        interval: 95 % of bootstrap resamples of the rows lie between.
        loss: mean cross-entropy of the gold labels; None where answers are texts.
        brier: mean squared distance between the probabilities of all labels and the true label's 1 (Brier 1950).
        calibration_error: mean distance between confidence and accuracy, over bins of equally many rows.
        rows: how many.
        labels: names, in the order of the matrix.
        confusion: rows of each gold label by predicted label.
        worst: (row's texts, gold, label, probability of the gold label) of the most confident errors, worst first.
    """

    metric: str
    score: float
    interval: tuple[float, float]
    loss: Loss
    brier: Loss = None
    calibration_error: Loss = None
    rows: int
    labels: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    worst: tuple[tuple[dict[str, str], str, str, float], ...]

    def by_label(self) -> dict[str, tuple[float, float, float]]:
        """Precision, recall and F1 of each label; 0 where there is nothing to divide by."""
        found: dict[str, tuple[float, float, float]] = {}
        for index, label in enumerate(self.labels):
            hits = self.confusion[index][index]
            said, true = sum(row[index] for row in self.confusion), sum(self.confusion[index])
            precision, recall = hits / said if said else 0.0, hits / true if true else 0.0
            both = precision + recall
            found[label] = precision, recall, 2 * precision * recall / both if both else 0.0
        return found

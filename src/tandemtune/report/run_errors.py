"""A run's page: where it errs, by class, by row and by picture; samples where texts are written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from tandemtune.report import predictions as told
from tandemtune.report.charts import BarChart
from tandemtune.report.numbers import Content, score, shortened
from tandemtune.report.page import (
    Block,
    Grid,
    Matrix,
    Picture,
    Pictures,
)
from tandemtune.report.run_view import RunView
from tandemtune.runs.records import (
    PredictionRecord,
)
from tandemtune.tasks.pictures import thumbnail

LONGEST = 400
"""Characters of a text in a table of errors."""
SAMPLES = 8
"""Written texts of the lowest rewards that a report shows, and of the highest."""


def errors(run: RunView) -> list[Block]:
    """Confusion matrix, scores by class, and the most confident errors on test rows."""
    rows = [row for row in run.predictions if row.gold is not None]
    if not rows:
        return _samples(run)
    labels = told.labels_of(rows, run.facts.labels if run.facts else {})
    counts = told.confusion(rows, labels)
    found = told.class_scores(counts, labels)
    classes: list[list[Content]] = [
        [one.label, one.rows, one.predicted, score(one.precision), score(one.recall), score(one.f1)] for one in found
    ]
    headers = ["class", "rows", "predicted", "precision", "recall", "F1"]
    wrong = sum(row.gold != row.label for row in rows)
    parts: list[Block] = [
        f"{wrong:,} of {len(rows):,} test rows are labelled wrongly.",
        Matrix(labels, counts, "Confusion matrix of the test rows"),
    ]
    chart = classes_chart(run)
    parts += [chart] if chart is not None else []
    parts.append(Grid(headers, classes, "Precision, recall and F1 of each class", {1, 2, 3, 4, 5}))
    errors: list[list[Content]] = [
        [_text_of(row), row.gold, row.label, score(row.probabilities.get(row.label)), place]
        for place, row in told.confident_errors(rows)
    ]
    if errors:
        listed = ["text", "gold", "predicted", "probability", "row"]
        count = "The most confident errors" if len(errors) < wrong or wrong > 1 else "The only error"
        parts.append(Grid(listed, errors, count, {3, 4}))
    shown = _pictures(run, rows)
    if shown:
        parts.append(Pictures("The most confident errors, as pictures", shown))
    return parts


def _pictures(run: RunView, rows: Sequence[PredictionRecord]) -> list[Picture]:
    """Small copies of the images that are most confidently labelled wrongly, where rows are images that still lie there."""
    if run.facts is None or run.facts.kind != "image-text":
        return []
    found: list[Picture] = []
    for _, row in told.confident_errors(rows):
        source = thumbnail(Path(next(iter(row.fields.values()))))
        if source is not None:
            says = [f"{row.label} ({score(row.probabilities.get(row.label))})", f"is {row.gold}"]
            found.append(Picture(source, says))
    return found


def _samples(run: RunView) -> list[Block]:
    """Written texts side by side: the row, what the pretrained model wrote, what the tuned one did, a reference, the rewards (the metric is
    the first, by which they are ordered)."""
    written = [row for row in run.predictions if row.rewards]
    if not written:
        return []
    names = [*dict.fromkeys(name for row in written for name in row.rewards)]  # one may not apply to some rows
    name = names[0]
    order = sorted(range(len(written)), key=lambda place: (written[place].rewards[name], place))
    parts: list[Block] = []
    for title, places in (("Lowest rewards", order[:SAMPLES]), ("Highest rewards", order[::-1][:SAMPLES])):
        grid: list[list[Content]] = [
            [
                _text_of(written[place]),
                shortened(written[place].untuned or "–", LONGEST),
                shortened(written[place].label or "–", LONGEST),
                shortened(next(iter(written[place].references), "–"), LONGEST),
                *(score(written[place].rewards.get(one)) for one in names),
                place + 1,
            ]
            for place in places
        ]
        headers = ["text", "untuned", "tuned", "reference", *names, "row"]
        parts.append(Grid(headers, grid, title, {*range(4, len(headers))}))
    if len(names) > 1:
        means = [[one, score(fmean(row.rewards[one] for row in written if one in row.rewards))] for one in names]
        parts.append(Grid(["reward", "mean"], means, "Rewards of the test rows", {1}))
    return parts


def classes_chart(run: RunView) -> BarChart | None:
    """F1 of each class on the test rows; None where none were predicted."""
    rows = [row for row in run.predictions if row.gold is not None]
    if not rows:
        return None
    labels = told.labels_of(rows, run.facts.labels if run.facts else {})
    found = told.class_scores(told.confusion(rows, labels), labels)
    return BarChart(
        title="F1 of each class on the test rows",
        x_label="F1",
        bars=[(one.label, one.f1) for one in found],
        limits=(0, 1),
    )


def _text_of(row: PredictionRecord) -> str:
    fields = list(row.fields.items())
    if len(fields) == 1:
        return shortened(fields[0][1], LONGEST)
    return shortened(" · ".join(f"{name}: {text}" for name, text in fields), LONGEST)

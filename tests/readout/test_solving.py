"""Which of several sets of views a readout reads."""

from __future__ import annotations

import pytest
import torch

from tandemtune.evaluators.features import PassReading
from tandemtune.evaluators.views import ANSWER, ANSWER_MIDDLE, MEAN
from tandemtune.readout.members import RidgeReadout
from tandemtune.readout.solving import clearly_better, solved_with

LABELS = ("bad", "good")


def reading_of(told, count=60):
    """Rows of which each view is noise, with the label in it as strongly as `told` says; and their labels."""
    generator = torch.Generator().manual_seed(3)
    gold = torch.arange(count) % 2
    views = {}
    for view, strength in told.items():
        views[view] = torch.randn(count, 6, generator=generator)
        views[view][:, 0] += strength * (2.0 * gold - 1.0)
    return PassReading(0.01 * torch.randn(count, 2, generator=generator), views), gold


@pytest.mark.parametrize(
    ("told", "taken"),
    [
        ({ANSWER: 1.0, MEAN: 0.0, ANSWER_MIDDLE: 0.0}, (ANSWER,)),
        ({ANSWER: 0.5, MEAN: 3.0, ANSWER_MIDDLE: 0.0}, (ANSWER, MEAN)),
        ({ANSWER: 0.5, MEAN: 0.0, ANSWER_MIDDLE: 3.0}, (ANSWER, ANSWER_MIDDLE)),
        ({ANSWER: 0.5, MEAN: 1.0, ANSWER_MIDDLE: 4.0}, (ANSWER, ANSWER_MIDDLE)),
    ],
    ids=["the answer says it", "the mean does", "the middle does", "the middle more clearly"],
)
def test_a_view_is_added_where_it_tells_clearly_more(told, taken):
    """Of several beside the answer that may be read."""
    reading, gold = reading_of(told)
    member = RidgeReadout(views="auto")
    choices = member.choices((MEAN, ANSWER_MIDDLE))
    assert clearly_better(solved_with(member, views, reading, gold, LABELS) for views in choices).views == taken

"""Losses against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from tandemtune.evaluators.label_words import calibrate
from tandemtune.objectives.black_box import one_minus
from tandemtune.objectives.cross_entropy import CrossEntropy, cross_entropy
from tandemtune.objectives.hinge import Hinge, hinge

NAMES = ["ce", "hinge", "accuracy", "f1"]
LN2, LN3 = math.log(2), math.log(3)
# two candidates, three rows, three labels
LOGITS = torch.tensor(
    [
        [[0.0, 0.0, 0.0], [LN2, 0.0, 0.0], [5.0, 1.0, 4.0]],
        [[3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 3.0]],
    ]
)
LABELS = torch.tensor([0, 1, 0])


def f1_of_class_one(predictions, gold):
    hits = sum(p == g == 1 for p, g in zip(predictions, gold, strict=True))
    named = predictions.count(1) + gold.count(1)
    return 2 * hits / named if named else 0.0


def test_cross_entropy():
    e = math.exp
    first = [LN3, math.log(4), math.log(1 + e(-4) + e(-1))]
    right, wrong = math.log(1 + 2 * e(-3)), math.log(1 + 2 * e(-3)) + 3
    second = [right, right, wrong]
    assert cross_entropy(LOGITS, LABELS).tolist() == pytest.approx([sum(first) / 3, sum(second) / 3], rel=1e-6)


def test_hinge():
    first = [2.0 + 2.0, (2 + LN2) + 2.0, 0.0 + 1.0]
    second = [0.0, 0.0, 2.0 + 5.0]
    assert hinge(LOGITS, LABELS).tolist() == pytest.approx([sum(first) / 3, sum(second) / 3], rel=1e-6)


def test_hinge_with_another_margin():
    assert hinge(LOGITS, LABELS, margin=0.0).tolist() == pytest.approx([LN2 / 3, 3 / 3], rel=1e-6)


def accuracy(predictions, gold):
    return sum(p == g for p, g in zip(predictions, gold, strict=True)) / len(gold)


LOSSES = {
    "ce": CrossEntropy().loss(None),
    "hinge": Hinge().loss(None),
    "accuracy": one_minus(accuracy),
    "f1": one_minus(f1_of_class_one),
}


def test_accuracy_and_f1():
    # predictions: candidate 0 -> 0 (first of equals), 0, 0; candidate 1 -> 0, 1, 2
    assert LOSSES["accuracy"](LOGITS, LABELS).tolist() == pytest.approx([1 / 3, 1 / 3])
    assert LOSSES["f1"](LOGITS, LABELS).tolist() == pytest.approx([1.0, 0.0])


def test_a_hinge_takes_its_margin_from_its_options():
    assert torch.equal(Hinge(margin=0.5).loss(None)(LOGITS, LABELS), hinge(LOGITS, LABELS, margin=0.5))


def test_a_metric_is_asked_with_plain_lists():
    seen = []
    one_minus(lambda predictions, gold: seen.append((predictions, gold)) or 0.25)(LOGITS, LABELS)
    assert seen == [([0, 0, 0], [0, 1, 0]), ([0, 1, 2], [0, 1, 0])]


@pytest.mark.parametrize("name", NAMES)
def test_each_candidate_is_judged_alone_and_lower_is_better(name):
    loss = LOSSES[name]
    perfect = torch.nn.functional.one_hot(LABELS, 3).float() * 10
    both = loss(torch.stack([LOGITS[0], perfect]), LABELS)
    assert both.shape == (2,)
    assert both[1] < both[0]
    assert both[1] == pytest.approx(0.0, abs=1e-3)
    assert both[0] == loss(LOGITS[:1], LABELS)[0]


@pytest.mark.parametrize("name", ["ce", "hinge"])
def test_a_candidate_without_numbers_spoils_only_itself(name):
    broken = torch.stack([torch.full((3, 3), float("nan")), LOGITS[0]])
    result = LOSSES[name](broken, LABELS)
    assert result[0].isnan()
    assert result[1] == LOSSES[name](LOGITS[:1], LABELS)[0]


def test_large_logits_do_not_overflow():
    logits = torch.tensor([[[1e4, -1e4], [-1e4, 1e4]]])
    assert cross_entropy(logits, torch.tensor([0, 0])).item() == pytest.approx(1e4)


def test_calibrate_divides_by_the_prior():
    """p = (1/2, 1/4, 1/4) over prior (1/2, 1/4, 1/4) is flat; a flat p over it turns round."""
    prior = torch.tensor([[LN2, 0.0, 0.0]])
    result = calibrate(torch.tensor([[LN2, 0.0, 0.0], [7.0, 7.0, 7.0]]), prior)
    assert torch.softmax(result, -1)[0].tolist() == pytest.approx([1 / 3] * 3, rel=1e-5)
    assert torch.softmax(result, -1)[1].tolist() == pytest.approx([0.2, 0.4, 0.4], rel=1e-5)


def test_calibrate_averages_probabilities_not_logits():
    content_free = torch.tensor([[math.log(9.0), 0.0], [0.0, 0.0]])  # (.9, .1) and (.5, .5): mean (.7, .3)
    result = calibrate(torch.zeros(1, 2), content_free)
    assert result.exp()[0].tolist() == pytest.approx([0.5 / 0.7, 0.5 / 0.3], rel=1e-5)


def test_a_label_that_is_never_possible_stays_so():
    logits = torch.tensor([[1.0, 0.0, -1e4], [0.0, 2.0, -1e4]])
    result = calibrate(logits, logits)
    assert result.isfinite().all() and result.argmax(dim=-1).tolist() == [0, 1]


def test_calibrate_ignores_a_shift_of_the_logits():
    logits, content_free = torch.randn(4, 3), torch.randn(2, 3)
    shifted = calibrate(logits + 5.0, content_free - 3.0)
    assert torch.allclose(shifted, calibrate(logits, content_free), atol=1e-5)

"""The loss that a template is judged by, and its standard error."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tandemtune.evaluators.batch import collate
from tandemtune.evaluators.engine import Engine
from tandemtune.evaluators.features import PassReading
from tandemtune.evaluators.views import ANSWER
from tandemtune.readout.members import RidgeReadout
from tandemtune.readout.ranking import judged, read_together
from tandemtune.readout.solving import solve_readout
from tandemtune.testing.tiny import tiny_backbone, tiny_task, verbalizer_of
from tandemtune.tunables.identity import Identity
from tandemtune.types import Example

TEXTS = ["a great movie", "the plot was dull", "i hated this film", "a review", "they saw a film", "good acting"]
LABELS = ["positive", "negative", "negative", "positive", "positive", "positive"]


@pytest.mark.parametrize("prior", ["balanced", "train", [0.9, 0.1]])
def test_loss_and_standard_error_are_of_the_same_losses(prior):
    """Smoothed targets, and rows that count as the prior says."""
    backbone, task, member = tiny_backbone("causal"), tiny_task("causal"), RidgeReadout(prior=prior)
    rows = [Example({"text": text}, label) for text, label in zip(TEXTS, LABELS, strict=True)]
    score = judged(backbone, task, rows, 64, "end", member).score
    verbalizer = verbalizer_of(backbone)
    engine = Engine(backbone.stack(verbalizer), Identity(), torch.tensor(verbalizer.weights()))
    prompts = [backbone.encode(task.template, row.fields, 64) for row in rows]
    gold = task.gold(rows)
    solved = solve_readout(member, engine, collate(prompts, gold, torch.device("cpu")), {}, task.labels)
    log_p = torch.log_softmax(solved.without, dim=-1).numpy()
    counts = np.bincount(gold)
    shares = {"balanced": np.array([0.5, 0.5]), "train": counts / len(gold)}.get(str(prior), np.array([0.9, 0.1]))
    targets = (counts[gold][:, None] * np.eye(2)[gold] + 0.5) / (counts[gold][:, None] + 1)
    losses = -(targets * log_p).sum(axis=1) * (shares / counts * len(gold))[gold]
    assert score.loss == pytest.approx(losses.mean(), rel=1e-4)
    assert score.standard_error == pytest.approx(losses.std(ddof=1) / np.sqrt(len(gold)), rel=1e-4)


def templates_that_tell(*columns, noise=0.3, count=120):
    """What a model tells of rows in some templates: of four bits of a row those in the template's columns, amid noise. The label is
    whether most of the bits are set."""
    generator = torch.Generator().manual_seed(7)
    bits = torch.randint(0, 2, (count, 4), generator=generator).float()
    gold = (bits.sum(dim=1) + 0.5 * bits[:, 0] > 2).long()
    readings = []
    for own in columns:
        view = noise * torch.randn(count, 5, generator=generator)
        view[:, : len(own)] += 2 * bits[:, list(own)] - 1
        readings.append(PassReading(0.1 * torch.randn(count, 2, generator=generator), {ANSWER: view}))
    return readings, gold


@pytest.mark.parametrize(
    ("columns", "count"),
    [
        ([(0, 1, 2, 3)], 1),
        ([(0, 1, 2, 3), (), ()], 1),
        ([(0, 1), (2, 3), ()], 2),
        ([(0, 1), (2,), (3,)], 3),
        ([(0, 1), (), (2, 3)], 3),
    ],
    ids=["one", "the others tell nothing", "two complete each other", "all three", "the third alone does"],
)
def test_templates_that_tell_something_new_are_read_together(columns, count):
    readings, gold = templates_that_tell(*columns)
    found = read_together(readings, gold, RidgeReadout(), ("few", "many"))
    assert found.count == count and len(found.losses) == len(columns)
    assert found.losses[count - 1] <= found.losses[0]

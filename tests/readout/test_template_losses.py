"""The loss that a template is judged by, and its standard error."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tandemtune.evaluators.batch import collate
from tandemtune.evaluators.engine import Engine
from tandemtune.readout.members import RidgeReadout
from tandemtune.readout.ranking import judged
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
    score, _ = judged(backbone, task, rows, 64, "end", member)
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

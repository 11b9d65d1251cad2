"""Made-up rows: features that know a little about the labels, label logits that know less."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def rows():
    """Maker of (features, logits, labels) for a seed: as many rows of each label as asked for."""

    def make(seed=0, counts=(8, 8, 8), width=12, signal=1.5, front=()):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(*shape, generator=generator)

        classes = len(counts)
        labels = torch.repeat_interleave(torch.arange(classes), torch.tensor(counts))
        labels = labels[torch.randperm(len(labels), generator=generator)]
        centres = signal * normal(classes, width)
        features = 5.0 + centres[labels] + normal(*front, len(labels), width) * 2
        words = normal(classes, width) + 0.3 * centres
        logits = features @ words.T + normal(classes) * 3
        return features, logits, labels

    return make

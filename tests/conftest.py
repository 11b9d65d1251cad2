"""One thread, fixed seeds, and the helpers of this folder on the path."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import pytest
import torch

import devices

torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="where the conformance suite's models lie: cpu, cuda, mps")


def pytest_configure(config):
    devices.CHOSEN = config.getoption("--device")


@pytest.fixture(autouse=True)
def _seeds():
    torch.manual_seed(0)
    np.random.seed(0)

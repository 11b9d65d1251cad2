"""One thread, fixed seeds, no waiting for the disk, and the helpers of this folder on the path."""

from __future__ import annotations

import functools
import gc
import importlib.metadata
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import pytest
import torch

import devices
import grids

torch.set_num_threads(1)
# what a process that dies has written is there without it; only a power cut loses it
os.fsync = lambda descriptor: None
importlib.metadata.version = functools.cache(importlib.metadata.version)  # each run asks for a dozen

FIRST = (
    "test_methods.py",
    "test_own_rewards.py",
    "test_warm.py",
    "test_text_runs.py",
    "test_readout_runs.py",
    "test_maao.py",
    "test_run_page.py",
    "test_seeded.py",
    "test_then.py",
    "test_assets_fetch.py",
    "test_other_device.py",
    "test_resume.py",
    "test_examples.py",
    "test_resume_rounds.py",
    "test_compare.py",
    "test_ray.py",
)
"""The longest files, and long ones of few tests. At the end they would keep one of two processes waiting."""


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="where the conformance suite's models lie: cpu, cuda, mps")


def pytest_configure(config):
    devices.CHOSEN = config.getoption("--device")


@pytest.hookimpl(tryfirst=True)  # before `-m` is looked at
def pytest_collection_modifyitems(items):
    grids.thin(items)
    places = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.path.name, len(FIRST)))


def pytest_collection_finish():
    gc.freeze()  # 12,000 tests need not be looked through whenever memory is swept
    gc.set_threshold(20_000, 50, 100)


@pytest.fixture(autouse=True)
def _seeds():
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """Vectors of images are kept in a cache of the module's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TANDEMTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield

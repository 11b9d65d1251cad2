"""TandemTune: tune pretrained language models with forward passes only, and get an ordinary adapter back.

    from tandemtune import load, tune

    tune("quickstart", out="runs/quickstart")
    load("runs/quickstart").predict(["a moving film"])

Importing the package costs no torch: the names below are looked up when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tandemtune.errors import AssetError, ConfigError, DataError, ModelError, RunError, TandemTuneError, UsageError

if TYPE_CHECKING:
    from tandemtune.predict import Prediction, TunedModel, load
    from tandemtune.runner import resume, tune

__version__ = "0.1.0"
__all__ = [
    "AssetError",
    "ConfigError",
    "DataError",
    "ModelError",
    "Prediction",
    "RunError",
    "TandemTuneError",
    "TunedModel",
    "UsageError",
    "load",
    "resume",
    "tune",
]

_LAZY = {"tune": "runner", "resume": "runner", "load": "predict", "TunedModel": "predict", "Prediction": "predict"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"tandemtune.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'tandemtune' has no attribute {name!r}")

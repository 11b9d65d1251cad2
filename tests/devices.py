"""Where the models of the conformance suite lie: `pytest tests/conformance/test_engine.py --device cuda`."""

from __future__ import annotations

CHOSEN = "cpu"
"""A torch device name, as `--device` says; what results are compared with is computed on the processor all the same."""

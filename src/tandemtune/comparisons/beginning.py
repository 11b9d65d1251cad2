"""What a process was before its first run, to be had back after each."""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import psutil
import torch

from tandemtune import devices
from tandemtune.models.lean import return_freed_memory

PATIENCE = 2.0
"""Seconds in which threads and processes that a run has started may end."""
_FLAGS = (
    (torch.backends.cudnn, "enabled"),
    (torch.backends.cudnn, "benchmark"),
    (torch.backends.cudnn, "deterministic"),
    (torch.backends.cudnn, "allow_tf32"),
)
_SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp),
    (torch.backends.cuda.mem_efficient_sdp_enabled, torch.backends.cuda.enable_mem_efficient_sdp),
    (torch.backends.cuda.math_sdp_enabled, torch.backends.cuda.enable_math_sdp),
    (torch.backends.cuda.cudnn_sdp_enabled, torch.backends.cuda.enable_cudnn_sdp),
    (torch.get_rng_state, torch.set_rng_state),
    (random.getstate, random.setstate),
    (np.random.get_state, np.random.set_state),
    (os.getcwd, os.chdir),
    (lambda: (sys.stdin, sys.stdout, sys.stderr), lambda streams: _set_streams(*streams)),
    (lambda: list(sys.argv), lambda found: sys.argv.__setitem__(slice(None), found)),
    (lambda: list(sys.path), lambda found: sys.path.__setitem__(slice(None), found)),
)
"""What runs or libraries may set for a whole process: how it is read, and how it is set."""


class Beginning:
    """This process as it is when this is made: settings of Python, numpy and torch, random states, signals, loggers, the
    environment, and what is running. Warnings and their filters are not among them (`warnings.catch_warnings`)."""

    def __init__(self) -> None:
        self._settings = [(write, read()) for read, write in _SETTINGS]
        self._flags = [(home, name, getattr(home, name)) for home, name in _FLAGS]
        self._seed = torch.initial_seed()
        self._environment = dict(os.environ)
        self._signals = {number: signal.getsignal(number) for number in signal.valid_signals()}
        self._loggers = {logger: _state(logger) for logger in _loggers()}
        self._threads, self._children = set(threading.enumerate()), set(_children())

    def restored(self) -> bool:
        """Bring all of it back, give back memory, forget what was computed; returns whether nothing of a run goes on."""
        _forget()
        torch.manual_seed(self._seed)  # of accelerators, too; the processor's own state follows
        for write, value in self._settings:
            write(value)
        for home, name, value in self._flags:
            setattr(home, name, value)
        for name in set(os.environ) - set(self._environment):
            del os.environ[name]
        os.environ.update(self._environment)
        for number, handler in self._signals.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        for logger, (level, handlers, propagate, disabled) in self._loggers.items():
            logger.setLevel(level)
            logger.handlers[:], logger.propagate, logger.disabled = handlers, propagate, disabled
        return self._alone()

    def _alone(self) -> bool:
        """Whether threads and processes that were not there before have ended."""
        until = time.monotonic() + PATIENCE
        while set(threading.enumerate()) - self._threads or set(_children()) - self._children:
            if time.monotonic() > until:
                return False
            time.sleep(0.01)
        return True


def _forget() -> None:
    """Drop what this package has kept of earlier runs, and give memory back."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "tandemtune":
            for each in list(vars(module).values()):
                if hasattr(type(each), "cache_clear"):
                    each.cache_clear()
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
    gc.collect()
    devices.return_memory()
    return_freed_memory()


def _children() -> list[int]:
    with suppress(psutil.Error):
        return [child.pid for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return []


def _loggers() -> list[logging.Logger]:
    return [
        logging.root,
        *(each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)),
    ]


def _state(logger: logging.Logger) -> tuple[int, list[logging.Handler], bool, bool]:
    return logger.level, list(logger.handlers), logger.propagate, logger.disabled


def _set_streams(*streams: Any) -> None:
    sys.stdin, sys.stdout, sys.stderr = streams

"""One run in the process that is asked for it, and how it is told what came of it."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from tandemtune.comparisons.ending import not_any_more


def made(main: Callable[[], None], request: Mapping[str, Any]) -> int:
    """Make one run in this process, which may be interrupted meanwhile; returns its exit code."""
    with suppress(OSError):
        _say_to(request["log"])
    sys.argv = ["tandemtune", *request["arguments"]]
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            sys.stderr.write(f"{ended.code}\n")
    except BaseException:
        traceback.print_exc()
        code = 1
    not_any_more()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    _say_to(os.devnull)  # the log is not held open: whoever asked may remove it
    return code


def _say_to(place: str) -> None:
    """Let what is written to standard error go to a file."""
    opened = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(opened, 2)
    os.close(opened)


def answer(pipe: int, code: int, *, again: bool) -> None:
    """Tell how a run has ended, and whether there can be another one here."""
    os.write(pipe, json.dumps({"code": code, "again": again}).encode() + b"\n")

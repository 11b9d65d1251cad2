"""A warm process: it imports everything and reads a model's weights once, and makes each run in a fork of itself.

A fork begins with all that as it was just after loading, so a run gives what it gives in a fresh process, and whatever it does
to the weights, to memory or to itself stays in its own process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from tandemtune.comparisons.ending import end_with_parent


def serve(main: Callable[[], None]) -> None:
    """Get ready, then make runs one at a time until standard input closes.

    The first line of standard input says what to get ready for (arguments of `tandemtune.models.load.keep`), each further one
    asks for a run: ``{"arguments": [...], "log": PATH}``. Each is answered by its exit code on standard output, negative for a
    signal.

    Args:
        main: the command line; reads `sys.argv`.
    """
    lines = _lines()
    wanted = json.loads(next(lines, b"{}"))
    with suppress(Exception):  # what is wrong with a model is for the runs to say
        _get_ready(wanted)
    for line in lines:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(_made(main, request["arguments"], request["log"]))
        _, status = os.waitpid(pid, 0)
        os.write(1, f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _lines() -> Iterator[bytes]:
    """Lines of standard input, as they come; nothing is left in a buffer that a fork would have, too."""
    begun = b""
    while part := os.read(0, 1 << 16):
        *whole, begun = (begun + part).split(b"\n")
        yield from whole


def _get_ready(wanted: dict[str, Any]) -> None:
    """Import what runs import, and read the weights; on one thread, since a pool of threads does not survive a fork."""
    import torch

    torch.set_num_threads(1)
    import tandemtune.runner  # noqa: F401
    from tandemtune.models import load

    load.keep(**wanted)


def _made(main: Callable[[], None], arguments: list[str], log: str) -> int:
    """Make one run in this process, which is a fork; returns its exit code."""
    with suppress(BaseException):
        for place, number in ((os.devnull, 1), (log, 2)):
            opened = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            os.dup2(opened, number)
            os.close(opened)
    end_with_parent()
    sys.argv = ["tandemtune", *arguments]
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # too late to stop
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    return code

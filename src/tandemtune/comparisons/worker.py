"""A warm process: it has imported everything, and makes one run after another.

Where it may fork, it reads a model's weights once and makes each run in a fork of itself. A fork begins with all that as it was
just after loading, so a run gives what it gives in a fresh process, and whatever it does to the weights, to memory or to itself
stays in its own process. Where it may not, since the system does not have it or since the runs use an accelerator (a fork cannot
use one that its parent has opened), it makes them in itself, see `staying.py`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from tandemtune.comparisons.ending import end_with_parent
from tandemtune.comparisons.making import answer, made
from tandemtune.comparisons.staying import stay_and_serve

FORKS = sys.platform == "linux"
"""Whether a fork may use what its parent has loaded."""


def serve(main: Callable[[], None]) -> None:
    """Get ready, then make runs one at a time until standard input closes.

    The first line of standard input says what to get ready for: arguments of `tandemtune.models.load.keep`, the `device` of the
    runs, and whether to `stay` (null: decide it here). Each further one asks for a run: ``{"arguments": [...], "log": PATH,
    "alone": false}``; after one that is to be alone no other is made in the same process. Each is answered on standard output:
    ``{"code": 0, "again": true}`` with its exit code, negative for a signal, and whether this process makes further ones.

    Args:
        main: the command line; reads `sys.argv`.
    """
    requests, answers = _aside()
    lines = _lines(requests)
    wanted = json.loads(next(lines, b"{}"))
    stay, stays = wanted.pop("stay", None), not FORKS
    with suppress(Exception):  # what is wrong with a model or a device is for the runs to say
        stays = _get_ready(wanted, stay)
    if stays:
        stay_and_serve(main, lines, answers)
        return
    for line in lines:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            end_with_parent(requests)
            os._exit(made(main, request))
        _, status = os.waitpid(pid, 0)
        answer(answers, os.waitstatus_to_exitcode(status), again=True)


def _aside() -> tuple[int, int]:
    """Standard input and output under other numbers; what is imported, and runs, find nothing there and say nothing there."""
    kept = os.dup(0), os.dup(1)
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY)):
        nowhere = os.open(os.devnull, mode)
        os.dup2(nowhere, number)
        os.close(nowhere)
    return kept


def _lines(pipe: int) -> Iterator[bytes]:
    """Lines of a pipe, as they come; nothing is left in a buffer that a fork would have, too."""
    begun = b""
    while part := os.read(pipe, 1 << 16):
        *whole, begun = (begun + part).split(b"\n")
        yield from whole


def _get_ready(wanted: dict[str, Any], stay: bool | None) -> bool:
    """Import what runs import; returns whether they are made in this process. For forks the weights are read, too, on one
    thread, since a pool of threads does not survive a fork."""
    import torch

    import tandemtune.runner  # noqa: F401
    from tandemtune.devices import is_accelerator
    from tandemtune.models import load

    device = wanted.pop("device")
    if stay if stay is not None else (not FORKS or is_accelerator(device)):
        return True
    torch.set_num_threads(1)
    with suppress(Exception):
        load.keep(**wanted)
    return False

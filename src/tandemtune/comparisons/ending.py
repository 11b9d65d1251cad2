"""How the processes of a comparison end: by the hand of whoever started them, or with him."""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from contextlib import suppress

GRACE = 10.0
"""Seconds that a run has to stop by itself."""
STOPPED = 130
"""Exit code of a run that was stopped."""


def end_with_parent(pipe: int) -> None:
    """Interrupt this process when a pipe closes: whoever started it wants it to stop, or is gone.

    Args:
        pipe: a descriptor that nobody else reads.
    """

    def watch() -> None:
        with suppress(OSError):
            os.read(pipe, 1)
        end()

    may_be_interrupted()
    threading.Thread(target=watch, daemon=True).start()


def may_be_interrupted() -> None:
    """Let an interrupt raise KeyboardInterrupt, which is ignored where a shell started the comparison in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def not_any_more() -> None:
    """Let an interrupt do nothing: it is too late to stop, or too early."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def end() -> None:
    """Interrupt what the main thread does, and end this process if that does not end it."""
    _thread.interrupt_main()
    time.sleep(GRACE)
    os._exit(STOPPED)

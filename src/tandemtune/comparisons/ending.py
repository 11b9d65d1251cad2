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


def end_with_parent() -> None:
    """Interrupt this process when its standard input closes: whoever started it wants it to stop, or is gone."""

    def watch() -> None:
        with suppress(OSError):
            os.read(0, 1)
        _thread.interrupt_main()
        time.sleep(GRACE)
        os._exit(130)

    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # ignored where a shell started the comparison in the background
    threading.Thread(target=watch, daemon=True).start()

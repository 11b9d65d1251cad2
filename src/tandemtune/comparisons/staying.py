"""Runs one after another in one process: what it has imported, and an accelerator that it has opened, serve all of them.

Before each run the process is what it was before the first one (`beginning.py`), and each run reads its model's weights itself, so
a run gives what it gives in a fresh process. After a run that failed, was asked to be alone or has left something running, the
process ends, and the next run is made in another one.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import warnings
from collections.abc import Callable, Iterator

from tandemtune.comparisons.beginning import Beginning
from tandemtune.comparisons.ending import STOPPED, end, may_be_interrupted, not_any_more
from tandemtune.comparisons.making import answer, made
from tandemtune.system import forget_peak


def stay_and_serve(main: Callable[[], None], lines: Iterator[bytes], answers: int) -> None:
    """Make the runs that are asked for, until nobody asks any more or one has to be the last here.

    Args:
        main: the command line; reads `sys.argv`.
        lines: requests, see `tandemtune.comparisons.worker.serve`; when they end, the run that is being made is stopped.
        answers: descriptor that takes the answers.
    """
    waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    over = threading.Event()

    def read() -> None:
        for line in lines:
            waiting.put(line)
        over.set()
        waiting.put(None)
        end()

    not_any_more()
    threading.Thread(target=read, daemon=True).start()
    beginning = Beginning()
    while (line := waiting.get()) is not None:
        request = json.loads(line)
        forget_peak()
        with warnings.catch_warnings():
            may_be_interrupted()
            code = STOPPED if over.is_set() else made(main, request)
            not_any_more()
            logging.captureWarnings(False)
        again = code == 0 and not request["alone"] and beginning.restored()
        answer(answers, code, again=again)
        if not again:
            return

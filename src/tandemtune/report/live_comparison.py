"""A table of a comparison that lives while its runs are made: who runs where, and what has come of the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

MOST = 40
"""Rows of a table that a screen shows."""


class Named(Protocol):
    """A run of a plan."""

    @property
    def name(self) -> str: ...
    @property
    def seed(self) -> int: ...


class Board:
    """What every run does now.

    Args:
        cells: the runs of a plan.
    """

    def __init__(self, cells: Sequence[Named]) -> None:
        self._states: dict[str, dict[int, str]] = {}
        self._lock = threading.Lock()
        for cell in cells:
            self._states.setdefault(_row(cell), {})[cell.seed] = "."

    def note(self, cell: Named, state: str) -> None:
        """Say what a run does now."""
        with self._lock:
            self._states[_row(cell)][cell.seed] = state

    def table(self) -> RenderableType:
        """Rows of model, task and method, columns of seeds; rows in which something happens first where there are too many."""
        with self._lock:
            rows = [(name, dict(states)) for name, states in self._states.items()]
        rows.sort(key=lambda row: not any(state.startswith("running") for state in row[1].values()))
        seeds = list(dict.fromkeys(seed for _, states in rows for seed in states))
        table = Table(box=None)
        for name in ("", *map(str, seeds)):
            table.add_column(name, justify="right" if name else "left", overflow="fold")
        for name, states in rows[:MOST]:
            table.add_row(Text(name), *(Text(states.get(seed, "")) for seed in seeds))
        left = len(rows) - MOST
        return Group(table, Text(f"and {left} more rows")) if left > 0 else table

    def __rich__(self) -> RenderableType:
        return self.table()


@contextmanager
def watching(
    cells: Sequence[Named], say: Callable[[str], None], console: Console | None = None
) -> Iterator[tuple[Callable[[str], None], Callable[[Named, str], None]]]:
    """Show a table while runs are made, where somebody can see it.

    Args:
        cells: the runs of a plan.
        say: prints a line where there is no table.
        console: where the table is shown; stderr if left out.

    Returns:
        What prints a line, above the table, and what is told of runs that begin and end.
    """
    board, screen = Board(cells), console or Console(stderr=True)
    if not screen.is_terminal:
        yield say, board.note
        return
    with Live(board, console=screen, refresh_per_second=2, transient=True):
        yield lambda text: screen.print(text, markup=False, highlight=False), board.note


def _row(cell: Named) -> str:
    return cell.name.removesuffix(f" / {cell.seed}")

"""The table that lives while a comparison runs."""

from __future__ import annotations

import io
from dataclasses import dataclass

from rich.console import Console

from tandemtune.report.live_comparison import MOST, Board, watching


@dataclass
class Cell:
    name: str
    seed: int


def shown(board: Board) -> list[list[str]]:
    console = Console(file=io.StringIO(), width=120)
    console.print(board)
    return [line.split() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_rows_are_methods_and_columns_are_seeds():
    cells = [Cell(f"small / {method} / {seed}", seed) for method in ("bbt", "lora") for seed in (13, 21)]
    board = Board(cells)
    board.note(cells[0], "0.75")
    board.note(cells[3], "running 10.0.0.7")
    assert shown(board) == [
        ["13", "21"],
        ["small", "/", "lora", ".", "running", "10.0.0.7"],  # where something happens comes first
        ["small", "/", "bbt", "0.75", "."],
    ]


def test_a_table_is_no_longer_than_a_screen():
    board = Board([Cell(f"method {number} / 1", 1) for number in range(MOST + 5)])
    lines = shown(board)
    assert len(lines) == MOST + 2 and lines[-1] == ["and", "5", "more", "rows"]


def test_where_nobody_sees_it_there_are_lines_only():
    said: list[str] = []
    with watching([Cell("a / 1", 1)], said.append, Console(file=io.StringIO())) as (tell, watch):
        tell("1 of 1")
        watch(Cell("a / 1", 1), "0.5")
    assert said == ["1 of 1"]


def test_on_a_terminal_lines_stand_above_the_table():
    screen = Console(file=io.StringIO(), force_terminal=True, width=80)
    with watching([Cell("a / 1", 1)], [].append, screen) as (tell, watch):
        watch(Cell("a / 1", 1), "running here")
        tell("1 of 1 [not markup]")
    assert "1 of 1 [not markup]" in screen.file.getvalue()  # type: ignore[attr-defined]

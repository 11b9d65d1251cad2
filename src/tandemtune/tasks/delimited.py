"""Cells of CSV and TSV files as programs write them: other separators, blanks behind them, any line end, quoted line breaks."""

from __future__ import annotations

import csv
import io
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from tandemtune.errors import DataError
from tandemtune.tasks.wording import counted, first_line, listed, show

SEPARATORS = (",", ";", "\t", "|")
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_QUOTED_HEADER = re.compile(r'"[^"]*+(?:""[^"]*+)*+"(?:\t"[^"]*+(?:""[^"]*+)*+")*+(?:[\r\n]|$)')
_SEPARATOR_LINE = re.compile(r"sep=([^\w\s\"]|\t)\1*", re.IGNORECASE)
_NEEDS_QUOTES = re.compile(r'[,;\t|"\r\n]|^\s|\s$|^sep=', re.IGNORECASE)
_ESCAPED = re.compile(r'(\\\\)|\\"')
_CELL_LIMIT = 2**31 - 1
_LIMIT_LOCK = threading.Lock()

Row = tuple[int, list[str]]


@dataclass(frozen=True)
class Cells:
    """A header and its rows.

    Args:
        line: where the header stands.
        header: names of the columns, without blanks around them.
        rows: the line that each row begins at, and its cells, as many as the header has; those of a blank row are "".
        separator: what stands between cells.
    """

    line: int
    header: list[str]
    rows: list[Row]
    separator: str


@dataclass(frozen=True)
class _Reading:
    """The file as one way of reading it sees it: rows, blank ones included, and where it broke off."""

    rows: list[Row]
    separator: str
    broken: tuple[int, str] | None = None

    @property
    def header(self) -> list[str]:
        return next((cells for _, cells in self.rows if not _blank(cells)), [])

    @cached_property
    def fitting(self) -> float:
        """Share of the rows that are as wide as the header."""
        width = len(self.header)
        widths = [len(cells) == width for _, cells in self.rows if not _blank(cells)]
        return sum(widths) / len(widths) if widths else 1.0

    @property
    def whole(self) -> bool:
        """Not broken, and every row as wide as the header."""
        return not self.broken and self.fitting == 1


def read(text: str, separator: str, name: str) -> Cells:
    """Split a file into cells.

    The separator is what a first line ``sep=;`` says, or else the given one, or else the one of `SEPARATORS` that gives
    every row as many cells as the header has. In a file with tabs, quotes are characters like others as long as every row
    then has as many cells as the header; a quoted cell loses its quotes.

    Args:
        text: the file.
        separator: the usual one.
        name: of the file, for messages.

    Raises:
        DataError: a quote is never closed, or a row has another number of cells than the header; names the line.
    """
    lines = list(_lines(text))
    first = next((index for index, line in enumerate(lines) if line.strip()), 0)
    told = _SEPARATOR_LINE.fullmatch(lines[first].rstrip("\r\n")) if lines else None
    if told:
        lines[: first + 1] = ["\n"] * (first + 1)
        return _cells(_reading(lines, told[1]), name)
    usual = _reading(lines, separator)
    if not (usual.whole and len(usual.header) > 1):
        others = [_reading(lines, other) for other in SEPARATORS if other != separator]
        wide = sorted((one for one in others if len(one.header) > 1), key=lambda one: -len(one.header))
        better = next((one for one in wide if one.whole), None)
        if better is None and len(usual.header) < 2:  # most rows fit, so that the error is about those that do not
            better = next((one for one in wide if one.fitting > 0.5), None)
        usual = better or usual
    return _cells(usual, name)


def write(columns: Sequence[str], rows: Iterable[Sequence[str]], separator: str) -> str:
    """Join cells so that `read` finds the same.

    Args:
        columns: the header.
        rows: as many cells as columns in each.
        separator: one of `SEPARATORS`.
    """
    table = [columns, *rows]
    every = separator == "\t" and any("\t" in cell or "\n" in cell or "\r" in cell for row in table for cell in row)
    return "".join(
        separator.join(_quoted(cell, every or (len(row) == 1 and not cell.strip())) for cell in row) + "\n"
        for row in table
    )


def _quoted(cell: str, always: bool) -> str:
    return '"' + cell.replace('"', '""') + '"' if always or _NEEDS_QUOTES.search(cell) else cell


def _lines(text: str) -> Iterator[str]:
    """Lines with their ends; what Windows makes of a line end that was written twice (``\\r\\r\\n``) is one."""
    held = ""
    for line in io.StringIO(text, newline=""):
        if line == "\r\n" and held.endswith("\r"):
            held += line
            continue
        if held:
            yield held
        held = line
    if held:
        yield held


def _reading(lines: list[str], separator: str) -> _Reading:
    plain = _parsed(lines, separator)
    if separator == "\t":
        literal = _literal(lines)
        if plain.whole and (len(plain.header) == 1 or not literal.whole or _quotes_every_name(lines, literal)):
            return plain
        return literal
    named_apart = any(cell.startswith(" ") for cell in plain.header[1:])
    opened = re.compile(f'{re.escape(separator)} +"')
    if named_apart or any(opened.search(line) for line in lines):
        spaced = _parsed(lines, separator, spaced=True)
        if spaced.whole and (not plain.whole or _has_blanks_behind_separators(plain, spaced)):
            return spaced
    if plain.broken:  # MySQL and others write a quote in a cell as \" where CSV doubles it
        escaped = _parsed([_ESCAPED.sub(lambda m: m[1] or '""', line) for line in lines], separator)
        if escaped.whole:
            return escaped
    return plain


def _has_blanks_behind_separators(plain: _Reading, spaced: _Reading) -> bool:
    """Whether all names of the header have a blank before them, or a quote that opens a cell has one."""
    behind = list(zip(plain.header[1:], spaced.header[1:], strict=False))
    if behind and all(one != other for one, other in behind):
        return True
    if len(plain.rows) != len(spaced.rows):
        return True
    pairs = zip(plain.rows, spaced.rows, strict=True)
    return any(
        one != other and one.lstrip(" ") != other
        for (_, cells), (_, others) in pairs
        for one, other in zip(cells, others, strict=False)
    )


def _parsed(lines: list[str], separator: str, *, spaced: bool = False) -> _Reading:
    """Rows by the rules of CSV."""
    rows: list[Row] = []
    line, broken = 1, None
    with _LIMIT_LOCK:
        before = csv.field_size_limit(_CELL_LIMIT)  # a setting of the whole process: put back below
        try:
            reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=spaced)
            for cells in reader:
                rows.append((line, cells))
                line = reader.line_num + 1
        except csv.Error as error:
            broken = line, first_line(error)
        finally:
            csv.field_size_limit(before)
    return _Reading(rows, separator, broken)


def _literal(lines: list[str]) -> _Reading:
    """Rows of a file with tabs in which a quote opens nothing."""
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        cells = line.rstrip("\r\n").split("\t")
        cells = [c[1:-1].replace('""', '"') if _QUOTED.fullmatch(c) else c for c in cells]
        rows.append((number, [] if cells == [""] else cells))
    return _Reading(rows, "\t")


def _quotes_every_name(lines: list[str], reading: _Reading) -> bool:
    """Whether the header of a file with tabs is quoted throughout: then quotes open cells in all of it."""
    number = next((number for number, cells in reading.rows if not _blank(cells)), len(lines) + 1)
    start = lines[number - 1 : number]
    return bool(start) and start[0].startswith('"') and bool(_QUOTED_HEADER.match("".join(lines[number - 1 :])))


def _blank(cells: list[str]) -> bool:
    """A line without any cell, or with blanks only."""
    return not cells or (len(cells) == 1 and not cells[0].strip())


def _cells(reading: _Reading, name: str) -> Cells:
    if reading.broken:
        line, why = reading.broken
        raise DataError(
            f"{name}, line {line}: broken CSV ({why}): put a cell that holds the separator, a quote or a "
            'line break in "double quotes", and double every quote inside it'
        )
    rows = list(reading.rows)
    while rows and _blank(rows[0][1]):
        del rows[0]
    if not rows:
        raise DataError(f"{name}: the file is empty, expected a first line with the names of the columns")
    (line, header), *rows = rows
    while rows and (not rows[-1][1] or (len(header) > 1 and _blank(rows[-1][1]))):
        del rows[-1]  # line ends behind the last row
    found: list[Row] = []
    for number, cells in rows:
        if len(cells) != len(header) and _blank(cells):
            cells = [""] * len(header)
        if len(cells) != len(header):
            raise DataError(
                f"{name}, line {number}: {counted(len(cells), 'cell')}, expected {len(header)} as in the "
                f"header ({listed([cell.strip() for cell in header])}), got {show(cells)}: "
                "add the missing cells; a cell with the separator in it must be quoted (CSV) or lose it (TSV)"
            )
        found.append((number, cells))
    width = len(header)
    while width > 1 and not header[width - 1].strip() and not any(cells[width - 1].strip() for _, cells in found):
        width -= 1  # a spreadsheet's empty columns
    if width < len(header):
        found = [(number, cells[:width]) for number, cells in found]
    return Cells(line, [cell.strip() for cell in header[:width]], found, reading.separator)

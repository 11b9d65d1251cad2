"""The journal: what was appended is there, a torn end is cut off, other damage is refused."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandemtune.errors import RunError
from tandemtune.runs.journal import Lines, read_lines

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
LINES = st.lists(st.dictionaries(st.text(), PLAIN, max_size=4), max_size=5)
THREE = [{"step": 1, "losses": [0.1, None]}, {"step": 2, "text": "Größe\u2028\r\n\x85"}, {"step": 3, "losses": [1 / 3]}]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.jsonl"


def filled(path, lines=THREE):
    journal = Lines(path)
    for line in lines:
        journal.append(line)
    return path.read_bytes()


def test_a_new_journal_is_empty_and_makes_no_file(path):
    journal = Lines(path)
    assert journal.lines == [] and not journal.torn and not path.exists()
    assert read_lines(path) == []


def test_lines_come_back_and_more_can_follow(path):
    filled(path)
    journal = Lines(path)
    assert journal.lines == THREE and not journal.torn
    journal.append({"step": 4})
    assert read_lines(path) == journal.lines == [*THREE, {"step": 4}]
    assert len(path.read_bytes().split(b"\n")) == 5


@given(LINES)
@settings(max_examples=100, deadline=None)
def test_any_plain_lines_come_back(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("j") / "journal.jsonl"
    journal = Lines(path)
    for line in lines:
        journal.append(line)
    assert Lines(path).lines == lines


def test_floats_come_back_to_the_bit(path):
    values = [0.1 + 0.2, 5e-324, 1.7976931348623157e308, -0.0, float(2**53 + 1)]
    filled(path, [{"losses": values}])
    found = read_lines(path)[0]["losses"]
    assert [v.hex() for v in found] == [v.hex() for v in values]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_does_not_have_is_refused_before_anything_is_written(path, value):
    before = filled(path)
    with pytest.raises(ValueError):
        Lines(path).append({"loss": value})
    assert path.read_bytes() == before


def test_each_line_is_on_the_disk_before_append_returns(path, monkeypatch):
    seen = []
    real = os.fsync

    def fsync(descriptor):
        seen.append(os.fstat(descriptor).st_size)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    journal = Lines(path)
    for count, line in enumerate(THREE, start=1):
        journal.append(line)
        assert len(seen) == count and seen[-1] == path.stat().st_size


def test_torn_at_every_byte(path):
    whole = filled(path)
    ends = [0, *(i + 1 for i, byte in enumerate(whole) if byte == ord("\n"))]
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        good = max(end for end in ends if end <= length)
        expected = THREE[: ends.index(good)]
        assert read_lines(path) == expected
        assert path.read_bytes() == whole[:length], "reading for a report changes nothing"
        journal = Lines(path)
        assert (journal.lines, journal.torn) == (expected, length != good)
        assert path.read_bytes() == whole[:good]
        journal.append({"step": "new"})
        assert Lines(path).lines == [*expected, {"step": "new"}]


@pytest.mark.parametrize("rest", [b"\0\0\0\0", b'{"step": 4', b"\xff\xfe", b"{}{}\n", b"[1]\n", b"nonsense\n", b"\n"])
def test_a_last_line_that_is_no_object_is_cut_off(path, rest):
    whole = filled(path)
    path.write_bytes(whole + rest)
    journal = Lines(path)
    assert journal.lines == THREE and journal.torn and path.read_bytes() == whole


@pytest.mark.parametrize("damage", [b"{broken}", b"[1, 2]", b"", b"\xff\xff", b"null"])
@pytest.mark.parametrize("number", [1, 2])
def test_damage_before_the_end_names_the_line(path, number, damage):
    lines = filled(path).splitlines()
    lines[number - 1] = damage
    content = b"\n".join(lines) + b"\n"
    path.write_bytes(content)
    for read in (Lines, read_lines):
        with pytest.raises(RunError, match=rf"journal\.jsonl, line {number}: damaged"):
            read(path)
    assert path.read_bytes() == content


def test_lines_are_readable_by_people(path):
    filled(path, [{"text": "Größe"}])
    assert path.read_text(encoding="utf-8") == '{"text": "Größe"}\n'
    assert json.loads(path.read_bytes()) == {"text": "Größe"}

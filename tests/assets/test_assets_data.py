"""The rated sentences as a two-class task."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tandemtune.assets import Preparation, fetch
from tandemtune.assets.data import build, clean
from tandemtune.errors import AssetError

HEADER = "id\tsentiment\ttext"
ROWS = [(2.0 + i / 100, f"good film {i}") for i in range(20)] + [(-1.5, f"bad film {i}") for i in range(30)]


def written(folder: Path, rows: list[tuple[float, str]], **options: Any) -> dict[str, list[dict[str, str]]]:
    source = folder / "ratings.tsv"
    lines = [HEADER, *(f"{number}\t{rating}\t{text}" for number, (rating, text) in enumerate(rows, 1))]
    source.write_bytes(("\r\n".join(lines) + "\r\n").encode())
    out = folder / "out"
    out.mkdir(exist_ok=True)
    build(source, out, test_rows=10, **options)
    return {
        name: [json.loads(line) for line in (out / f"{name}.jsonl").read_text("utf-8").splitlines()]
        for name in ("train", "test")
    }


def test_the_test_file_is_balanced_and_the_rest_is_for_training(tmp_path: Path) -> None:
    made = written(tmp_path, ROWS)
    labels = [row["label"] for row in made["test"]]
    assert (labels.count("positive"), labels.count("negative")) == (5, 5)
    assert len(made["train"]) == 40
    texts = [row["text"] for rows in made.values() for row in rows]
    assert sorted(texts) == sorted(text for _, text in ROWS)
    assert all(row["label"] == ("positive" if "good" in row["text"] else "negative") for row in made["train"])


def test_the_split_does_not_depend_on_the_order_of_the_source(tmp_path: Path) -> None:
    shuffled = random.Random(1).sample(ROWS, len(ROWS))
    assert written(tmp_path, ROWS) == written(tmp_path, shuffled)


def test_unclear_sentences_are_left_out(tmp_path: Path) -> None:
    made = written(tmp_path, [*ROWS, (0.4, "so so"), (-0.49, "hm"), (0.0, "none"), (0.5, "fair"), (-0.5, "poor")])
    labels = {row["text"]: row["label"] for rows in made.values() for row in rows}
    assert not labels.keys() & {"so so", "hm", "none"}
    assert (labels["fair"], labels["poor"]) == ("positive", "negative")


def test_doubles_are_kept_once_and_contradictions_not_at_all(tmp_path: Path) -> None:
    made = written(tmp_path, [*ROWS, (1.0, "again"), (2.0, " again "), (1.0, "both"), (-1.0, "both")])
    texts = [row["text"] for rows in made.values() for row in rows]
    assert texts.count("again") == 1
    assert "both" not in texts


def test_text_is_cleaned() -> None:
    assert clean("  It isn't   ''bad''\u00a0at all ") == 'It isn\'t "bad" at all'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "more than 5 clearly negative sentences, found 0"),
        ("text\tsentiment\n", "line 1: expected the header"),
        (f"{HEADER}\n1\tgood\tx\n", "line 2: expected an id, a rating and a text"),
        (f"{HEADER}\n1\t2.0\n", "line 2: expected an id, a rating and a text"),
        (f"{HEADER}\n1\t2.0\tonly one\n", "more than 5 clearly negative sentences, found 0"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    source = tmp_path / "ratings.tsv"
    source.write_text(content)
    with pytest.raises(AssetError, match=message):
        build(source, tmp_path, test_rows=10)


def test_fetch_prepares_data(shelf: Any, cache: Path) -> None:
    lines = [HEADER, *(f"{i}\t{rating}\t{text}" for i, (rating, text) in enumerate(ROWS))]
    wheel = shelf.wheel("toy-data", {"toy/ratings.txt": "\r\n".join(lines).encode()})
    small = Preparation(run=lambda raw, made: build(raw / "ratings.txt", made, test_rows=10))
    shelf.add(wheel, kind="data", prepare=small)
    assert sorted(path.name for path in fetch("toy").iterdir()) == [
        "asset.json",
        "test.jsonl",
        "train.jsonl",
    ]

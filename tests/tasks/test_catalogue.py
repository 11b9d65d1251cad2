"""The catalogue: every row makes a sound task for both kinds of model."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest

from tandemtune.errors import DataError, UsageError
from tandemtune.tasks import TASKS, Template, build_task, get

EXPECTED = [
    *("sst2", "yelp", "movie-reviews", "agnews", "dbpedia", "trec", "mrpc", "snli", "rte"),
    *("boolq", "cb", "copa", "wic", "wsc"),
]
KINDS = ("masked", "causal")


def rows_for(row, per_class):
    fields = set(row.template("masked").fields) | set(row.template("causal").fields)
    return [
        {**{field: f"{field} {label} {i}" for field in fields}, "label": label}
        for i in range(per_class)
        for label in row.labels
    ]


def fill(folder, row, per_class=6):
    for split in ("train", "test"):
        path = folder / f"{row.stem or row.name}.{split}.jsonl"
        path.write_text("".join(json.dumps(r) + "\n" for r in rows_for(row, per_class)))


def test_the_tasks_are_these():
    assert list(TASKS) == sorted(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("kind", KINDS)
def test_every_row_makes_a_sound_task(tmp_path, name, kind):
    row = get(name)
    fill(tmp_path, row)
    task = build_task(row, kind=kind, data=tmp_path)
    assert task.check() == []
    assert len(task.split(3, 13).train) == 3 * len(row.labels)
    assert len(task.test()) == 6 * len(row.labels)
    assert task.labels == row.labels == tuple(row.words)
    prompt = task.template.render(task.test()[0].fields, "")
    assert prompt.text[prompt.mask[0] :] == "" or kind == "masked"


@pytest.mark.parametrize("name", EXPECTED)
def test_templates_and_words(name):
    row = get(name)
    assert row.causal.endswith("{mask}") and "{mask}" in row.masked
    assert set(row.template("masked").fields) == set(row.template("causal").fields)
    assert row.summary and "\n" not in row.summary
    for kind in KINDS:
        words = row.words_for(kind)
        assert tuple(words) == row.labels
        flat = [word for label in row.labels for word in words[label]]
        assert len({word[:3].lower() for word in flat}) == len(flat)
        assert all(word.isalpha() for word in flat)
    assert (row.metric == "f1") == (row.positive is not None)


@pytest.mark.parametrize("name", EXPECTED)
def test_hub_sources(name):
    row = get(name)
    task = build_task(name, kind="masked")
    assert task.train_source.startswith("hub:") and task.train_source.endswith(":train")
    assert task.test_source is not None and task.test_source != task.train_source
    assert row.hub is not None and set(row.hub.labels.values()) <= set(row.labels)
    assert set(row.hub.columns) <= {*task.template.fields, "label"}


def test_hub_address():
    task = build_task("sst2", kind="causal")
    assert task.train_source == "hub:nyu-mll/glue@sst2:train"
    assert task.test_source == "hub:nyu-mll/glue@sst2:validation"


@pytest.mark.parametrize(("suffix", "separator"), [("csv", ","), ("tsv", "\t")])
def test_tables_are_found_too(tmp_path, suffix, separator):
    for split in ("train", "test"):
        with (tmp_path / f"sst2.{split}.{suffix}").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label"], delimiter=separator)
            writer.writeheader()
            writer.writerows(rows_for(get("sst2"), 4))
    assert build_task("sst2", kind="masked", data=str(tmp_path)).check() == []


def test_overrides(tmp_path):
    fill(tmp_path, get("sst2"))
    train = tmp_path / "sst2.train.jsonl"
    task = build_task(
        "sst2",
        kind="masked",
        template="{text} All in all: {mask}",
        words={"positive": ["good", "fine"], "negative": ["bad"]},
        metric="f1",
        positive="positive",
        train=train,
        test=tmp_path / "sst2.test.jsonl",
        dev=train,
        label_column="label",
    )
    assert str(task.template) == "{text} All in all: {mask}"
    assert task.labels == ("negative", "positive") and task.words["positive"] == ("good", "fine")
    assert task.check() == [] and len(task.split(3, 1).dev) == 6
    parsed = Template.parse("{text} {mask}")
    assert build_task("sst2", kind="masked", template=parsed, data=tmp_path).template is parsed


def test_unknown_names_get_a_suggestion():
    with pytest.raises(UsageError, match=r"unknown task 'SST-2' \(did you mean 'sst2'\?\), expected one of agnews"):
        get("SST-2")
    with pytest.raises(UsageError, match="unknown task 'qqqq', expected"):
        build_task("qqqq", kind="masked")
    with pytest.raises(UsageError, match="did you mean 'movie-reviews'"):
        get("movie_reviews")


def test_misuse(tmp_path):
    with pytest.raises(UsageError, match="kind 'clip'"):
        build_task("sst2", kind="clip")
    with pytest.raises(UsageError, match="label words for 'good'"):
        build_task("sst2", kind="masked", words={"good": ["x"]})
    with pytest.raises(DataError, match=r"no train rows .* sst2\.train\.jsonl, .*sst2\.train\.parquet"):
        build_task("sst2", kind="masked", data=tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        build_task("sst2", kind="masked", data=tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file"):
        build_task("sst2", kind="masked", data=tmp_path / "file")
    with pytest.raises(DataError, match="on no hub"):
        build_task(replace(get("sst2"), hub=None), kind="masked")
    (tmp_path / "sst2.train.jsonl").write_text("{}")
    with pytest.raises(DataError, match="no test rows"):
        build_task("sst2", kind="masked", data=tmp_path)

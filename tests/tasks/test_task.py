"""A task: split, test rows, score and the check that needs no model."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from dataclasses import FrozenInstanceError, replace

import pytest

from tandemtune.errors import DataError, UsageError
from tandemtune.tasks import Task, Template
from tandemtune.types import Example

LABELS = ("negative", "positive")


def write(path, n, prefix="row"):
    rows = [{"text": f"{prefix} {i}", "label": LABELS[i % 2]} for i in range(n)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def task(tmp_path):
    return Task(
        name="toy",
        template=Template.parse("{text} It was {mask}."),
        labels=LABELS,
        words={"negative": ("terrible",), "positive": ("great", "good")},
        metric="accuracy",
        train_source=write(tmp_path / "train.jsonl", 40),
        test_source=write(tmp_path / "test.jsonl", 20, "test"),
    )


def texts(rows):
    return [row.fields["text"] for row in rows]


def test_split(task):
    drawn = task.split(4, 13)
    assert len(drawn.train) == len(drawn.dev) == 8
    assert not set(texts(drawn.train)) & set(texts(drawn.dev))
    assert drawn == task.split(4, 13) != task.split(4, 21)
    assert len(task.split(4, 13, dev_k=2).dev) == 4


def test_train_rows_are_read_once_per_task(task, tmp_path):
    before = task.split(4, 13)
    write(tmp_path / "train.jsonl", 40, "changed")
    assert task.split(4, 13) == before
    assert replace(task).split(4, 13) != before


def test_dev_from_its_own_file(task, tmp_path):
    source = tmp_path / "dev.jsonl"
    write(source, 40)  # the same texts as train
    task = replace(task, dev_source=str(source))
    drawn = task.split(4, 13)
    assert len(drawn.dev) == 8 and not set(texts(drawn.train)) & set(texts(drawn.dev))
    assert drawn.train == replace(task, dev_source=None).split(4, 13).train
    assert task.split(20, 13, dev_k=0).dev == ()
    with pytest.raises(DataError, match=r"dev\.jsonl: too few rows"):
        task.split(11, 13)


def test_too_few_rows_name_the_file(task):
    with pytest.raises(DataError, match=r"train\.jsonl: .*'negative' has 20, 'positive' has 20"):
        task.split(16, 13)


def test_test_rows(task):
    assert len(task.test()) == 20
    some = task.test(limit=5, seed=3)
    assert len(some) == 5 and some == task.test(5, 3)
    assert all(text.startswith("test") for text in texts(some))
    with pytest.raises(DataError, match="no test rows"):
        replace(task, test_source=None).test()


def test_test_rows_are_not_read_before_they_are_asked_for(task, tmp_path):
    (tmp_path / "test.jsonl").write_text("broken")
    assert task.check() == []
    task.split(4, 13)
    with pytest.raises(DataError, match=r"test\.jsonl, line 1"):
        task.test()


def test_score_and_gold(task):
    assert task.score([0, 1, 1], [0, 1, 0]) == pytest.approx(2 / 3)
    f1 = replace(task, metric="f1", positive="negative")
    assert f1.score([0, 1, 1], [0, 1, 0]) == pytest.approx(2 / 3)
    assert task.label_index("positive") == 1
    assert task.gold([Example({}, "positive"), Example({}, "negative")]) == [1, 0]
    with pytest.raises(DataError, match="no label 'neutral'"):
        task.label_index("neutral")
    with pytest.raises(DataError, match="example 2"):
        task.gold([Example({}, "positive"), Example({}, None)])
    with pytest.raises(UsageError):
        task.score([0], [0, 1])


def test_a_task_is_frozen(task):
    with pytest.raises(FrozenInstanceError):
        task.metric = "f1"


def test_check_finds_nothing_wrong(task):
    assert task.check() == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metric": "f1"}, "needs a positive label"),
        ({"metric": "f3"}, "metric 'f3'"),
        ({"positive": "neutral"}, "'neutral'"),
        ({"labels": ("positive",)}, "at least two"),
        ({"labels": ("negative", "positive", "positive")}, "more than once"),
        ({"labels": ("negative", "positive", " ")}, "empty name"),
        ({"labels": ("negative", "good")}, "unknown label 'positive'"),
        ({"words": {"negative": ("bad",), "positive": ("bad",)}}, "'bad': used for both"),
        ({"words": {"negative": ("bad",)}}, "label 'positive': no label word"),
        ({"words": {"negative": ("bad",), "positive": ()}}, "label 'positive': no label word"),
        ({"words": {"negative": ("bad",), "positive": (" ",)}}, "empty label word"),
        ({"words": {"negative": ("bad",), "positive": ("{x}",)}}, "brace"),
        ({"words": {"negative": ("bad",), "positive": ("a\nb",)}}, "line break"),
        ({"words": {"negative": ("bad",), "positive": ("ok",), "neutral": ("so",)}}, "'neutral': no such label"),
        ({"template": Template.parse("{sentence} {mask}")}, "no column 'sentence'"),
        ({"template": Template.parse("{text} {label} {mask}")}, "hold the answer"),
        ({"label_column": "lable"}, "did you mean 'label'"),
        ({"train_source": "nowhere.jsonl"}, "nowhere.jsonl: no such file"),
        ({"test_source": "nowhere.jsonl"}, "nowhere.jsonl: no such file"),
        ({"dev_source": "nowhere.jsonl"}, "nowhere.jsonl: no such file"),
    ],
)
def test_check_finds(task, change, said):
    problems = replace(task, **change).check()
    assert any(said in problem for problem in problems)
    assert all(isinstance(problem, str) and "\n" not in problem for problem in problems)


def test_check_reports_everything_at_once(task):
    broken = replace(
        task, metric="f1", words={"negative": ("x",), "positive": ("x",)}, test_source="a.jsonl", train_source="b"
    )
    assert len(broken.check()) == 4


def test_hub_columns_and_labels_get_the_names_of_the_task(task, monkeypatch):
    class Rows(list):
        features = {"tone": types.SimpleNamespace(names=["neg", "pos"])}  # noqa: RUF012

    rows = Rows({"sentence": f"row {i}", "tone": i % 2} for i in range(8))
    module = types.SimpleNamespace(load_dataset=lambda name, config, split: rows)
    monkeypatch.setitem(sys.modules, "datasets", module)
    task = replace(
        task,
        train_source="hub:a/b",
        test_source="hub:a/b:test",
        hub_columns={"text": "sentence", "label": "tone"},
        hub_labels={"neg": "negative", "pos": "positive"},
    )
    assert task.check() == []
    assert {(row.label, tuple(row.fields)) for row in task.split(2, 0).train} == {
        ("negative", ("text",)),
        ("positive", ("text",)),
    }
    assert len(task.test()) == 8


def test_tasks_import_no_model_library():
    code = "import sys, tandemtune.tasks; print({'torch', 'transformers', 'pyarrow', 'datasets'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

"""A task: split, test rows, score and the check that needs no model."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from dataclasses import FrozenInstanceError, replace

import pytest

from tandemtune.errors import DataError, UsageError
from tandemtune.tasks import Metric, Table, Task, Template
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


def test_what_is_wrong_with_test_rows_is_found_before_a_run(task, tmp_path):
    path = tmp_path / "test.jsonl"
    for content, said in [
        ("broken", "line 1"),
        ('{"text": "x"}', "line 1: no column 'label'"),
        ('{"text": "x", "label": "negative"}\n{"text": "x", "label": "none"}', "line 2, field 'label': unknown label"),
    ]:
        path.write_text(content)
        problems = replace(task).check()
        assert len(problems) == 1 and "test.jsonl" in problems[0] and said in problems[0]


def test_the_dev_file_is_named_where_it_has_too_few_rows(task, tmp_path):
    task = replace(task, dev_source=write(tmp_path / "dev.jsonl", 10, "dev"))
    for shots in (8, "all"):
        with pytest.raises(DataError, match=r"dev\.jsonl: too few rows.*lower dev_shots") as caught:
            task.split(shots, 13)
        assert "train.jsonl" not in str(caught.value)


def test_a_share_of_the_training_rows_for_test(task, tmp_path):
    task = replace(task, test_source=None, test_share=0.3)
    assert task.has_test and task.check() == []
    held = set(texts(task.test()))
    assert len(held) == 12 and len(task.train_rows()) == 28
    for seed in (1, 2):
        for shots in (4, "all"):
            drawn = task.split(shots, seed, dev_k=4)
            assert not held & set(texts((*drawn.train, *drawn.dev)))
    assert not held & set(texts(task.unlabelled(40, 1, drawn)))
    dev = replace(task, dev_source=write(tmp_path / "dev.jsonl", 40))  # the same texts as train
    assert not held & set(texts(dev.split(4, 1, dev_k=10).dev))
    assert set(texts(replace(task).test())) == held


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"test_share": 0.3}, "there is a test file already"),
        ({"test_share": 1.3, "test_source": None}, "train.jsonl: test_share = 1.3: expected a number between 0 and 1"),
    ],
)
def test_a_share_for_test_that_cannot_be(task, change, said):
    problems = replace(task, **change).check()
    assert len(problems) == 1 and said in problems[0]


def test_rows_in_memory_are_a_source(task):
    rows = [{"text": f"row {i}", "label": LABELS[i % 2]} for i in range(20)]
    made = replace(task, train_source=Table.of(rows, "frame"), test_source=Table.of(rows[:4]))
    assert made.check() == [] and len(made.split(4, 13).train) == 8 and len(made.test()) == 4
    with pytest.raises(DataError, match="frame: too few rows"):
        made.split(50, 13)


def test_names_are_compared_after_composing_accents(task, tmp_path):
    short, long = "\u00e9", "e\u0301"
    for written, asked in [(short, long), (long, short)]:
        rows = [{f"t{written}xt": f"row {i}", f"n{written}": f"label{written}{i % 2}"} for i in range(8)]
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        labels = (f"label{asked}0", f"label{asked}1")
        made = replace(
            task,
            template=Template.parse(f"{{t{asked}xt}} {{mask}}"),
            labels=labels,
            words={label: (f"w{asked}{label}",) for label in labels},
            label_column=f"n{asked}",
            positive=labels[1],
            test_source=None,
        )
        assert made.check() == []
        assert {row.label for row in made.split(2, 0).train} == {f"label{short}0", f"label{short}1"} == set(made.labels)
        same = replace(made, words={labels[0]: (f"w{short}",), labels[1]: (f"w{long}",)})
        assert any("used for both" in problem for problem in same.check())


def test_a_metric_of_ones_own(task):
    def found(predictions, gold):
        """Share of the positive rows that are found."""
        return sum(p == g == "positive" for p, g in zip(predictions, gold, strict=True)) / gold.count("positive")

    own = replace(task, own_metric=Metric.of(found))
    assert own.metric == "found" and own.check() == []
    assert own.score([1, 0, 1], [1, 1, 0]) == 0.5


def test_the_report_counts_what_a_run_should_know(task, tmp_path):
    write(tmp_path / "test.jsonl", 20, "row")  # the first 20 rows of train
    drawn = task.split(4, 13)
    report = task.report(drawn)
    assert report.parts["train"].rows == 40 and report.parts["test"].classes == dict.fromkeys(LABELS, 10)
    assert report.shared["train", "test"] == 20
    used = {row.fields["text"] for row in (*drawn.train, *drawn.dev)}
    assert report.shared_used["train", "test"] == sum(f"row {i}" in used for i in range(20))
    assert any("test: 20 of 20 rows" in note and "train.jsonl" in note for note in report.notes())
    assert replace(task, test_source=None, test_share=0.5).report(None).notes() == []


def test_how_a_file_was_read_is_told(task, tmp_path):
    rows = "text,label\n" + "".join(f"un été réussi {i},{LABELS[i % 2]}\n" for i in range(8))
    (tmp_path / "old.csv").write_bytes(rows.encode("cp1252"))
    made = replace(task, train_source=str(tmp_path / "old.csv"))
    assert made.check() == [] and len(made.notes()) == 1 and "old.csv: read as cp1252" in made.notes()[0]


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

"""Simple classifiers of the same rows, beside a run and in a comparison."""

from __future__ import annotations

import numpy as np
import pytest

import small
from tandemtune import plugins
from tandemtune.errors import ConfigError, UsageError
from tandemtune.report.standings import compared
from tandemtune.runs.records import ComparedRun, Result
from tandemtune.yardsticks import TfIdf, tfidf
from tandemtune.yardsticks.base import Answers, Yardstick
from tandemtune.yardsticks.embedding import ridge

TEXTS = ["great film", "a great plot", "loved it", "dull film", "a dull plot", "hated it"] * 2
GOLD = ["yes"] * 3 + ["no"] * 3 + ["yes"] * 3 + ["no"] * 3


def test_words_are_learned():
    pytest.importorskip("sklearn")
    found = tfidf(TEXTS, GOLD, ["great", "dull dull", "loved"])
    assert found.labels == ("no", "yes") and found.predicted == ("yes", "no", "yes")
    assert np.allclose(found.probabilities.sum(axis=1), 1) and found.probabilities[0, 1] > 0.6
    assert tfidf(TEXTS, GOLD, []).predicted == ()


def test_a_row_is_judged_by_other_rows_only():
    class Recalls(Yardstick):
        def answers(self, texts, labels, others):
            assert not set(texts) & set(others)
            return Answers(tuple(sorted(set(labels))), np.ones((len(others), len(set(labels)))))

    texts = [str(index) for index in range(23)]
    found = Recalls().without(texts, ["a", "b"] * 11 + ["only"])
    assert found.labels == ("a", "b", "only") and found.probabilities.shape == (23, 3)
    assert found.probabilities[-1, 2] == 0, "its label is unknown to the others"


def test_a_ridge_keeps_to_what_the_features_tell():
    generator = np.random.default_rng(0)
    gold = generator.integers(0, 3, 400)
    features = np.eye(3)[gold] + 0.3 * generator.normal(size=(400, 3))
    targets = np.eye(3)[gold]
    logits, without = ridge(features[:60], targets[:60], features[60:])
    alone, _ = ridge(features[1:60], targets[1:60], features[:1])
    assert without[0].argmax() == alone[0].argmax() and (without.argmax(axis=1) == gold[:60]).mean() > 0.85
    assert (logits.argmax(axis=1) == gold[60:]).mean() > 0.9
    shuffled, _ = ridge(features[:60], targets[generator.permutation(60)], features[60:])
    assert np.abs(shuffled - shuffled.mean(axis=0)).max() < np.abs(logits - logits.mean(axis=0)).max() / 3


def test_a_run_is_measured_against_them(tmp_path):
    pytest.importorskip("sklearn")
    recipe = small.recipe(tmp_path, method__name="readout", run__yardsticks=["tf-idf"])
    recipe["method"] = {"name": "readout"}
    result = small.tune(recipe, tmp_path / "run")
    (found,) = result["yardsticks"]
    assert found["name"] == "tf-idf" and 0 <= found["test"] <= 1 and 0 <= found["dev"] <= 1
    shown = small.call("show", tmp_path / "run").out
    assert "tf-idf" in shown
    read = Result.read(result, "result")
    runs = [
        ComparedRun(method="readout", task="small", model="m", seed=1, folder="", result=read),
        ComparedRun(method="other", task="small", model="m", seed=1, folder="", result=read),
    ]
    table = compared(runs, "readout")
    (column,) = table.methods["(tf-idf)"].columns.values()
    assert column.mean == found["test"]
    assert "(embedding)" not in table.methods and "(tf-idf)" not in table.contenders


def test_what_is_missing_is_said_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(TfIdf, "package", "no_such_package")
    recipe = small.recipe(tmp_path, run__yardsticks=["tf-idf"])
    with pytest.raises(UsageError, match=r"tf-idf needs no_such_package: pip install 'tandemtune\[baselines\]'"):
        small.tune(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    called = small.call("validate", small.write_recipe(tmp_path / "mine.json", recipe))
    assert called.code == 2 and "tf-idf needs no_such_package" in called.err
    monkeypatch.undo()
    with pytest.raises(KeyboardInterrupt):
        small.tune(recipe, tmp_path / "begun", small.Stop(step=1))
    monkeypatch.setattr(TfIdf, "package", "no_such_package")
    with pytest.raises(UsageError, match="tf-idf needs no_such_package"):
        small.resume(tmp_path / "begun")
    with pytest.raises(ConfigError, match=r"yardsticks: unknown yardstick 'tfidf' \(did you mean 'tf-idf'"):
        small.tune(small.recipe(tmp_path, run__yardsticks=["tfidf"]), tmp_path / "run")
    assert set(plugins.members("yardstick")) == {"tf-idf", "embedding"}


def test_a_simple_classifier_that_does_better_is_told(tmp_path):
    from tandemtune.report.text import simpler

    pytest.importorskip("sklearn")
    recipe = small.recipe(tmp_path, method__name="readout", run__yardsticks=["tf-idf"])
    recipe["method"] = {"name": "readout"}
    result = Result.read(small.tune(recipe, tmp_path / "run"), "here")
    (yardstick,) = result.yardsticks
    won = result.model_copy(update={"yardsticks": (yardstick.model_copy(update={"test": 1.0}),)})
    lost = result.model_copy(update={"yardsticks": (yardstick.model_copy(update={"test": 0.0}),)})
    assert simpler(lost) == []
    (said,) = simpler(won)
    assert said.startswith(f"tf-idf is better here: test accuracy 1.000 against {result.tuned.test:.3f}")

"""What a recipe's readout asks of a model and of its rows is found out before anything is searched."""

from __future__ import annotations

import pytest

import images
import small
from tandemtune import autotune
from tandemtune.config import load_config
from tandemtune.errors import UsageError

BY_READOUT = {"method__readout": "ridge", "method__score": "readout"}


@pytest.mark.parametrize(
    ("make", "views", "said"),
    [
        (small.recipe, ["answer", "mean@99"], "the model's layers are 0 to 3"),
        (small.recipe, ["tower"], "take answer or mean"),
        (images.recipe, ["mean"], "of images there are the views answer and tower"),
        (images.recipe, ["answer", "mean@middle"], "view mean@middle: of images there are the views answer and tower"),
        (small.recipe, [], "views: none, but readout ridge reads some"),
        (small.recipe, ["answer", "mean@2", "mean@02"], "views: mean@2 more than once"),
    ],
    ids=["a layer", "an image's", "a text's", "a text's middle", "none", "twice"],
)
def test_a_view_that_the_model_lacks_is_refused_before_the_search(make, views, said, tmp_path):
    made = make(tmp_path)
    made["method"] |= {"readout": "ridge", "views": views}
    called = small.call("validate", small.write_recipe(tmp_path / "recipe.json", made))
    assert called.code == 2 and said in called.err, called.err
    with pytest.raises(UsageError, match="views: ") as refused:
        small.tune(made, tmp_path / "run")
    assert said in str(refused.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("view", "fine"),
    [("answer@1", False), ("mean@1", True), ("answer@3", True), ("answer@middle", True), ("mean@middle", True)],
)
def test_views_of_an_encoder_and_its_decoder(view, fine, tmp_path):
    made = small.recipe(tmp_path, "t5")
    made["method"] = {"name": "readout", "views": [view]}
    called = small.call("validate", small.write_recipe(tmp_path / "recipe.json", made))
    assert (called.code == 0) == fine, called.err
    if fine:
        small.tune(made, tmp_path / "run")
    else:
        assert "the encoder has no answer position" in called.err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method__subsample": 1}, "[method] subsample: 1 of 8 training rows"),
        ({"task__scored_rows": 1}, "[task] scored_rows: 1 of 8 training rows hold none of"),
        ({"method__subsample": 2, "task__scored_rows": 4}, ""),
    ],
    ids=["subsample", "scored_rows", "enough"],
)
def test_candidates_that_a_readout_scores_need_a_row_of_each_label(changes, said, tmp_path):
    made = small.recipe(tmp_path, "llama", **BY_READOUT, **changes)
    called = small.call("validate", small.write_recipe(tmp_path / "recipe.json", made))
    assert called.code == (2 if said else 0) and said in called.err, called.err
    if said:
        with pytest.raises(UsageError, match="needs one of each label"):
            small.tune(made, tmp_path / "run")
    else:
        assert small.tune(made, tmp_path / "run")["steps"]


def test_a_label_with_few_rows_needs_more_of_them_to_be_drawn(tmp_path):
    """Three of forty rows: fourteen drawn ones hold one of them for sure."""
    small.recipe(tmp_path)
    labels = ("negative",) * 40 + ("positive",) * 6
    texts = small.rows(46, 3, ("a", "b"))
    small.write_rows(
        tmp_path / "train.jsonl", [{**row, "label": label} for row, label in zip(texts, labels, strict=False)]
    )
    skewed = {"task__shots": "all", "task__dev_shots": 3}
    made = small.recipe(tmp_path, "llama", **BY_READOUT, **skewed, method__subsample=4)
    called = small.call("validate", small.write_recipe(tmp_path / "recipe.json", made))
    assert called.code == 2 and "may hold none of positive" in called.err and "raise it to 14" in called.err, called.err
    made["method"]["subsample"] = 14
    assert small.tune(made, tmp_path / "run")["steps"]


def test_what_a_readout_says_is_not_calibrated_in_a_search_by_it(tmp_path):
    """Candidates have the losses that the same points are measured by."""
    problem = autotune.build(load_config(small.recipe(tmp_path, "llama", **BY_READOUT, method__calibrate=True)))
    evaluator, start = problem.evaluator, problem.scorer.parameters.initial()
    alone = {block: vector.unsqueeze(0) for block, vector in start.items()}
    assert evaluator.empty is not None
    assert evaluator.evaluate(start, alone)[0] == pytest.approx(evaluator.measure(start).loss, rel=1e-6)


def test_a_point_without_numbers_is_worse_than_all_others_where_a_readout_judges(tmp_path):
    """Steps that are far too large: the run goes on, and keeps the point where it began."""
    made = small.recipe(tmp_path, "gpt2")
    own = {"name": "full", "steps": 3, "dev_every": 1, "optimizer": {"kind": "adamw", "lr": 1e6}}
    made["method"] = {**own, "readout": "ridge", "judge": "readout"}
    result = small.tune(made, tmp_path / "run")
    first, *others = [line["dev"]["loss"] for line in small.journal(tmp_path / "run") if line.get("dev")]
    assert first is not None and others and None in others
    assert result["kept_step"] == 0 and result["tuned"] == result["zero_shot_readout"]

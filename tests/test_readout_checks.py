"""What a recipe's readout asks of a model and of its rows is found out before anything is searched."""

from __future__ import annotations

import pytest

import images
import small
from tandemtune.errors import UsageError

TUNED = {"method__readout": "ridge"}


@pytest.mark.parametrize(
    ("make", "views", "said"),
    [
        (small.recipe, ["answer", "mean@99"], "the model's layers are 0 to 3"),
        (small.recipe, ["tower"], "take answer or mean"),
        (images.recipe, ["mean"], "of images there are the views answer and tower"),
        (small.recipe, [], "views: none, but readout ridge reads some"),
    ],
    ids=["a layer", "an image's", "a text's", "none"],
)
def test_a_view_that_the_model_lacks_is_refused_before_the_search(make, views, said, tmp_path):
    made = make(tmp_path)
    made["method"] |= {"readout": "ridge", "views": views}
    called = small.call("validate", small.write_recipe(tmp_path / "recipe.json", made))
    assert called.code == 2 and said in called.err, called.err
    with pytest.raises(UsageError, match="views: ") as refused:
        small.tune(made, tmp_path / "run")
    assert said in str(refused.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize(("view", "fine"), [("answer@1", False), ("mean@1", True), ("answer@3", True)])
def test_views_of_an_encoder_and_its_decoder(view, fine, tmp_path):
    made = small.recipe(tmp_path, "t5")
    made["method"] = {"name": "readout", "views": [view]}
    called = small.call("validate", small.write_recipe(tmp_path / "recipe.json", made))
    assert (called.code == 0) == fine, called.err
    if fine:
        small.tune(made, tmp_path / "run")
    else:
        assert "the encoder has no answer position" in called.err

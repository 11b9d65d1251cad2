"""Which images are read, as what, and what is said of those that are not."""

from __future__ import annotations

import io
import json
import math
import re
import shutil

import numpy as np
import pytest
from PIL import Image, features

import images
import small
from small import tune
from tandemtune.errors import ConfigError, DataError
from tandemtune.models.image_text import ImageTextBackbone
from tandemtune.predict import load
from tandemtune.tasks.pictures import opened

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module")
def run(place):
    tune({**images.recipe(place), "method": {"name": "readout"}}, place / "run")
    return place / "run"


def test_a_file_that_another_image_is_written_to_is_looked_at_again(place, run, tmp_path):
    """Whoever serves a model may write one picture after another to the same file."""
    red, green = (next((place / "test" / name).iterdir()) for name in ("red", "green"))
    model, shown = load(run), tmp_path / "shown.png"
    expected = [answer.probabilities for answer in model.predict([red, green])]
    found = []
    for path in (red, green):
        shutil.copyfile(path, shown)
        found += [answer.probabilities for answer in model.predict([shown])]
    assert found == expected
    shown.unlink()
    assert model.predict([shown])[0].probabilities == expected[1]  # that was read already


def test_images_go_through_an_accelerator_together(place, run, tmp_path, monkeypatch):
    rows = images.write_pictures(tmp_path / "new", 3, 9)
    one_by_one = load(run)
    alone = one_by_one.predict([Image.open(path) for path in sorted(rows.rglob("*.png"))])
    own, together = ImageTextBackbone.image_features, []

    def counted(self, pictures):
        together.append(len(pictures))
        return own(self, pictures)

    monkeypatch.setattr(ImageTextBackbone, "at_once", 4)
    monkeypatch.setattr(ImageTextBackbone, "image_features", counted)
    found = load(run).predict(sorted(rows.rglob("*.png")))
    assert sorted(together) == [1, 4, 4]
    for one, other in zip(alone, found, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_classes_of_nested_folders_are_known_when_a_run_is_scored(place, run, tmp_path):
    for path in sorted((place / "test").rglob("*.png")):
        to = tmp_path / "test" / path.parent.name / f"part {path.stem[-1]}" / path.name
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)
    assert load(run).evaluate(tmp_path / "test").score == load(run).evaluate(place / "test").score


def test_parts_beside_other_folders_are_no_classes(place, tmp_path):
    images.recipe(place)
    for name in ("train", "test"):
        shutil.copytree(place / name, tmp_path / name)
    (tmp_path / "__MACOSX").mkdir()
    made = images.recipe(place, task__train=str(tmp_path), task__test=None)
    with pytest.raises(ConfigError, match="holds the folders train and test beside '__MACOSX'"):
        tune(made, tmp_path / "run")
    (tmp_path / "__MACOSX").rmdir()
    assert tune(made, tmp_path / "run")["rows"]["test"] == 30


def test_files_that_are_not_called_as_images_are_told(place, tmp_path):
    images.recipe(place)
    for name in ("train", "test"):
        shutil.copytree(place / name, tmp_path / name)
    for name in ("one.HEIC", "two.heic", "notes", ".hidden"):
        (tmp_path / "train" / "red" / name).write_bytes(b"what is in it does not matter")
    result = tune({**images.recipe(tmp_path), "method": {"name": "readout"}}, tmp_path / "run")
    (said,) = [note for note in result["notes"] if "left out" in note]
    assert said.startswith("train: 3 files") and ".heic: 2, no ending: 1" in said


def test_a_mentor_is_shown_no_paths(place, tmp_path):
    made = images.recipe(place, method__name="maao", method__steps=None, mentor__show_rows=2, mentor__client="file")
    with pytest.raises(ConfigError, match="show_rows: 2, but rows are images"):
        tune(made, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_in_place_of_a_recipe_is_told_what_makes_one(place):
    images.recipe(place)
    said = small.call("run", place / "train")
    assert said.code == 2 and f"quickstart-images task.train={place / 'train'}" in " ".join(said.err.split())


@pytest.mark.parametrize("most", [1.0, 200.0, 40_000.0])
def test_pictures_of_fractions_are_as_bright_as_they_say(most):
    written = io.BytesIO()
    Image.fromarray(np.linspace(0, most, 16, dtype=np.float32).reshape(4, 4)).save(written, "TIFF")
    darkest, brightest = opened(written.getvalue()).getextrema()[0]
    expected = most / (1 if most <= 1 else 255 if most <= 255 else 65535) * 255
    assert darkest == 0 and brightest == pytest.approx(expected, abs=1)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_a_broken_picture_of_any_kind_is_told():
    written = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 40, 40)).save(written, "AVIF")
    whole = written.getvalue()
    for place in range(100, len(whole)):
        try:
            opened(whole[:place] + bytes([255 - whole[place]]) + whole[place + 1 :], "broken.avif")
        except DataError as error:
            assert "broken.avif is" in str(error)


def test_the_readmes_code_takes_the_models_own_revision(place, tmp_path):
    made = images.recipe(place, model__revision="v1.0")
    tune({**made, "method": {"name": "manual"}}, tmp_path / "run")
    code = (tmp_path / "run" / "adapter" / "README.md").read_text(encoding="utf-8")
    assert code.count('.from_pretrained(base, revision="v1.0")') == 3 and "from_pretrained(base)" not in code


def test_the_readmes_code_turns_pictures_as_the_run_does(place, run, tmp_path, monkeypatch):
    turned = Image.Exif()
    turned[0x0112] = 6
    pixels = np.zeros((12, 20, 3), np.uint8)
    pixels[:6] = (200, 40, 40)
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=turned)
    code = re.search(r"```python\n(.*?)```", (run / "adapter" / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    monkeypatch.chdir(run / "adapter")
    said: list[dict[str, float]] = []
    exec(code.replace('"picture.png"', json.dumps(str(tmp_path / "turned.png"))), {"print": said.append})
    expected = load(run).predict([tmp_path / "turned.png"])[0].probabilities
    assert said[0] == pytest.approx(expected, abs=1e-4) and all(map(math.isfinite, expected.values()))

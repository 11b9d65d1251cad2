"""Rows of images: folders of classes, tables with paths, copies, and what is wrong with them."""

from __future__ import annotations

import shutil

import pytest

import images
from tandemtune.config import load_config
from tandemtune.errors import ConfigError, DataError
from tandemtune.tasks.images import ImageTask, class_text, complete, folder_rows, image_table, task_settings
from tandemtune.tasks.templates import Template

NAMES = tuple(sorted(images.CLASSES))


def task_of(source, **more):
    template = Template.parse("{image} a photo of a {mask}.")
    return ImageTask("colours", template, NAMES, {n: (n,) for n in NAMES}, "accuracy", str(source), **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return images.write_pictures(tmp_path_factory.mktemp("pictures") / "train", 8, seed=1)


def test_a_folder_says_its_classes_and_a_template(folder):
    made = task_settings({"train": str(folder), "shots": 2})
    assert made["labels"] == {"deep_blue": "deep blue", "green": "green", "red": "red"}
    assert made["template"] == "{image} a photo of a {mask}." and made["shots"] == 2
    assert task_settings({"train": "rows.csv"}) == {"train": "rows.csv"}
    own = task_settings({"train": str(folder), "labels": {"red": "crimson"}, "template": "art of {mask}"})
    assert own["labels"] == {"red": "crimson"} and own["template"] == "{image} art of {mask}"


def test_a_folder_of_parts_brings_its_test_and_dev_rows(tmp_path, folder):
    for name in ("train", "test", "val"):
        shutil.copytree(folder, tmp_path / name)
    made = task_settings({"train": str(tmp_path)})
    assert [made[part] for part in ("train", "test", "dev")] == [str(tmp_path / n) for n in ("train", "test", "val")]
    assert "test" not in task_settings({"train": str(tmp_path), "test_share": 0.5})


def test_splits_are_seeded_and_balanced(folder):
    task = task_of(folder)
    one, again, other = (task.split(2, seed) for seed in (1, 1, 2))
    assert one == again and one != other
    assert [row.label for row in one.train] == [*NAMES, *NAMES]
    assert not {row.fields["image"] for row in one.train} & {row.fields["image"] for row in one.dev}


def test_copies_of_an_image_are_known_whatever_they_are_called(tmp_path, folder):
    root = tmp_path / "train"
    shutil.copytree(folder, root)
    for number, path in enumerate(sorted((root / "red").iterdir())[1:]):
        shutil.copy(sorted((root / "red").iterdir())[0], path)
        assert number < 8
    with pytest.raises(DataError, match="'red' has 1"):
        task_of(root).split(1, 0)
    test = tmp_path / "test"
    shutil.copytree(folder, test)
    notes = task_of(folder, test_source=str(test)).report().notes()
    assert any("24 of 24 rows" in note and "also stand in train" in note for note in notes)


def test_a_table_names_images_from_its_own_folder_on(tmp_path, folder):
    table = tmp_path / "rows.csv"
    rows = [f"{path},{name}" for name in NAMES for path in sorted((folder / name).iterdir())[:3]]
    table.write_text("image,label\n" + "\n".join(rows), encoding="utf-8")
    shutil.copytree(folder, tmp_path / "train")
    assert len(task_of(table).train_rows()) == 9
    relative = tmp_path / "relative.csv"
    relative.write_text("image,label\n" + "\n".join(f"train/{n}/1-000.png,{n}" for n in NAMES), encoding="utf-8")
    assert {row.fields["image"] for row in task_of(relative).train_rows()} == {
        str(tmp_path / "train" / name / "1-000.png") for name in NAMES
    }
    relative.write_text("image,label\nnothing.png,red\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"no file .*nothing\.png"):
        task_of(relative).train_rows()


def test_what_is_wrong_with_a_folder(tmp_path, folder):
    (tmp_path / "one" / "only").mkdir(parents=True)
    with pytest.raises(DataError, match="1 folder, expected one for each class"):
        task_settings({"train": str(tmp_path / "one")})
    with pytest.raises(ConfigError, match="expected one for each class"):
        load_config(images.recipe(tmp_path, task__train=str(tmp_path / "one")))
    with pytest.raises(DataError, match="no folder for 'violet'"):
        folder_rows(folder, "image", (*NAMES, "violet"))
    with pytest.raises(DataError, match="'red' is no label"):
        folder_rows(folder, "image", ("deep_blue", "green"))
    shutil.copytree(folder, tmp_path / "empty")
    shutil.rmtree(tmp_path / "empty" / "green")
    (tmp_path / "empty" / "green").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        folder_rows(tmp_path / "empty", "image", NAMES)


def test_templates_of_classes():
    assert class_text(Template.parse("{image} a photo of a {mask}, small."), "cat") == ("a photo of a", "cat, small.")
    assert class_text(Template.parse("{image} {mask}"), "cat") == ("", "cat")
    assert complete("art of {mask}") == "{image} art of {mask}" and complete("{path} {mask}") == "{path} {mask}"


def test_a_folder_as_a_table(tmp_path, folder):
    table = image_table(folder, "image")
    assert len(table.rows) == 24 and {row["label"] for row in table.rows} == set(NAMES)
    flat = tmp_path / "flat"
    shutil.copytree(folder / "red", flat)
    assert "label" not in image_table(flat, "image").columns
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        image_table(tmp_path / "none", "image")

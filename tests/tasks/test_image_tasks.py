"""Rows of images: folders of classes, tables with paths, copies, and what is wrong with them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

import images
from tandemtune.config import load_config
from tandemtune.errors import ConfigError, DataError
from tandemtune.tasks.images import ImageTask, class_text, complete, folder_rows, image_table, task_settings
from tandemtune.tasks.pictures import opened
from tandemtune.tasks.table import read_table
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


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The `datasets` library, with a cache of its own and no network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hub")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        found = pytest.importorskip("datasets")
        found.disable_progress_bars()
        patch.setattr(found.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("data sets"))
        yield found


@pytest.fixture(scope="module")
def saved(tmp_path_factory, folder, library):
    """Pictures as a saved data set of two parts and as Parquet: numbers of named classes, the images inside."""
    rows = [(path, number) for number, name in enumerate(NAMES) for path in sorted((folder / name).iterdir())]
    features = library.Features({"img": library.Image(), "label": library.ClassLabel(names=list(NAMES))})
    given = {"img": [Image.open(path).convert("RGB") for path, _ in rows], "label": [number for _, number in rows]}
    whole = library.Dataset.from_dict(given, features=features)
    place = tmp_path_factory.mktemp("saved")
    library.DatasetDict(train=whole, test=whole.select(range(0, 24, 2))).save_to_disk(place / "parts")
    whole.save_to_disk(place / "whole")
    whole.to_parquet(place / "rows.parquet")
    return place


def of_hub(source, kept, **more):
    made = task_settings({"train": source, **more})
    words = {label: (name,) for label, name in made["labels"].items()}
    return ImageTask("x", Template.parse(made["template"]), tuple(words), words, "accuracy", source, kept=kept)


@pytest.mark.parametrize("source", ["hub:{}/parts", "hub:{}/parts:train", "hub:{}/whole", "{}/rows.parquet"])
def test_images_inside_a_data_set_are_those_of_the_folder(tmp_path, folder, saved, source):
    made = task_settings({"train": source.format(saved), "shots": 2})
    assert made["labels"] == {"deep_blue": "deep blue", "green": "green", "red": "red"}
    assert made["template"] == "{img} a photo of a {mask}." and made["shots"] == 2
    rows = of_hub(source.format(saved), tmp_path / "kept").train_rows()
    assert [row.label for row in rows] == [name for name in NAMES for _ in range(8)]
    own = [opened(path).tobytes() for name in NAMES for path in sorted((folder / name).iterdir())]
    assert [opened(Path(row.fields["img"])).tobytes() for row in rows] == own
    assert all(Path(row.fields["img"]).is_relative_to(tmp_path / "kept") for row in rows)


def test_a_repository_of_folders_gives_its_own_files(tmp_path, folder, library):
    for part in ("train", "test"):
        shutil.copytree(folder, tmp_path / "repository" / part)
    source = f"hub:{tmp_path}/repository"
    rows = of_hub(source, tmp_path / "kept").train_rows()
    assert {Path(row.fields["image"]) for row in rows} == set((tmp_path / "repository" / "train").rglob("*.png"))
    assert not (tmp_path / "kept").exists()
    assert len(read_table(f"{source}:test").rows) == 24


def test_what_is_wrong_with_a_saved_data_set(tmp_path, saved):
    with pytest.raises(DataError, match="no part 'dev', there are 'train', 'test'"):
        task_settings({"train": f"hub:{saved}/parts:dev"})
    with pytest.raises(DataError, match="no column 'kind', found 'img', 'label'"):
        task_settings({"train": f"hub:{saved}/parts", "label_column": "kind"})
    with pytest.raises(DataError, match="holds images themselves"):
        of_hub(f"hub:{saved}/parts", None).train_rows()


def test_a_table_of_paths_says_its_classes(tmp_path, folder):
    table = tmp_path / "rows.csv"
    table.write_text(f"photo,kind\n{folder}/red/1-000.png,dark_red\n{folder}/green/1-000.png,green\n", encoding="utf-8")
    made = task_settings({"train": str(table), "label_column": "kind", "templates": ["a {mask}", "{photo} {mask}"]})
    assert made["labels"] == {"dark_red": "dark red", "green": "green"}
    assert made["templates"] == ["{photo} a {mask}", "{photo} {mask}"] and "template" not in made
    texts = tmp_path / "texts.csv"
    texts.write_text("text,label\nsee a.png,1\n", encoding="utf-8")
    for given in ({"train": str(texts)}, {"train": str(texts), "name": "sst2"}, {"train": str(tmp_path / "no.csv")}):
        assert task_settings(given) == given


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("names.json", '{"n01": "dog", "n02": ["cat", "kitten"]}', {"n01": "dog", "n02": ["cat", "kitten"]}),
        ("names.json", '["deep_blue", "red"]', {"deep_blue": "deep blue", "red": "red"}),
        ("names.txt", "deep_blue\nred\n\n", {"deep_blue": "deep blue", "red": "red"}),
    ],
)
def test_names_of_classes_out_of_a_file(tmp_path, name, content, told):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert task_settings({"labels": str(tmp_path / name)})["labels"] == told


@pytest.mark.parametrize("content", ["{", "3", '["a", 2]'])
def test_a_file_that_holds_no_names_is_told(tmp_path, folder, content):
    (tmp_path / "names.json").write_text(content, encoding="utf-8")
    for name in ("names.json", "none.json"):
        with pytest.raises(ConfigError, match=r"\[task\] labels: .*\.json (cannot be read|holds neither)") as caught:
            load_config(images.recipe(tmp_path, task__train=str(folder), task__labels=str(tmp_path / name)))
        assert len(caught.value.problems) == 1

"""Runs over images: every kind of method, killed and resumed, predictions, page, export, and what is refused."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional

import images
import small
from small import Stop, resume, tune
from tandemtune import shared
from tandemtune.config import load_config
from tandemtune.errors import ConfigError, DataError
from tandemtune.models.image_text import ImageTextBackbone
from tandemtune.predict import load

NO_SEARCH = {f"method__{key}": None for key in ("budget", "d", "r", "popsize", "layers")}
METHODS = {
    "prompt": {},
    "c-lora": {"method": {"name": "c-lora", "budget": 30, "d": 8, "r": 1, "popsize": 4, "layers": "all"}},
    "f-lora": {"method": {"name": "f-lora", "budget": 30, "d": 8, "r": 1, "popsize": 4, "layers": "all"}},
    "bbt": {"method": {"name": "bbt", "budget": 30, "d": 8, "popsize": 4, "prompt_tokens": 4}},
    "words": {
        "method": {"name": "gap3", "budget": 20, "popsize": 4, "prompt_tokens": 4, "prompt_text": "a photo of a"}
    },
    "lora": {"method": {"name": "lora", "steps": 5}},
    "each class": {"method": {"name": "prompt-tuning", "tunable": "class-prompt", "prompt_tokens": 4, "steps": 5}},
    "readout": {"method": {"name": "readout", "readout": "ridge"}},
    "tower": {"method": {"name": "readout", "readout": "ridge", "views": ["answer", "tower"]}},
    "tower alone": {"method": {"name": "readout", "readout": "logistic", "views": ["tower"]}},
    "scored by a readout": {
        "method": {
            "name": "bbt",
            "budget": 20,
            "d": 8,
            "popsize": 4,
            "prompt_tokens": 4,
            "readout": "ridge",
            "views": ["answer", "tower"],
            "score": "readout",
            "judge": "readout",
        }
    },
    "race": {
        "method": {"name": "maao-race", "prompt_tokens": 4, "prompt_text": "a photo of a"},
        "alternate": {
            "rounds": 1,
            "round_steps": 3,
            "race_steps": 2,
            "final_steps": 4,
            "snapshots": 2,
            "proposals": 3,
            "proposer": "random",
        },
    },
    "rounds": {
        "method": {"name": "prompt-tuning", "prompt_tokens": 4, "prompt_text": "a photo of a"},
        "alternate": {"rounds": 2, "round_steps": 3, "final_steps": 2, "snapshots": 2, "proposer": "mutation"},
    },
}


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("images")


def recipe(place, method, model="clip", **changes):
    return {**images.recipe(place, model, **changes), **METHODS[method]}


@pytest.fixture(scope="module")
def run(place):
    tune(recipe(place, "prompt"), place / "run")
    return place / "run"


@pytest.mark.parametrize("moments", ["middle", pytest.param("both", marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_is_stopped_anywhere_ends_as_if_it_never_had_been(place, method, moments):
    made, whole = recipe(place, method), place / f"{method}-{moments}"
    tune(made, whole)
    straight = small.artefacts(whole)
    lines = len(small.journal(whole))
    for stop in sorted(({2, lines // 2 + 1} if moments == "both" else {lines // 2 + 1}) & set(range(2, lines))):
        folder = place / f"{method}-{stop}"
        with pytest.raises(KeyboardInterrupt):
            tune(made, folder, Stop(lines=stop))
        resume(folder)
        assert small.artefacts(folder) == straight
        shutil.rmtree(folder)


@pytest.mark.parametrize("model", images.MODELS)
def test_a_tuned_prompt_tells_colours_apart(place, model):
    if model == "conse":
        pytest.skip("a random image classifier sees no colours")
    result = tune(images.recipe(place, model, method__steps=25, method__lr=0.05), place / f"better-{model}")
    assert result["tuned"]["train_loss"] < result["zero_shot"]["train_loss"]
    assert result["rows"] == {"train": 12, "dev": 12, "test": 30}


def test_a_folder_and_a_metric_are_a_task_of_labels(place):
    made = images.recipe(place)
    task = {key: made["task"][key] for key in ("train", "test", "shots")} | {"metric": "accuracy"}
    for method in ({}, {"method": {"name": "auto"}}):
        config = load_config({"model": made["model"], "task": task, **method})
        assert (config.method.objective.kind, config.method.readout.kind) == ("ce", "ridge")
        assert config.task.labels


def test_a_readout_takes_the_tower_where_that_helps(place):
    chosen = {"method": {"name": "readout", "readout": "ridge", "views": "auto"}}
    tune({**images.recipe(place), **chosen}, place / "chosen")
    solved = json.loads((place / "chosen" / "adapter" / "readout" / "readout.json").read_text(encoding="utf-8"))
    assert solved["views"] in (["answer"], ["answer", "tower"])
    with pytest.raises(ConfigError, match="of images, answer or tower"):
        tune({**images.recipe(place), "method": {**chosen["method"], "views": ["towers"]}}, place / "no")


def test_another_set_of_images_is_not_taken_for_the_same(place, tmp_path, monkeypatch):
    """What runs of a comparison have in common is known by the images, too, not by the class texts alone."""
    images.write_pictures(tmp_path / "test", 10, 7, {name: colour[::-1] for name, colour in images.CLASSES.items()})
    recipes = [
        recipe(place, "readout"),
        {**images.recipe(place, task__test=str(tmp_path / "test")), **METHODS["readout"]},
    ]
    alone = [tune(made, tmp_path / f"alone-{number}") for number, made in enumerate(recipes)]
    (tmp_path / "common").mkdir()
    monkeypatch.setenv(shared.FOLDER, str(tmp_path / "common"))
    together = [tune(made, tmp_path / f"together-{number}") for number, made in enumerate(recipes)]
    assert [one["zero_shot"] for one in alone] == [one["zero_shot"] for one in together]
    assert alone[0]["zero_shot"]["test"] != alone[1]["zero_shot"]["test"]


def test_images_are_looked_at_once(place, run, monkeypatch):
    def never(self, pictures):
        raise AssertionError("an image was computed again")

    before = small.artefacts(run)
    monkeypatch.setattr(ImageTextBackbone, "image_features", _only_flat(ImageTextBackbone.image_features, never))
    tune(recipe(place, "prompt"), place / "again")
    assert small.artefacts(place / "again") == before


def _only_flat(own, never):
    def features(self, pictures):
        grey = all(
            len(set(picture.getextrema())) == 1 and picture.getextrema()[0][0] == picture.getextrema()[0][1]
            for picture in pictures
        )
        return own(self, pictures) if grey else never(self, pictures)

    return features


def test_predictions_of_files_pictures_and_folders(place, run):
    model = load(run)
    path = sorted((place / "test" / "green").iterdir())[0]
    answers = model.predict([str(path), path, Image.open(path), {"image": str(path)}])
    assert len({tuple(answer.probabilities.values()) for answer in answers}) == 1
    said = small.call("predict", run, "--input", place / "test", "--output", place / "out.csv", "--overwrite")
    assert said.code == 0 and "accuracy on 30 rows" in said.err
    written = (place / "out.csv").read_text(encoding="utf-8").splitlines()
    assert written[0].startswith("image,gold,label") and len(written) == 31
    assert model.evaluate(place / "test").score == pytest.approx(
        json.loads((run / "result.json").read_text())["tuned"]["test"]
    )
    table = place / "rows.csv"
    table.write_text(f"image\ntest/green/{path.name}\n", encoding="utf-8")
    said = small.call("predict", run, "--input", table)
    assert said.code == 0 and said.out == f"{answers[0].label}\ttest/green/{path.name}\n"
    said = small.call("predict", run, "--input", table, "--output", place / "rows.jsonl", "--overwrite")
    assert said.code == 0 and json.loads((place / "rows.jsonl").read_text())["image"] == f"test/green/{path.name}"


def test_the_page_shows_the_errors_as_pictures(place, run):
    from tandemtune.report.run_page import run_page
    from tandemtune.runs.store import RunFolder

    source = run_page(RunFolder.open(run))
    wrong = sum(
        row["gold"] != row["label"] for row in map(json.loads, (run / "predictions.jsonl").read_text().splitlines())
    )
    assert source.count('<img src="data:image/jpeg;base64,') == min(wrong, 10) > 0
    assert "Confusion matrix" in source and "http:" not in re.sub(r"http://www\.w3\.org/\S+", "", source)


@pytest.mark.parametrize("method", ["prompt", "lora", "readout", "tower", "tower alone"])
def test_the_exported_classes_say_what_the_run_says(place, method):
    folder = place / f"said-{method}"
    tune(recipe(place, method), folder)
    said = small.call("export", folder, "--to", place / f"export-{method}")
    assert said.code == 0
    for more in (["--merged"], ["--for", "vllm"]):
        refused = small.call("export", folder, "--to", place / "other", *more)
        assert refused.code == 2 and f"{' '.join(more)}: the run's vectors" in refused.err
    to = place / f"export-{method}"
    classes = load_file(to / "classes.safetensors")
    told = json.loads((to / "classes.json").read_text(encoding="utf-8"))
    model = images.whole("clip")
    for row in map(json.loads, (folder / "predictions.jsonl").read_text().splitlines()):
        picture = images.processor()(Image.open(row["fields"]["image"]), return_tensors="pt")
        vector = functional.normalize(model.get_image_features(**picture).pooler_output, dim=-1)
        logits = vector @ classes["weight"].T + classes["bias"]
        if "tower" in method:
            logits = logits + model.vision_model(**picture).pooler_output @ classes["pooled_weight"].T
        found = logits.softmax(dim=-1)[0].tolist()
        np.testing.assert_allclose(found, [row["probabilities"][label] for label in told["labels"]], atol=1e-4)


def test_peft_loads_lora_into_the_untouched_model(place):
    peft = pytest.importorskip("peft")
    folder = place / "peft"
    tune(recipe(place, "lora"), folder)
    model = load(folder)
    base = type(images.whole("clip")).from_pretrained(images.model_folder("clip"))
    loaded = peft.PeftModel.from_pretrained(base, str(folder / "adapter")).eval()
    scorer = model.scorer
    group = scorer.texts().batch.groups[0]
    own = loaded.base_model.model.get_text_features(input_ids=group.ids).pooler_output
    found = scorer.engine.logits(scorer.texts().batch, model.point)[group.rows]
    torch.testing.assert_close(found, own.detach(), rtol=1e-4, atol=1e-5)
    assert not torch.equal(own, images.whole("clip").get_text_features(input_ids=group.ids).pooler_output)


@pytest.mark.parametrize("method", ["prompt", "tower"])
def test_the_readmes_code_runs_without_this_library(place, method, monkeypatch):
    run, to = place / f"alone-{method}", place / f"alone-{method}-exported"
    tune(recipe(place, method), run)
    assert small.call("export", run, "--to", to).code == 0
    code = re.search(r"```python\n(.*?)```", (to / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    assert "import tandemtune" not in code and "from tandemtune" not in code
    picture = next((place / "test" / "red").iterdir())
    monkeypatch.chdir(to)
    code = code.replace('"picture.png"', json.dumps(str(picture)))
    said: list[dict[str, float]] = []
    exec(code, {"print": said.append})
    assert said[0] == pytest.approx(load(run).predict([picture])[0].probabilities, abs=1e-4)


def _odd_pictures(root):
    """Readable pictures of unusual kinds: of print, animated, on their side, deep grey, with a palette and holes."""
    colour = images.CLASSES["red"]
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("CMYK", (12, 12), (40, 215, 215, 0)).save(root / "print.jpg")
    frames = [Image.new("RGB", (12, 12), other) for other in (colour, (0, 0, 0))]
    frames[0].save(root / "moving.gif", save_all=True, append_images=frames[1:])
    Image.new("RGB", (20, 12), colour).save(root / "turned.jpg", exif=turned)
    Image.fromarray(np.full((12, 12), 40_000, np.uint16)).save(root / "deep.png")
    Image.new("RGBA", (12, 12), (*colour, 90)).quantize(8).save(root / "holes.png")
    Image.new("RGB", (5000, 4000), colour).save(root / "large.png")


def _bad_pictures(root, good):
    """Files that are no pictures, by what is said of them."""
    contents = {
        "empty.png": (b"", "is empty"),
        "torn.png": (good.read_bytes()[:60], "is a broken image"),
        "text.jpg": (b"not a picture", "is no image of a known kind"),
        "bomb.png": (images.bomb(), "more than 100 million pixels"),
    }
    for name, (content, _) in contents.items():
        (root / name).write_bytes(content)
    return {name: said for name, (_, said) in contents.items()}


def test_odd_pictures_are_used_and_bad_ones_are_told_by_every_command(place, tmp_path):
    images.recipe(place)
    for name in ("train", "test"):
        shutil.copytree(place / name, tmp_path / name)
    _odd_pictures(tmp_path / "test" / "red")
    made = small.write_recipe(tmp_path / "mine.json", recipe(tmp_path, "readout"))
    said = small.call("run", made, "--out", tmp_path / "run")
    assert said.code == 0, said.err
    assert f"label images with: tandemtune predict {tmp_path / 'run'} --input images" in " ".join(said.err.split())
    assert json.loads((tmp_path / "run" / "result.json").read_text())["rows"]["test"] == 36
    told = _bad_pictures(tmp_path / "test" / "red", next((place / "test" / "red").iterdir()))
    for command in (
        ("run", made, "--out", tmp_path / "again"),
        ("evaluate", tmp_path / "run", tmp_path / "test"),
        ("predict", tmp_path / "run", "--input", tmp_path / "test", "--output", tmp_path / "out.csv"),
    ):
        said = small.call(*command)
        assert said.code == 2 and "Traceback" not in said.err
        assert all(f"{name} {what}" in said.err or f"{name} has {what}" in said.err for name, what in told.items())
    assert not (tmp_path / "again").exists() and not (tmp_path / "out.csv").exists()
    for name, what in told.items():
        said = small.call("predict", tmp_path / "run", "--text", tmp_path / "test" / "red" / name)
        assert said.code == 2 and what in said.err.splitlines()[-1] and said.err.count("tandemtune: ") == 1


@pytest.mark.parametrize("method", ["words", "manual"])
@pytest.mark.parametrize("model", ["clip", "siglip"])
def test_texts_of_words_are_exported_and_make_the_weights(place, model, method, monkeypatch):
    made = {**recipe(place, "words", model), **({"method": {"name": "manual"}} if method == "manual" else {})}
    run, to = place / f"texts-{model}-{method}", place / f"texts-{model}-{method}-exported"
    tune(made, run)
    assert small.call("export", run, "--to", to).code == 0
    told = json.loads((to / "classes.json").read_text(encoding="utf-8"))
    assert all(label.split("_")[0] in text for label, (text,) in told["texts"].items())
    assert all(
        text.startswith("a photo of a" if method == "manual" else told["prompt"]) for (text,) in told["texts"].values()
    )
    code = re.search(r"```python\n(.*?)```", (to / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    monkeypatch.chdir(to)
    names: dict[str, object] = {"print": lambda said: None}
    exec(code.replace('"picture.png"', json.dumps(str(next((place / "test" / "red").iterdir())))), names)
    torch.testing.assert_close(names["weight"], load_file(to / "classes.safetensors")["weight"], rtol=1e-4, atol=1e-4)


def test_what_is_no_words_has_no_texts(place):
    for method in ("prompt", "lora"):
        tune(recipe(place, method), place / f"wordless-{method}")
        told = json.loads((place / f"wordless-{method}" / "adapter" / "classes.json").read_text(encoding="utf-8"))
        assert told["texts"] is None and told["prompt"] is None


def test_words_that_are_not_all_that_was_tuned_have_no_texts(place):
    """Words beside LoRA, and words of each class where nothing better than the first ones was found."""
    beside = {
        "method": {"name": "tandem", "d": 8, "r": 1, "popsize": 4, "layers": "all", "prompt_tokens": 4, "alpha": 1.0},
        "alternate": {"rounds": 1, "round_steps": 3, "final_steps": 3, "snapshots": 1, "proposer": "mutation"},
    }
    each = {"method": {"name": "prompt-tuning", "tunable": "class-prompt", "prompt_tokens": 8, "steps": 2, "lr": 1e-30}}
    for name, made in {"beside": beside, "each": each}.items():
        tune({**images.recipe(place), **made}, place / f"no-texts-{name}")
        told = json.loads((place / f"no-texts-{name}" / "adapter" / "classes.json").read_text(encoding="utf-8"))
        assert told["texts"] is None
        assert "from the classes' texts" not in (place / f"no-texts-{name}" / "adapter" / "README.md").read_text()


def test_broken_images_are_told_before_anything_is_written(place, tmp_path):
    images.recipe(place)
    for name in ("train", "test"):
        shutil.copytree(place / name, tmp_path / name)
    (tmp_path / "test" / "red" / "2-003.png").write_bytes(b"")
    (tmp_path / "test" / "red" / "2-004.png").write_bytes((place / "test" / "red" / "2-004.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"2-003\.png is empty.*2-004\.png is a broken image"):
        tune(recipe(tmp_path, "prompt"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_models_and_rows_that_do_not_belong_together(place, tmp_path):
    with pytest.raises(ConfigError, match="is a folder of images, but the model is a masked language model"):
        tune(images.recipe(place, model__name=str(small.model_folder("bert"))), tmp_path / "run")
    with pytest.raises(ConfigError, match="together: a class of images is the mean"):
        several = {"task__templates": ["a photo of a {mask}.", "a {mask}"], "task__together": "auto"}
        tune({**images.recipe(place, **several), "method": {"name": "readout"}}, tmp_path / "run")
    with pytest.raises(ConfigError, match="learn from texts, but rows are images"):
        tune(images.recipe(place, run__yardsticks=["tf-idf"]), tmp_path / "run")
    with pytest.raises(ConfigError, match="class-prompt is for image-text models"):
        tune(
            small.recipe(tmp_path, method__name="prompt-tuning", method__tunable="class-prompt", **NO_SEARCH),
            tmp_path / "run",
        )
    with pytest.raises(ConfigError, match="is a task of texts, but the model compares images"):
        tune(
            images.recipe(place, task__name="sst2", task__train=None, task__test=None, task__data=str(tmp_path)),
            tmp_path / "run",
        )


def test_a_recipe_without_a_method_takes_the_one_for_every_task(place):
    made = images.recipe(place)
    del made["method"]
    result = tune(made, place / "no-method")
    assert result["method"] == "auto" and result["tuned"]["test"] > result["zero_shot"]["test"]


def test_several_templates_are_averaged_and_known_again(place):
    templates = ["{image} a photo of a {mask}.", {"template": "a small {mask} thing"}]
    made = {**images.recipe(place, task__templates=templates), "method": {"name": "manual"}}
    tune(made, place / "ensemble")
    model = load(place / "ensemble")
    assert len(model.scorer.texts().batch) == 6
    rows = [json.loads(line) for line in (place / "ensemble" / "predictions.jsonl").read_text().splitlines()]
    answers = model.predict([row["fields"]["image"] for row in rows])
    assert [answer.label for answer in answers] == [row["label"] for row in rows]


def test_classes_that_were_left_out_are_scored_at_the_end(place, tmp_path):
    more = {**images.CLASSES, "dark": (20, 20, 20)}
    for name, seed in (("train", 1), ("test", 2)):
        images.write_pictures(tmp_path / name, 10, seed, more)
    result = tune(images.recipe(tmp_path, task__unseen_share=0.5), tmp_path / "run")
    unseen = result["unseen"]
    assert unseen["labels"] == ["green", "red"] and unseen["rows"] == 20
    assert result["rows"] == {"train": 8, "dev": 8, "test": 20}
    base = result["tuned"]["test"]
    assert unseen["harmonic"] == pytest.approx(2 * base * unseen["tuned"] / (base + unseen["tuned"]), abs=1e-5)
    model = load(tmp_path / "run")
    assert model.scorer.task.labels == ("dark", "deep_blue")
    said = small.call("show", tmp_path / "run")
    assert "2 unseen classes, 20 test rows" in " ".join(said.out.split())
    with pytest.raises(DataError, match="leaves 0 of 4 classes out"):
        tune(images.recipe(tmp_path, task__unseen_share=0.2), tmp_path / "none")


def test_classes_that_were_left_out_are_calibrated_as_the_others_are(tmp_path):
    more = {**images.CLASSES, "dark": (20, 20, 20)}
    for name, seed in (("train", 1), ("test", 2)):
        images.write_pictures(tmp_path / name, 10, seed, more)
    searched = {"name": "bbt", "budget": 20, "d": 8, "popsize": 4, "prompt_tokens": 4, "calibrate": True}
    recipe = {**images.recipe(tmp_path, task__unseen_share=0.5), "method": searched}
    result = tune(recipe, tmp_path / "run")
    model = load(tmp_path / "run")
    scorer, names = model.scorer, ["green", "red"]
    pictures = [str(path) for name in names for path in sorted((tmp_path / "test" / name).iterdir())]
    shades = [Image.new("RGB", (16, 16), (shade, shade, shade)) for shade in (0, 127, 255)]
    texts = scorer._made_texts(False, {name: (name,) for name in names})
    rows, empty = (
        scorer.backbone.scale * scorer.store.of(some) @ scorer.engine.classes(texts, model.point).mT
        for some in (pictures, shades)
    )
    gold = torch.arange(2).repeat_interleave(10)
    share = torch.softmax(empty, dim=-1).mean(dim=0)
    plain, divided = ((one.argmax(dim=-1) == gold).float().mean().item() for one in (rows, rows - share.log()))
    assert divided != plain, "or it cannot be told which of the two was scored"
    assert result["unseen"]["tuned"] == pytest.approx(divided)
    assert result["unseen"]["zero_shot"] == pytest.approx(plain_score_of_the_pretrained(scorer, names, pictures, gold))


def plain_score_of_the_pretrained(scorer, names, pictures, gold):
    texts = scorer._made_texts(True, {name: (name,) for name in names})
    said = (scorer.store.of(pictures) @ scorer.engine.classes(texts, {}).mT).argmax(dim=-1)
    return (said == gold).float().mean().item()


def test_the_mentor_is_told_classes_and_confusions(place):
    from tandemtune import autotune
    from tandemtune.config import load_config
    from tandemtune.wiring import brief_of

    problem = autotune.build(load_config(recipe(place, "rounds")).with_absolute_paths())
    brief = brief_of(problem)
    assert "photos of deep_blue, green, red" in brief.definition and "Now taken for another" in brief.definition
    assert brief.usage == "[PROMPT] [ANSWER]." and brief.labels == ("deep_blue", "green", "red")


def test_nothing_is_left_on_the_model(place, run):
    model = load(run)
    scorer = model.scorer
    before = scorer.engine.logits(scorer.batch([], True), {}).shape
    assert before == (0, 3)
    ids = torch.tensor([scorer.plain_prompt(None).ids])
    own = scorer.backbone.whole.get_text_features(input_ids=ids).pooler_output
    model.predict([next((place / "test" / "red").iterdir())])
    assert torch.equal(own, scorer.backbone.whole.get_text_features(input_ids=ids).pooler_output)


def test_pictures_in_memory_are_tuned_on_and_told_apart(place, tmp_path):
    import tandemtune

    own = tune({**images.recipe(place, task__seed=13), **METHODS["readout"]}, tmp_path / "own")
    rows = {
        part: [{"image": Image.open(path), "label": path.parent.name} for path in sorted((place / part).rglob("*.png"))]
        for part in ("train", "test")
    }
    settings = {"shots": 4, "dtype": "float32", "model": str(images.model_folder("clip"))}
    run = tandemtune.tune(train=rows["train"], test=rows["test"], method="readout", out=tmp_path / "run", **settings)
    assert run.result.rows.test == 30 and run.evaluate(rows["test"]).score == run.result.tuned.test
    assert run.result.zero_shot.test == own["zero_shot"]["test"]


def test_rows_tell_that_an_unknown_model_is_one_of_images(place, tmp_path):
    """The configuration of a model on a hub is not here yet when a recipe is checked."""
    from tandemtune import wiring
    from tandemtune.config import load_config

    images.recipe(place)
    table = tmp_path / "rows.csv"
    rows = [f"{path},{path.parent.name}" for path in sorted((place / "train").rglob("*.png"))]
    table.write_text("image,label\n" + "\n".join(rows), encoding="utf-8")
    for train in (place / "train", table):
        made = images.recipe(place, model__name="some/image-text-model", task__train=str(train))
        assert wiring.check(load_config(made)).answers == "images"


@pytest.mark.slow
def test_a_comparison_tells_seen_and_unseen_classes(tmp_path, monkeypatch):
    import tandemtune

    more = {**images.CLASSES, "dark": (20, 20, 20)}
    for name, seed in (("train", 1), ("test", 2)):
        images.write_pictures(tmp_path / name, 10, seed, more)
    made = images.recipe(tmp_path)
    shared = {f"{section}.{key}": value for section in ("model", "task") for key, value in made[section].items()}
    del shared["task.seed"]
    plan = {
        "seeds": [1, 2],
        "all": {**shared, "task.unseen_share": 0.5},
        "methods": {
            "tuned": {f"method.{key}": value for key, value in made["method"].items()},
            "readout": {"method.name": "readout"},
        },
        "tasks": {"colours": {}},
    }
    rows = pd.DataFrame(tandemtune.compare(plan, out=tmp_path / "plan").rows)
    results = {
        name: [
            json.loads(path.read_text())
            for path in sorted((tmp_path / "plan" / "colours" / name).glob("*/result.json"))
        ]
        for name in ("tuned", "readout")
    }
    for name in results:
        assert list(rows[rows.method == name].test) == [result["tuned"]["test"] for result in results[name]]
    told = (tmp_path / "plan" / "table.md").read_text(encoding="utf-8")
    rows = {line.split(" | ")[0]: line for line in told[told.index("## Classes that were left out") :].splitlines()}
    mean = np.mean([result["unseen"]["harmonic"] for result in results["tuned"]])
    assert f"| {mean:.3f} ±" in rows["| tuned"] and "| (zero-shot)" in rows
    words = np.mean([result["tuned_words"]["test"] for result in results["readout"]])
    assert f"| {words:.3f} ±" in rows["| readout"]
    assert "Classes that were left out" in (tmp_path / "plan" / "report.html").read_text(encoding="utf-8")


def test_validate_counts_the_class_texts_once(place, tmp_path):
    images.recipe(place)
    made = recipe(place, "c-lora")
    said = small.call("validate", small.write_recipe(tmp_path / "mine.json", made))
    assert said.code == 0, said.err
    assert "longest prompt" not in said.out and "rows used: 12 train, 12 dev, 30 test" in said.out
    texts = [["a", "photo", "of", "a", *name.split("_"), "."] for name in images.CLASSES]
    once = sum(len(text) + 2 for text in texts)  # with the marks around
    assert f"about {6 * once:,.0f} for the scores" in said.out.replace(",", ""), said.out

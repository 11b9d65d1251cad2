"""The first hour: from a file of labelled texts to a run, by the command line alone."""

from __future__ import annotations

import csv
import json
import tomllib

import pytest

import small
from tandemtune.tasks.sniffing import sniff
from tandemtune.tasks.table import Table


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
    assert found["task"]["template"] == expected and found["task"]["test_share"] == 0.3
    assert found["task"]["labels"] == {"great": "great", "very terrible": "very"}
    assert found["method"]["name"] == "readout"
    checked = small.call("validate", "mails.toml")
    assert checked.code == 0 and checked.out.endswith("mails.toml: fine\n"), checked.err
    refused = init(mails(here), model=model)
    assert refused.code == 2 and "mails.toml exists already" in refused.err


def test_run_takes_a_file_of_rows(here):
    called = small.call("run", mails(here), f"model={small.model_folder()}", "model.threads=1", "--quiet")
    assert called.code == 0, called.err
    result = json.loads((here / "runs" / "mails" / "result.json").read_text(encoding="utf-8"))
    assert result["method"] == "readout" and result["tuned"]["test"] is not None and result["rows"]["test"] == 8
    again = small.call("run", here / "runs" / "mails.toml", "--out", "again", "--quiet", "model.threads=1")
    assert again.code == 0, again.err


@pytest.mark.parametrize(
    ("break_rows", "said"),
    [
        (lambda text: text.replace(",great\n", ",\n", 1), "1 row without a label (line 2)"),
        (lambda text: text.replace(",very terrible\n", ",very terible\n", 1), "one text only of 'very terible'"),
        (lambda text: text.replace("very terrible", "great"), "only the label 'great'"),
    ],
)
def test_init_says_what_is_wrong_with_the_rows(here, break_rows, said):
    path = mails(here)
    path.write_text(break_rows(path.read_text(encoding="utf-8").replace("\r\n", "\n")), encoding="utf-8")
    called = init(path, "--label", "verdict")
    assert called.code == 2 and said in called.err and not (here / "mails.toml").exists(), called.err


def test_columns_can_be_named(here):
    called = init(mails(here), "--label", "stars", "--text", "Mail Text")
    assert called.code == 2 or "column 'stars'" in called.err
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
    assert result["best_step"] == 0 and result["zero_shot"]["dev_loss"] == result["tuned"]["dev_loss"]


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

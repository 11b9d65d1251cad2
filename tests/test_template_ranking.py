"""Templates ranked before a run: all by the same rows, format and readout; and a mentor who fails is found out early."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import pytest

import images
import small
from tandemtune import autotune, load, tune
from tandemtune.answers.labels import LabelAnswers
from tandemtune.config import load_config
from tandemtune.runs.store import RunFolder

sys.path.insert(0, str(Path(__file__).parent / "mentor"))
from loopback import error, say, serving

OTHER = "the film {text} and so it was {mask}"
WORDING = json.dumps([{"template": OTHER, "words": {"negative": "terrible", "positive": "great"}}])


@pytest.fixture
def server():
    with serving() as running:
        yield running


def recipe(place, readout="ridge", **changes):
    made = small.recipe(place, "llama", task__shots=6, **changes)
    return {**made, "method": {"name": "readout", "readout": readout}}


def asking(place, server, *more, **changes):
    """The command that asks a mentor on this machine for one template."""
    path = small.write_recipe(place / "recipe.json", recipe(place, **changes))
    mentor = ("mentor.client=endpoint", "mentor.mentor=tiny", f"mentor.base_url={server.url}", "mentor.retries=0")
    return ("templates", path, "--mentor", "1", "--said", place / "said", *mentor, *more)


def test_a_template_is_judged_alike_whoever_brings_it(tmp_path, server, monkeypatch):
    """By the same rows in the same format, also where there are more rows than templates are judged by."""
    monkeypatch.setattr(LabelAnswers, "most_judged", 12)
    server.answers = [say("yes"), say(WORDING)]
    ask = asking(tmp_path, server, model__dtype="bfloat16")
    by_mentor = small.call(*ask, "--json")
    assert by_mentor.code == 0, by_mentor.err
    listed = small.call("templates", tmp_path / "recipe.json", "--template", OTHER, "--json")
    (one,), (other,) = (
        [found for found in json.loads(called.out) if found["template"] == OTHER] for called in (by_mentor, listed)
    )
    assert one == other and one["loss"] > 0
    assert "12 labelled rows" in small.call(*ask).out


def test_every_template_is_judged_with_every_set_of_label_words(tmp_path):
    path = small.write_recipe(tmp_path / "recipe.json", recipe(tmp_path))
    further = ("--words", "positive=good, negative=bad", "--words", "positive=great, negative=terrible")
    found = json.loads(small.call("templates", path, "--template", OTHER, *further, "--json").out)
    pairs = {(one["template"], one["labels"]["positive"][0]) for one in found}
    assert len(found) == len(pairs) == 4, "two templates with two sets each; words that the recipe has are no third one"
    for wrong, told in (
        ("positive=great", "negative"),
        ("positive", "expected LABEL=WORD"),
        ("a=b,c=d", "no such label"),
    ):
        called = small.call("templates", path, "--words", wrong)
        assert called.code == 2 and told in called.err


@pytest.mark.parametrize(
    ("change", "said"),
    [("mentor.style=complete", "set [mentor] style to chat"), ("mentor.timeout=30", "401")],
    ids=["another style", "a wrong key"],
)
def test_a_mentor_that_will_not_answer_is_found_out_before_anything_is_judged(change, said, tmp_path, server):
    server.answers = [error(401, "Incorrect API key")]
    called = small.call(*asking(tmp_path, server, change))
    assert called.code == 2 and said in called.err
    assert "loading" not in called.err and called.out == "" and not (tmp_path / "said").exists()


def test_a_task_without_label_words_is_refused_before_anything_is_judged(tmp_path, server):
    texts = {"task__labels": None, "task__metric": "exact_match", "task__answer": "label"}
    made = {**recipe(tmp_path, **texts), "method": {"name": "manual"}}
    ask = asking(tmp_path, server)
    small.write_recipe(tmp_path / "recipe.json", made)
    called = small.call(*ask)
    assert called.code == 2 and "this task has none" in called.err and "loading" not in called.err


def test_what_was_judged_is_printed_where_a_mentor_fails_later(tmp_path, server):
    server.answers = [say("yes"), error(500, "out of order")]
    called = small.call(*asking(tmp_path, server), "--json")
    assert called.code == 1 and "out of order" in called.err
    assert [one["template"] for one in json.loads(called.out)] == [small.TEMPLATES["causal"]]


def test_who_has_answered_before_is_not_contacted_again(tmp_path, server):
    server.answers = [say("yes"), say(WORDING), error(401)]
    first = small.call(*asking(tmp_path, server), "--json")
    asked = len(server.seen)
    again = small.call(*asking(tmp_path, server), "--json")
    assert first.code == again.code == 0 and first.out == again.out and len(server.seen) == asked


def test_label_words_that_begin_alike_are_told_and_asked_for_once_more(tmp_path, server):
    alike = json.dumps([{"template": OTHER, "words": {"negative": "great plot", "positive": "great film"}}])
    server.answers = [say("yes"), say(alike), say(WORDING)]
    called = small.call(*asking(tmp_path, server), "--json")
    assert called.code == 0 and "begin with the same piece" in called.err, called.err
    first, second = (each["body"]["messages"][-1]["content"] for each in server.seen[-2:])
    assert "of at most 30 characters" in first and "begin differently" in first and "same piece" not in first
    assert "choose words with different beginnings" in second
    (one,) = [found for found in json.loads(called.out) if found["template"] == OTHER]
    assert one["loss"] is not None and one["labels"]["negative"] == ["terrible"]


def test_the_best_template_is_printed_as_settings_that_a_recipe_may_have(tmp_path, server):
    wording = json.dumps(
        [{"template": 'said "{text}"\nso it was {mask}', "words": {"negative": "bad", "positive": "good"}}]
    )
    server.answers = [say("yes"), say(wording)]
    called = small.call(*asking(tmp_path, server))
    settings = tomllib.loads(called.out[called.out.index("[task]") :])["task"]
    best = json.loads(small.call(*asking(tmp_path, server), "--json").out)[0]
    made = recipe(tmp_path)
    made["task"] |= settings
    (again,) = json.loads(small.call("templates", small.write_recipe(tmp_path / "with.json", made), "--json").out)
    assert again == best


@pytest.mark.parametrize("readout", ["ridge", "kernel", "logistic", "bias"])
def test_templates_are_chosen_by_the_loss_of_the_readout_that_is_solved(readout, tmp_path):
    """With its form and prior, on texts that lose the same part."""
    task = {"task__templates": [OTHER], "task__max_tokens": 12, "task__truncate": "start"}
    made = recipe(tmp_path, {"kind": readout, "prior": [0.9, 0.1]}, **task)
    tune(made, tmp_path / "run")
    facts = RunFolder.open(tmp_path / "run").read_facts()
    solved = json.loads((tmp_path / "run" / "adapter" / "readout" / "readout.json").read_text())
    assert len(facts.templates) == 2
    assert min(one.loss for one in facts.templates) == pytest.approx(solved["loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("prior", "said"),
    [
        ("balanced", "assumes that all labels come up equally often"),
        ([0.9, 0.1], "assumes that labels come up with these shares: negative 0.9, positive 0.1"),
        ("train", "assumes that labels come up as often as in the labelled rows: negative 0.5, positive 0.5"),
    ],
    ids=["balanced", "shares", "train"],
)
def test_an_adapter_says_which_prior_its_readout_assumes(prior, said, tmp_path):
    tune(recipe(tmp_path, {"kind": "bias", "prior": prior}), tmp_path / "run")
    assert said in (tmp_path / "run" / "adapter" / "README.md").read_text(encoding="utf-8")


YES = {"positive": "good", "negative": ["bad", "dull"]}


def listing(place, entry, **changes):
    return recipe(place, task__templates=[small.TEMPLATES["causal"], entry], task__template=None, **changes)


def test_a_listed_template_may_have_label_words_of_its_own(tmp_path):
    """They are judged with it, in whatever order the labels stand, and a run that takes it keeps them."""
    path = small.write_recipe(tmp_path / "recipe.json", listing(tmp_path, {"template": OTHER, "labels": YES}))
    called = small.call("templates", path, "--json")
    assert called.code == 0, called.err
    words = {one["template"]: one["labels"] for one in json.loads(called.out)}
    assert words[OTHER] == {"negative": ["bad", "dull"], "positive": ["good"]}
    assert words[small.TEMPLATES["causal"]] == {"negative": ["terrible"], "positive": ["great"]}
    alone = recipe(tmp_path, task__templates=[{"template": OTHER, "labels": YES}], task__template=None)
    run = tune(alone, tmp_path / "run")
    plain = tune(recipe(tmp_path, task__template=OTHER, task__labels=dict(reversed(YES.items()))), tmp_path / "plain")
    facts = RunFolder.open(tmp_path / "run").read_facts()
    assert facts.labels == {"negative": ("bad", "dull"), "positive": ("good",)}
    assert run.result.zero_shot == plain.result.zero_shot and run.result.tuned == plain.result.tuned
    texts = ["a great film", "the plot was dull and bad"]
    assert load(tmp_path / "run").predict(texts) == plain.predict(texts)


def test_a_table_without_labels_is_its_text(tmp_path):
    found = [
        json.loads(small.call("templates", small.write_recipe(tmp_path / "recipe.json", made), "--json").out)
        for made in (listing(tmp_path, OTHER), listing(tmp_path, {"template": OTHER}))
    ]
    assert found[0] == found[1] and len(found[0]) == 2


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"negative": "bad"}, "label 'positive': no label word"),
        ({**YES, "neutral": "fine"}, "label words for 'neutral': no such label"),
        ({"negative": "bad", "positive": "bad"}, "used for both"),
    ],
    ids=["a label without a word", "another label", "a word twice"],
)
def test_label_words_of_a_listed_template_are_checked_as_the_recipes_own(labels, said, tmp_path):
    made = listing(tmp_path, {"template": OTHER, "labels": labels})
    path = small.write_recipe(tmp_path / "recipe.json", made)
    for command in ("validate", "templates"):
        called = small.call(command, path)
        assert called.code == 2 and said in called.err and OTHER in called.err, called.err


def test_listed_templates_of_texts_and_images_have_no_label_words(tmp_path):
    entry = {"template": OTHER, "labels": YES}
    texts = {"task__labels": None, "task__metric": "exact_match", "task__answer": "label", "task__templates": [entry]}
    path = small.write_recipe(tmp_path / "recipe.json", {**recipe(tmp_path, **texts), "method": {"name": "manual"}})
    called = small.call("validate", path)
    assert called.code == 2 and "answered with texts: leave them out" in called.err
    place = tmp_path / "pictures"
    place.mkdir()
    several = [{"template": "a photo of a {mask}."}, {"template": "a {mask}", "labels": {"red": "red", "blue": "blue"}}]
    made = images.recipe(place, task__templates=several)
    called = small.call("validate", small.write_recipe(place / "recipe.json", {**made, "method": {"name": "manual"}}))
    assert called.code == 2 and "leave their labels out" in called.err


def test_no_template_may_show_the_answer(tmp_path):
    """Neither a listed one nor one of the command line, of texts as of labels: it would rank first."""
    leaks = "{text} {label} {mask}"
    texts = {"task__labels": None, "task__metric": "exact_match", "task__answer": "label"}
    manual = {"method": {"name": "manual"}}
    for name, made in (("words", recipe(tmp_path)), ("texts", {**recipe(tmp_path, **texts), **manual})):
        plain = small.write_recipe(tmp_path / f"{name}.json", made)
        made["task"]["templates"] = [leaks]
        listed = small.write_recipe(tmp_path / f"{name}-listed.json", made)
        for ask in (("validate", listed), ("templates", listed), ("templates", plain, "--template", leaks)):
            called = small.call(*ask)
            assert called.code == 2 and "the prompt would hold the answer" in called.err, called.err
            assert "loading" not in called.err


def test_templates_over_further_columns_are_judged_and_a_missing_one_is_found_without_a_model(tmp_path):
    made = recipe(tmp_path, task__templates=["{text} {other} was {mask}"])
    small.write_recipe(tmp_path / "recipe.json", made)
    called = small.call("validate", tmp_path / "recipe.json")
    assert called.code == 2 and "other" in called.err
    for number, name in enumerate(("train", "test"), 1):
        rows = small.rows(30, number)
        words = {"positive": "great", "negative": "dull"}
        small.write_rows(tmp_path / f"{name}.jsonl", [{**row, "other": words[row["label"]]} for row in rows])
    tune(made, tmp_path / "run")
    judged = RunFolder.open(tmp_path / "run").read_facts().templates
    assert len(judged) == 2 and all(one.loss is not None for one in judged)
    best = min(judged, key=lambda one: one.loss)
    wanted = ("text", "other") if "other" in best.template else ("text",)
    assert load(tmp_path / "run").fields == wanted


def test_a_template_that_is_passed_over_and_too_few_for_together_are_told(tmp_path):
    made = recipe(tmp_path, task__templates=["{mask} : {text}"], task__together=2)
    small.write_recipe(tmp_path / "recipe.json", made)
    called = small.call("run", tmp_path / "recipe.json", "--out", tmp_path / "run")
    assert called.code == 0 and "template 2 is passed over" in called.err + called.out
    notes = json.loads((tmp_path / "run" / "result.json").read_text())["notes"]
    assert any(note.startswith("template '{mask} : {text}' was passed over") for note in notes)
    assert any(note.startswith("together = 2, but 1 of 2 templates") for note in notes)


@pytest.mark.parametrize(
    ("templates", "told"),
    [
        (["{mask} : {text}", "{text} {mask}"], "together = auto, but 2 of 3 templates can be read together"),
        (["{mask} : {text}"], "together = auto, but 1 of 2 templates can be read together"),
        (["{text} {mask}"], ""),
        ("auto", "together = auto, but there is one template to choose from"),
    ],
    ids=["two of three", "one of two", "two of two", "one"],
)
def test_too_few_templates_to_decide_among_are_told(templates, told, tmp_path):
    made = recipe(tmp_path, task__templates=templates, task__together="auto")
    notes = [note for note in tune(made, tmp_path / "run").result.notes if note.startswith("together = ")]
    assert [note[: len(told)] for note in notes] == ([told] if told else [])


def test_known_templates_are_refused_for_a_masked_model(tmp_path):
    made = small.recipe(tmp_path, "bert", task__name="sst2", task__templates="known")
    small.write_recipe(tmp_path / "recipe.json", {**made, "method": {"name": "readout"}})
    called = small.call("validate", tmp_path / "recipe.json")
    assert called.code == 2 and "not for masked ones" in called.err


def test_a_users_label_words_are_judged_with_every_known_template(tmp_path):
    made = small.recipe(tmp_path, "llama", task__name="sst2", task__template=None, task__templates="auto")
    small.write_recipe(tmp_path / "recipe.json", {**made, "method": {"name": "readout"}})
    found = json.loads(small.call("templates", tmp_path / "recipe.json", "--json").out)
    own = {one["template"] for one in found if tuple(one["labels"]["positive"]) == (small.LABELS["positive"],)}
    assert own == {one["template"] for one in found} and len(found) > len(own) > 3


def test_what_prompts_share_is_counted_once(tmp_path):
    """Of templates, of the readout, and of a look at dev rows by one."""
    shared = "the plot was great and a film the plot was great and a film the plot was great and a film"
    made = recipe(tmp_path, task__template=f"{shared} {{text}} it was {{mask}}", task__templates=["{text} {mask}"])
    result = tune(made, tmp_path / "run").result
    facts = RunFolder.open(tmp_path / "run").read_facts()
    costs = {one.template: one.tokens for one in facts.templates}
    rows = facts.train_rows + facts.dev_rows
    whole = costs["{text} {mask}"] + rows * (len(shared.split()) + 2)
    assert costs[made["task"]["template"]] < whole / 2
    assert result.cost.forward_tokens < sum(costs.values()) + whole


@pytest.mark.parametrize("scored", [None, 4])
def test_a_look_by_a_readout_costs_all_labelled_rows(scored, tmp_path):
    own = {"name": "c-lora", "budget": 40, "d": 8, "popsize": 4, "dev_every": 1, "readout": "ridge", "judge": "readout"}
    made = {**recipe(tmp_path, task__scored_rows=scored), "method": own}
    tune(made, tmp_path / "run")
    problem = autotune.build(load_config(made))
    labelled = problem.scorer.batch([*problem.split.train, *problem.split.dev])
    assert problem.evaluator.cost_to_measure("dev").forward == round(problem.scorer.engine.work(labelled))


def test_rows_that_are_cut_in_any_of_several_templates_are_told(tmp_path):
    long = "it was great and a film and the plot was so great {text} it was {mask}"
    made = recipe(tmp_path, task__templates=[long], task__together=2, task__max_tokens=18)
    notes = tune(made, tmp_path / "run").result.notes
    assert any("longer than 18 tokens and cut" in note for note in notes)


def test_templates_that_take_all_the_time_are_told(tmp_path):
    made = small.recipe(tmp_path, "llama", task__templates=["{text} {mask}"], run__max_seconds=1e-3)
    result = tune(made, tmp_path / "run").result
    assert result.steps == 0 and any(
        "choosing among 2 templates took the 0.001 seconds" in note for note in result.notes
    )


def test_a_rare_label_is_among_the_rows_that_templates_are_judged_by(tmp_path, monkeypatch):
    monkeypatch.setattr(LabelAnswers, "most_judged", 12)
    made = recipe(tmp_path, task__dev_shots=2, task__short_classes="share")
    made["task"]["shots"] = "all"
    rows = small.rows(60, 7)
    few = [row for row in rows if row["label"] == "negative"] + [row for row in rows if row["label"] == "positive"][:2]
    made["task"]["train"] = str(small.write_rows(tmp_path / "rare.jsonl", few))
    found = small.call("templates", small.write_recipe(tmp_path / "recipe.json", made), "--json")
    assert found.code == 0 and all(one["loss"] > 0 for one in json.loads(found.out)), found.err


def test_validate_passes_over_a_template_as_a_run_does(tmp_path):
    made = recipe(tmp_path)
    made["task"].pop("template", None)
    made["task"]["labels"] = {"negative": "unheard", "positive": "unseen"}
    usable = {"template": OTHER, "labels": {"negative": "terrible", "positive": "great"}}
    made["task"]["templates"] = ["{text} it was {mask} .", usable]
    path = small.write_recipe(tmp_path / "recipe.json", made)
    checked = small.call("validate", path)
    assert checked.code == 0 and "passed over" in checked.err, checked.err + checked.out
    assert tune(made, tmp_path / "run", progress="none").result is not None
    made["task"]["templates"] = ["{text} it was {mask} .", "so {text} {mask}"]
    assert small.call("validate", small.write_recipe(path, made)).code == 2

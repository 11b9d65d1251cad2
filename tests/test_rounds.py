"""Runs that follow gradients and take turns with proposals: every step is the one that it says it is."""

from __future__ import annotations

import functools
import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

import small
import tiny
from small import tune
from tandemtune import autotune, load, wiring
from tandemtune.callbacks import Callback
from tandemtune.config import load_config
from tandemtune.errors import ConfigError, ModelError, TandemTuneError
from tandemtune.evaluators.label_words import LabelWordEvaluator
from tandemtune.search.schedule import Stage, alternating
from tandemtune.tunables.base import INPUT
from tandemtune.types import seed_for

TOKENS, ROUNDS, STEPS, LAST = 3, 2, 3, 4
TOTAL = ROUNDS * STEPS + LAST
LR = 0.25  # large enough that the nearest words change on the way
PROPOSERS = ("mutation", "random", "perturbed")


def rounds(place, model="bert", **changes):
    settings = {
        "method__name": "maao",
        "method__prompt_tokens": TOKENS,
        "method__batch_size": 3,
        "method__dev_every": 4,
        "alternate__rounds": ROUNDS,
        "alternate__round_steps": STEPS,
        "alternate__final_steps": LAST,
        "alternate__snapshots": 2,
        "alternate__proposals": 2,
        "alternate__proposer": "random",
        "alternate__accept": "always",
    }
    return small.recipe(place, model, **{**settings, **changes})


def ran(place, model="bert", **changes):
    """Recipe, folder, result and journal of a run."""
    recipe = rounds(place, model, **changes)
    result = tune(recipe, place / "run")
    return recipe, place / "run", result, small.journal(place / "run")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One finished run for each proposer, and for none."""
    return functools.cache(lambda name: ran(tmp_path_factory.mktemp(name), alternate__proposer=name, method__lr=LR))


@pytest.fixture(params=PROPOSERS, ids=str)
def each(request, done):
    return done(request.param)


def problem_of(recipe):
    return autotune.build(load_config(recipe).with_absolute_paths())


def events(lines):
    return [line["event"] for line in lines]


def of(lines, event):
    return [line for line in lines if line["event"] == event]


def known_before(line, lines):
    """Everything that was scored as words before a line, each once, best first."""
    known = {}
    for entry in lines[: lines.index(line)]:
        found = [entry["words"]] if entry.get("words") else entry.get("drafts", ())
        known |= {tuple(e["ids"]): (e["text"], e["loss"], e["score"]) for e in found if e["ids"] is not None}
    return sorted(known.values(), key=lambda e: e[1])


# the order of things


def test_rounds_in_their_order(each):
    recipe, _, result, lines = each
    assert events(lines) == ["start", *[*["step"] * STEPS, "proposal"] * ROUNDS, *["step"] * LAST, "end"]
    steps, proposals = of(lines, "step"), of(lines, "proposal")
    assert lines[0]["words"] is not None
    assert [line["step"] for line in steps] == list(range(1, TOTAL + 1))
    assert [line["costs"]["gradient_steps"] for line in steps] == list(range(1, TOTAL + 1))
    assert [line["round"] for line in proposals] == list(range(1, ROUNDS + 1))
    marks = {1, 2}  # of the three steps of a round, the second and the third
    for index, line in enumerate(steps):
        words = index < ROUNDS * STEPS and index % STEPS in marks
        assert (line["words"] is not None) == words
        assert line["phase"] == "maao" and line["lr"] > 0 and line["gradient_norm"] > 0
        last_of_stage = index + 1 in (STEPS, 2 * STEPS, TOTAL)
        assert (line["dev"] is not None) == ((index + 1) % 4 == 0 or last_of_stage)
    for line in proposals:
        assert line["proposer"] == recipe["alternate"]["proposer"]
        assert (line["failure"], line["refused"], line["spent"]) == (None, [], {})
        assert len(line["drafts"]) == 2 and all(draft["dev"] for draft in line["drafts"])
        assert line["taken"] in (0, 1) and line["dev"] == line["drafts"][line["taken"]]["dev"]
        best = known_before(line, lines)[:2]
        shown = [(entry["text"], entry["loss"], entry["score"]) for entry in line["shown"]]
        assert shown == best[::-1] and len(shown) >= 1, "worst first"
    assert (result["method"], result["stop_reason"], result["steps"]) == ("maao", "steps", TOTAL)


@pytest.mark.parametrize("proposer", [*PROPOSERS, "none"])
def test_all_proposers_cost_the_same_steps(done, proposer):
    """The controls are fair: as many gradients, of the same rows in the same order."""
    _, _, result, lines = done(proposer)
    steps = of(lines, "step")
    assert result["cost"]["gradient_steps"] == len(steps) == TOTAL
    assert result["cost"]["candidates"] == (0 if proposer == "none" else ROUNDS * 2)
    backward = [b["costs"]["backward"] - a["costs"]["backward"] for a, b in pairwise(steps)]
    reference = of(done("none")[3], "step")
    assert backward == [b["costs"]["backward"] - a["costs"]["backward"] for a, b in pairwise(reference)]
    assert steps[:STEPS][0]["loss"] == reference[0]["loss"], "from the same first point"
    if proposer == "none":
        assert events(lines) == ["start", *["step"] * TOTAL, "end"] and result["stop_reason"] == "steps"


def test_the_same_seed_gives_the_same_bytes(done, tmp_path):
    recipe, folder, _, _ = done("mutation")
    tune(recipe, tmp_path / "again")
    assert small.artefacts(tmp_path / "again") == small.artefacts(folder)
    other = tune({**recipe, "task": {**recipe["task"], "seed": 6}}, tmp_path / "other")
    assert other["cost"]["gradient_steps"] == TOTAL
    assert small.artefacts(tmp_path / "other")["journal.jsonl"] != small.artefacts(folder)["journal.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((2, 3, 4, 2), "t3[2,3] p t3[2,3] p t4[]"),
        ((1, 10, 30, 5), "t10[2,4,6,8,10] p t30[]"),
        ((1, 2, 0, 5), "t2[1,2] p"),
        ((2, 0, 5, 3), "p p t5[]"),
        ((1, 0, 0, 3), "p"),
        ((3, 1, 1, 1), "t1[1] p t1[1] p t1[1] p t1[]"),
        ((1, 7, 2, 1), "t7[7] p t2[]"),
    ],
)
def test_stages(arguments, expected):
    def shown(stage):
        return "p" if stage.kind == "propose" else f"t{stage.steps}[{','.join(map(str, sorted(stage.snapshots)))}]"

    stages = alternating(*arguments)
    assert " ".join(shown(stage) for stage in stages) == expected
    assert [stage.round for stage in stages if stage.kind == "propose"] == list(range(1, arguments[0] + 1))
    assert all(isinstance(stage, Stage) and stage.round >= 1 for stage in stages)


# what the lines say, computed again


class Replay:
    """A run of gradients and proposals once more, with a plain torch optimizer, from what its journal says was taken."""

    def __init__(self, recipe, lines, fresh=True, make=lambda one, lr: torch.optim.AdamW(one, lr=lr, weight_decay=0.0)):
        self.problem, self.lines, self.fresh, self.make = problem_of(recipe), lines, fresh, make
        self.known = self.problem.scorer.vocabulary
        self.parameter = torch.nn.Parameter(self.problem.scorer.parameters.initial()[INPUT])
        self.begin()
        self.taken = 0

    def begin(self):
        self.optimizer = self.make([self.parameter], 0.0)

    @property
    def point(self):
        return {INPUT: self.parameter.detach().clone()}

    def measured(self, point, batch=None):
        evaluator = self.problem.evaluator
        return evaluator.measure_on(batch or evaluator.reading, point)

    def drafted(self, draft):
        if draft["ids"] is not None:
            return self.known.vectors(draft["ids"]).reshape(-1)
        noise = np.random.default_rng(draft["seed"]).standard_normal(TOKENS * 32, dtype=np.float32)
        spread = float(self.known.vectors(self.known.ids.tolist()).std())
        return self.parameter.detach() + 0.5 * spread * torch.from_numpy(noise)

    def step(self, line, exact):
        found = self.problem.evaluator.gradient(self.point, [INPUT], self.taken)
        assert line["loss"] == (found.loss if exact else pytest.approx(found.loss, abs=2e-5))
        gradient = found.blocks[INPUT]
        norm = float(gradient.norm())
        assert line["gradient_norm"] == pytest.approx(norm, rel=1e-3)
        self.parameter.grad = gradient * min(1.0, 1.0 / norm)
        for group in self.optimizer.param_groups:
            group["lr"] = line["lr"]
        self.optimizer.step()
        self.taken += 1
        if line["dev"]:
            self.look(line["dev"])
        if line["words"]:
            self.words(line["words"])

    def look(self, dev, point=None):
        found = self.measured(point or self.point, self.problem.evaluator.dev)
        assert dev["loss"] == pytest.approx(found.loss, abs=2e-5) and 0 <= dev["score"] <= 1

    def words(self, said):
        """The nearest allowed words by cosine, scored exactly as these ids."""
        vectors = self.parameter.detach().view(TOKENS, -1)
        table = self.known.vectors(self.known.ids.tolist())
        near = torch.nn.functional.cosine_similarity(vectors.unsqueeze(1), table.unsqueeze(0), dim=-1)
        assert said["ids"] == self.known.ids[near.argmax(dim=1)].tolist()
        assert said["text"] == self.problem.scorer.backbone.tokenizer.decode(said["ids"])
        assert said["distance"] == pytest.approx(float((1 - near.amax(dim=1)).mean()), abs=1e-4)
        assert said["soft_loss"] == pytest.approx(self.measured(self.point).loss, abs=2e-5)
        assert said["loss"] == pytest.approx(self.measured({INPUT: self.drafted(said)}).loss, abs=2e-5)

    def proposal(self, line):
        self.look(line["trained_dev"])
        for draft in line["drafts"]:
            point = {INPUT: self.drafted(draft)}
            found = self.measured(point)
            assert draft["loss"] == pytest.approx(found.loss, abs=2e-5)
            assert draft["score"] == pytest.approx(found.score)
            self.look(draft["dev"], point)
        if line["taken"] is not None:
            self.parameter.data = self.drafted(line["drafts"][line["taken"]])
        if self.fresh:
            self.begin()

    def run(self):
        exact = True  # a point that is words, or the first, is known to the bit
        self.words(self.lines[0]["words"])
        assert self.lines[0]["train_loss"] == pytest.approx(self.measured(self.point).loss, abs=2e-5)
        for line in self.lines[1:-1]:
            if line["event"] == "step":
                self.step(line, exact)
                exact = False
            else:
                self.proposal(line)
                exact = line["taken"] is not None and line["drafts"][line["taken"]]["ids"] is not None
        assert self.taken == TOTAL


def test_every_number_comes_out_again(each):
    """After a draft that was taken, the next gradient is that of exactly its embeddings; moments begin anew."""
    recipe, _, _, lines = each
    assert all(line["lr"] == LR for line in of(lines, "step"))
    assert len({line["words"]["text"] for line in lines if line.get("words")}) > 1
    Replay(recipe, lines).run()


def test_what_was_never_tried_is_proposed(done):
    """By word substitution; what was tried are the words of the start, of the snapshots and of earlier drafts."""
    _, _, _, lines = done("mutation")
    seen = [tuple(line["words"]["ids"]) for line in lines if line.get("words")]
    for line in of(lines, "proposal"):
        before = {tuple(entry["words"]["ids"]) for entry in lines[: lines.index(line)] if entry.get("words")}
        drafts = [tuple(draft["ids"]) for draft in line["drafts"]]
        assert len(set(drafts)) == 2 and not before & set(drafts)
        parents = {tuple(tiny.tokenizer("masked").convert_tokens_to_ids(e["text"].split())) for e in line["shown"]}
        assert all(any(sum(a != b for a, b in zip(d, p, strict=True)) <= 1 for p in parents) for d in drafts)
    assert len(seen) == 1 + 2 * ROUNDS


def test_without_new_moments_the_optimizer_goes_on(tmp_path, done):
    recipe, _, _, lines = ran(tmp_path, alternate__reset_moments=False, method__lr=LR)
    Replay(recipe, lines, fresh=False).run()
    fresh = of(done("random")[3], "step")
    kept = of(lines, "step")
    assert [line["loss"] for line in kept[: STEPS + 1]] == [line["loss"] for line in fresh[: STEPS + 1]]
    assert kept[STEPS + 1]["loss"] != fresh[STEPS + 1]["loss"], "the first step behind a restart is another one"
    with pytest.raises(AssertionError):
        Replay(recipe, lines, fresh=True).run()


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_other_optimizers(tmp_path, optimizer):
    made = {
        "adam": lambda one, lr: torch.optim.Adam(one, lr=lr),
        "sgd": lambda one, lr: torch.optim.SGD(one, lr=lr, momentum=0.9),
    }[optimizer]
    recipe, _, _, lines = ran(tmp_path, method__optimizer=optimizer)
    replay = Replay(recipe, lines, make=made)
    replay.run()
    table = replay.known.vectors(replay.known.ids.tolist())
    assert all(line["lr"] == pytest.approx(0.1 * float(table.std()), rel=1e-5) for line in of(lines, "step"))


def rates(lines):
    return [line["lr"] for line in of(lines, "step")]


def test_a_schedule_begins_anew_in_each_round(tmp_path):
    _, _, _, lines = ran(tmp_path, method__schedule="linear", method__lr=0.5)
    one = [0.5 * (1 - step / STEPS) for step in range(STEPS)]
    assert rates(lines) == pytest.approx([*one, *one, *(0.5 * (1 - step / LAST) for step in range(LAST))])


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_schedule_that_goes_on_spans_all_rounds(tmp_path, schedule):
    _, _, _, lines = ran(tmp_path, method__schedule=schedule, method__lr=0.5, alternate__reset_moments=False)
    shares = [step / TOTAL for step in range(TOTAL)]
    falling = [1 - x if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * x)) for x in shares]
    assert rates(lines) == pytest.approx([0.5 * factor for factor in falling])


def test_the_ledger_by_hand(done):
    """Tokens times layers: one for each word, [CLS] . it was [MASK] . [SEP] around them, and the prompt."""
    recipe, folder, result, lines = done("mutation")
    split = wiring.make_task(load_config(recipe).task, "masked").split(4, 5)
    train, dev = ([len(e.fields["text"].split()) + 7 + TOKENS for e in rows] for rows in (split.train, split.dev))
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert (facts["train_tokens"], facts["dev_tokens"]) == (sum(train), sum(dev))
    forward = backward = candidates = taken = 0
    tried = [lines[0]["words"]["ids"]]
    for line in lines[1:-1]:
        if line["event"] == "step":
            epoch, place = divmod(taken, len(train) // 3)
            order = np.random.default_rng([5, epoch, 5]).permutation(len(train))
            rows = [train[i] for i in order[3 * place : 3 * place + 3]]
            forward += sum(rows) + (sum(dev) if line["dev"] else 0)
            backward += sum(rows)
            taken += 1
            if line["words"]:
                forward += sum(train) * (1 if line["words"]["ids"] in tried else 2)
                tried.append(line["words"]["ids"])
            assert line["costs"]["backward"] == 4 * backward
        else:
            candidates += len(line["drafts"])
            forward += len(line["drafts"]) * sum(train) + len(line["drafts"]) * sum(dev)
            tried += [draft["ids"] for draft in line["drafts"]]
        assert (line["costs"]["candidates"], line["costs"]["forward"]) == (candidates, 4 * forward)
    cost = result["cost"]
    assert (cost["candidates"], cost["gradient_steps"]) == (candidates, taken) == (2 * ROUNDS, TOTAL)
    assert (cost["forward_tokens"], cost["backward_tokens"]) == (forward, backward)


@pytest.mark.parametrize("proposer", ["mutation", "none"])
def test_the_ledger_counts_what_was_run(tmp_path, monkeypatch, proposer):
    """Nothing is measured between the start and the end that is not counted, and nothing twice."""
    seen = {"forward": 0, "backward": 0, "on": False}
    measure, gradient = LabelWordEvaluator.measure_on, LabelWordEvaluator.gradient_on

    def measured(self, batch, point):
        seen["forward"] += batch.tokens * seen["on"]
        return measure(self, batch, point)

    def followed(self, batch, point, blocks):
        seen["forward"] += batch.tokens * seen["on"]
        seen["backward"] += batch.tokens * seen["on"]
        return gradient(self, batch, point, blocks)

    class Between(Callback):
        def on_start(self, *rest):
            seen["on"] = True

        def on_testing(self):
            seen["on"] = False

    monkeypatch.setattr(LabelWordEvaluator, "measure_on", measured)
    monkeypatch.setattr(LabelWordEvaluator, "gradient_on", followed)
    result = tune(rounds(tmp_path, alternate__proposer=proposer), tmp_path / "run", Between())
    cost = result["cost"]
    assert (cost["forward_tokens"], cost["backward_tokens"]) == (seen["forward"], seen["backward"])


# what is taken, what is kept


def chosen(line, section, seed):
    """The rule of `select` and `accept`, a second time."""
    losses = [draft["dev"]["loss"] for draft in line["drafts"]]
    pick = 0 if section["select"] == "first" else losses.index(min(losses))
    worse = losses[pick] - line["trained_dev"]["loss"]
    if section["accept"] == "always" or worse < 0:
        return pick
    if section["accept"] == "metropolis":
        draw = np.random.default_rng(seed_for(seed, line["round"], 4)).random()
        return pick if draw < math.exp(-worse / section["heat"]) else None
    return None


@pytest.mark.grid("accept", "heat")
@pytest.mark.parametrize("select", ["best", "first"])
@pytest.mark.parametrize(
    ("accept", "heat"), [("always", 0.1), ("if_better", 0.1), ("metropolis", 0.1), ("metropolis", 1e-9)]
)
def test_which_draft_is_taken(tmp_path, select, accept, heat):
    changes = {"alternate__select": select, "alternate__accept": accept, "alternate__heat": heat}
    rest = {"method__lr": 0.05, "alternate__rounds": 4, "alternate__round_steps": 2, "alternate__final_steps": 1}
    recipe, _, result, lines = ran(tmp_path, **changes, **rest)
    taken = [line["taken"] for line in of(lines, "proposal")]
    assert taken == [chosen(line, recipe["alternate"], 5) for line in of(lines, "proposal")]
    assert len(taken) == 4 and result["cost"]["gradient_steps"] == 9
    for line in of(lines, "proposal"):
        assert line["dev"] == (None if line["taken"] is None else line["drafts"][line["taken"]]["dev"])
    if accept == "always":
        assert None not in taken and (select == "best" or set(taken) == {0})
    if heat == 1e-9:
        assert None in taken
    problem = problem_of(recipe)
    for line, step in pairwise(lines):
        if line["event"] == "proposal" and line["taken"] is not None:
            vector = problem.scorer.vocabulary.vectors(line["drafts"][line["taken"]]["ids"]).reshape(-1)
            assert step["loss"] == problem.evaluator.gradient({INPUT: vector}, [INPUT], step["step"] - 1).loss


def test_a_refused_draft_leaves_the_trained_prompt_alone(tmp_path):
    recipe, _, _, lines = ran(tmp_path, alternate__accept="if_better", method__lr=0.05, alternate__proposals=1)
    assert None in [line["taken"] for line in of(lines, "proposal")]
    Replay(recipe, lines).run()


def test_the_best_on_dev_is_kept(each):
    """Over everything that was looked at, the trained prompts among them, whatever replaced them."""
    recipe, folder, result, lines = each
    looks = [line["dev"]["loss"] for line in lines if line["dev"]]
    trained = [line["trained_dev"]["loss"] for line in of(lines, "proposal")]
    assert result["tuned"]["dev_loss"] == pytest.approx(min(looks), abs=1e-6)
    assert min(looks) <= min(trained)
    kept = lines[result["kept_record"]]
    assert kept["dev"]["loss"] == min(looks)
    assert result["kept_step"] == max((line.get("step", 0) for line in lines[: result["kept_record"] + 1]), default=0)
    problem = problem_of(recipe)  # the kept point itself, not only its number
    assert problem.evaluator.measure(load(folder).point, "dev").loss == pytest.approx(min(looks), abs=1e-6)


def test_a_good_trained_prompt_survives_bad_drafts(tmp_path):
    """Words that are always taken and always worse do not cost what was trained before them."""
    _, _, result, lines = ran(tmp_path, method__lr=0.05, alternate__round_steps=8, alternate__final_steps=0)
    proposals = of(lines, "proposal")
    worse = [line["dev"]["loss"] > line["trained_dev"]["loss"] for line in proposals]
    assert any(worse)
    trained = min(line["trained_dev"]["loss"] for line in proposals)
    assert result["tuned"]["dev_loss"] <= trained + 1e-6


def test_patience_counts_each_look_once(tmp_path):
    """A refused draft leaves the trained prompt where it was; that it was looked at before is no second chance missed."""
    changes = {"alternate__accept": "if_better", "method__lr": 0.05, "method__patience": 1, "alternate__rounds": 4}
    _, _, result, lines = ran(tmp_path, **changes)
    refused = [line for line in of(lines, "proposal") if line["taken"] is None]
    assert refused
    assert result["stop_reason"] == "steps" or lines[-2] not in refused


def test_the_last_look_is_not_taken_twice(each):
    _, _, _, lines = each
    assert lines[-2]["step"] == TOTAL and lines[-2]["dev"], "a stage ends with a look"
    assert lines[-1]["dev"] is None


# other doers, and none


@pytest.mark.parametrize("reset", [True, False])
def test_cma_es_as_the_doer(tmp_path, reset):
    """Generations in place of gradients; the first one after a draft is measured around it."""
    changes = {"method__optimizer": "cma-es", "method__alpha": 1.0, "alternate__reset_moments": reset}
    _, _, result, lines = ran(tmp_path, **changes)
    assert events(lines) == ["start", *[*["generation"] * STEPS, "proposal"] * ROUNDS, *["generation"] * LAST, "end"]
    generations = of(lines, "generation")
    assert [line["step"] for line in generations] == list(range(1, TOTAL + 1))
    assert all(line["layer"] == INPUT and len(line["losses"]) == 4 for line in generations)
    assert result["cost"]["candidates"] == TOTAL * 5 + ROUNDS * 2 and result["cost"]["gradient_steps"] == 0
    assert result["cost"]["backward_tokens"] == 0 and result["stop_reason"] == "steps"
    for before, after in pairwise(lines):
        if before["event"] == "proposal":
            assert after["incumbent"] == pytest.approx(before["drafts"][before["taken"]]["loss"], abs=1e-5)
        if before["event"] == after["event"] == "generation":
            expected = before["best"] if before["accepted"] else before["incumbent"]
            assert after["incumbent"] == pytest.approx(expected, abs=1e-5)
    for line in of(lines, "proposal"):
        last = lines[lines.index(line) - 1]
        assert line["trained_loss"] == (last["best"] if last["accepted"] else last["incumbent"])


@pytest.mark.parametrize("last", [LAST, 0])
@pytest.mark.parametrize("proposer", ["mutation", "random"])
def test_proposals_alone(tmp_path, proposer, last):
    """The control without a doer: nobody trains between rounds."""
    changes = {"alternate__round_steps": 0, "alternate__final_steps": last, "alternate__accept": "if_better"}
    _, _, result, lines = ran(tmp_path, alternate__proposer=proposer, **changes)
    assert events(lines) == ["start", *["proposal"] * ROUNDS, *["step"] * last, "end"]
    assert result["cost"]["gradient_steps"] == last and result["stop_reason"] == "steps"
    first, second = of(lines, "proposal")
    assert first["trained_dev"] == lines[0]["dev"] and second["trained_dev"] == first["dev"]
    assert first["dev"]["loss"] <= lines[0]["dev"]["loss"]
    looks = [line["dev"]["loss"] for line in lines if line["dev"]]
    assert result["tuned"]["dev_loss"] == pytest.approx(min(looks), abs=1e-6)
    assert lines[result["kept_record"]]["dev"]["loss"] == min(looks)


@pytest.mark.parametrize(
    ("model", "proposer"),
    [("gpt2", "mutation"), ("gemma2", "mutation"), ("deberta-v2", "mutation"), ("t5", "random"), ("bart", "perturbed")],
)
def test_other_models(tmp_path, model, proposer):
    _, folder, result, lines = ran(tmp_path, model, alternate__proposer=proposer)
    assert result["cost"]["gradient_steps"] == TOTAL and len(of(lines, "proposal")) == ROUNDS
    assert all(math.isfinite(line["loss"]) for line in of(lines, "step"))
    assert load(folder).predict(["a good film"])[0].label in small.LABELS


def test_an_encoder_decoder_substitutes_words_at_its_mask(tmp_path):
    place = tmp_path / "model"
    tiny.model("bart").save_pretrained(place)
    tokenizer = tiny.tokenizer("causal")
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    tokenizer.save_pretrained(place)
    _, _, result, lines = ran(tmp_path, "bart", model__name=str(place), alternate__proposer="mutation")
    assert result["cost"]["gradient_steps"] == TOTAL
    assert all(len(line["drafts"]) == 2 for line in of(lines, "proposal"))


def test_an_encoder_decoder_without_a_mask_cannot_substitute(tmp_path):
    """Its tokenizer has no sentinel either, so there is no telling how likely a word is inside a text."""
    with pytest.raises(TandemTuneError, match="mask"):
        tune(rounds(tmp_path, "t5", alternate__proposer="mutation"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("last", [LAST, 0])
def test_a_look_and_a_reading_more_or_less_do_not_change_the_way(tmp_path, done, last):
    """Neither how often dev is looked at nor how many snapshots are read moves the trained prompt."""
    reference = of(done("random")[3], "step")
    changes = {"method__dev_every": 100, "alternate__snapshots": 1, "alternate__final_steps": last, "method__lr": LR}
    _, _, _, lines = ran(tmp_path, **changes)
    assert [line["loss"] for line in of(lines, "step")] == [line["loss"] for line in reference[: ROUNDS * STEPS + last]]


@pytest.mark.parametrize(
    ("name", "changes", "turns", "event"),
    [
        ("prompt-tuning", {"method__steps": 5}, 5, "step"),
        ("p-tuning-v2", {"method__steps": 5}, 5, "step"),
        ("lora", {"method__steps": 5}, 5, "step"),
        ("bbt", {"method__budget": 25}, 5, "generation"),
        ("bbtv2", {"method__budget": 25}, 5, "generation"),
        ("bbt", {"method__steps": 3, "method__budget": 25}, 3, "generation"),
        ("c-lora", {"method__optimizer": "sgd", "method__steps": 2}, 2, "step"),
    ],
)
def test_methods_without_rounds(tmp_path, name, changes, turns, event):
    recipe, _, result, lines = ran(tmp_path, method__name=name, alternate__rounds=0, **changes)
    assert events(lines) == ["start", *[event] * turns, "end"] and lines[0]["words"] is None
    assert result["steps"] == turns and result["stop_reason"] == (
        "budget" if event == "generation" and turns == 5 else "steps"
    )
    facts = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    blocks = facts["tunable"]["layers"]
    deep = [INPUT, 1, 2, 3]
    assert blocks == {"prompt-tuning": [INPUT], "bbt": [INPUT], "p-tuning-v2": deep, "bbtv2": deep}.get(
        name, [0, 1, 2, 3]
    )
    if event == "generation":
        assert [line["layer"] for line in of(lines, event)] == [blocks[i % len(blocks)] for i in range(turns)]
    else:
        problem = problem_of(recipe)
        point = problem.scorer.parameters.initial()
        assert lines[1]["loss"] == problem.evaluator.gradient(point, list(point), 0).loss


def test_a_whole_epoch_sees_every_row_once(tmp_path):
    problem = problem_of(rounds(tmp_path, method__batch_size=2))
    whole = problem.scorer.batch(problem.split.train)
    epochs = []
    for epoch in range(3):
        seen = [problem.evaluator.step_rows(4 * epoch + step) for step in range(4)]
        assert [len(batch) for batch in seen] == [2] * 4 and sum(batch.tokens for batch in seen) == whole.tokens
        rows = [tuple(ids) for batch in seen for group in batch.groups for ids in group.ids.tolist()]
        assert len(rows) == len(problem.split.train) == 8
        epochs.append(rows)
    assert epochs[0] != epochs[1] != epochs[2]
    assert len(problem_of(rounds(tmp_path, method__batch_size=100)).evaluator.step_rows(3)) == 8, "at most all of them"


# what cannot be run


@pytest.mark.parametrize(
    ("changes", "tells"),
    [
        ({"method__tunable": "lora"}, r"\[alternate\] rounds: 2.*lora is no prompt at the input"),
        ({"method__tunable": "deep-prompt"}, r"deep-prompt is no prompt at the input"),
        ({"method__objective": "accuracy"}, r"\[method\] objective: 'accuracy' has no gradient for adamw"),
        ({"method__objective": "f1", "method__optimizer": "sgd"}, r"'f1' has no gradient for sgd"),
        (
            {"alternate__proposer": "nobody"},
            r"\[alternate\] proposer: unknown proposer 'nobody', expected mentor, mutation, ",
        ),
        ({"alternate__accept": "sometimes"}, r"\[alternate\] accept"),
        ({"alternate__rounds": -1}, r"\[alternate\] rounds"),
        ({"alternate__round": 3}, r"unknown key.*did you mean 'rounds'"),
        ({"alternate__heat": 0.0}, r"\[alternate\] heat"),
        ({"method__prompt_tokens": 0}, r"\[method\] prompt_tokens"),
        ({"method__prompt_tokens": 60}, r"\[method\] prompt_tokens: 60 leave no room in the 64"),
        ({"method__prompt_text": "  "}, r"\[method\] prompt_text: '  ' has no tokens"),
        ({"method__lr": -1.0}, r"\[method\] lr"),
        ({"method__lr": 1e38}, r"\[method\] lr"),
        ({"method__schedule": "linear", "method__warmup": 60}, r"\[method\] warmup: 60 steps leave none"),
        ({"method__schedule": "linear", "method__warmup": 5}, r"warmup"),
        (
            {"method__name": "c-lora", "method__optimizer": "adamw", "alternate__rounds": 0}
            | {"method__schedule": "linear", "method__warmup": 60},
            r"warmup",
        ),
        (
            {"alternate__proposer": "none", "alternate__round_steps": 0, "alternate__final_steps": 0},
            r"round_steps|final_steps",
        ),
    ],
    ids=lambda value: ",".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_said_before_anything_is_written(tmp_path, changes, tells):
    recipe = rounds(tmp_path, **{"run__max_seconds": 5.0, **changes})
    with pytest.raises(ConfigError, match=tells) as told:
        tune(recipe, tmp_path / "run")
    assert "1 problem" in str(told.value) and not (tmp_path / "run").exists()


def test_a_deep_prompt_needs_a_layer_behind_the_first_of_those_that_read(tmp_path):
    """The last layers of an encoder-decoder are the decoder's, where there is no prompt: not in silence one at the input."""
    for layers in ("last:2", [0]):
        changes = {"method__name": "p-tuning-v2", "method__layers": layers, "alternate__rounds": 0}
        with pytest.raises(ConfigError, match=r"\[method\] layers"):
            tune(rounds(tmp_path, "t5", **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def broken(place, name):
    """A model folder in which one kind of weight is no number."""
    model = tiny.model("bert")
    for key, parameter in model.named_parameters():
        if name in key:
            with torch.no_grad():
                parameter.fill_(torch.nan)
    model.save_pretrained(place)
    tiny.tokenizer("masked").save_pretrained(place)
    return str(place)


@pytest.mark.parametrize(
    ("method", "part"),
    [("prompt-tuning", "encoder.layer.1"), ("lora", "encoder.layer.1"), ("maao", "word_embeddings")],
)
def test_a_model_without_numbers_is_refused_and_leaves_nothing(tmp_path, method, part):
    """As it is for a search without gradients."""
    changes = {"method__name": method, "method__steps": 2, "alternate__rounds": 2 if method == "maao" else 0}
    recipe = rounds(tmp_path, model__name=broken(tmp_path / "model", part), **changes)
    with pytest.raises(ModelError, match="no usable numbers"):
        tune(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_head_without_numbers_ends_in_nulls(tmp_path):
    """As it does for a search without gradients; nothing is substituted where nothing is likely."""
    name = broken(tmp_path / "model", "cls.predictions.bias")
    _, folder, result, lines = ran(tmp_path, model__name=name, alternate__proposer="mutation")
    assert lines[0]["train_loss"] is None and {line["loss"] for line in of(lines, "step")} == {None}
    assert [line["drafts"] for line in of(lines, "proposal")] == [[], []]
    assert result["kept_step"] == result["kept_record"] == 0 and result["cost"]["gradient_steps"] == TOTAL
    assert "NaN" not in (folder / "result.json").read_text(encoding="utf-8")
    assert small.call("show", folder).code == 0


def test_a_vocabulary_without_words(tmp_path):
    """Told in one line, with what to do, before anything is written."""
    place = tmp_path / "model"
    tiny.model("bert").save_pretrained(place)
    tokenizer = json.loads(tiny.tokenizer("masked").backend_tokenizer.to_str())
    kept = ("great", "terrible", "it", "was", ".")
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {w if w in kept or i < 5 else f"{i}": i for w, i in vocabulary.items()}
    made = tiny.tokenizer("masked").__class__(
        tokenizer_object=type(tiny.tokenizer("masked").backend_tokenizer).from_str(json.dumps(tokenizer)),
        **{f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")},
    )
    made.save_pretrained(place)
    labels = {"negative": "terrible", "positive": "great"}
    recipe = rounds(tmp_path, model__name=str(place), task__labels=labels)
    bare = {**recipe, "task": {**recipe["task"], "template": "{text} {mask}", "labels": {"a": "it", "b": "was"}}}
    small.write_rows(tmp_path / "train.jsonl", [{**row, "label": "ab"[i % 2]} for i, row in enumerate(small.rows(12))])
    bare["task"]["test"] = None
    found = tune({**bare, "method": {**bare["method"], "vocabulary": "all"}}, tmp_path / "all")
    assert found["cost"]["gradient_steps"] == TOTAL
    tokenizer["model"]["vocab"] = {w if w in ("it", "was") or i < 5 else f"{i}": i for w, i in vocabulary.items()}
    type(made)(
        tokenizer_object=type(made.backend_tokenizer).from_str(json.dumps(tokenizer)),
        **{f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")},
    ).save_pretrained(place)
    with pytest.raises(ModelError, match=r"set \[method\] vocabulary to all"):
        tune(bare, tmp_path / "run")
    assert not (tmp_path / "run").exists()

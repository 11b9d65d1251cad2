"""The public suites pass what is right and name what is wrong: one fault at a time, each found by its own promise."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from grids import sparse
from tandemtune import plugins
from tandemtune.objectives.base import Objective
from tandemtune.optimizers.base import Optimizer, VectorAskTell, check_kind, start_point
from tandemtune.proposers.base import Draft, Proposal, Proposer, Worded
from tandemtune.testing import check_metric, check_objective, check_optimizer, check_proposer, check_tunable
from tandemtune.tunables import storage
from tandemtune.tunables.base import Layerwise, Parameters, Tunable

SOON = ("lora", "prompt", "full", "text")


def failures(check, *given, **options):
    """The promises that are not kept, as the error names them."""
    with pytest.raises(AssertionError, match="does not keep") as caught:
        check(*given, **options)
    return [line.removeprefix("  - ") for line in str(caught.value).splitlines() if line.startswith("  - ")]


# ours


@pytest.mark.parametrize("name", [name for name in plugins.names("optimizer") if name != "none"])
def test_our_optimizers_by_their_options(name):
    check_optimizer(plugins.find("optimizer", name)())


@pytest.mark.parametrize("name", [name for name in plugins.names("objective") if name != "reward"])  # no labels
def test_our_objectives(name):
    check_objective(plugins.find("objective", name)())


@pytest.mark.parametrize("name", ["mutation", "random", "perturbed"])
def test_our_proposers(name):
    check_proposer(plugins.find("proposer", name)())


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "name",
    sparse([n for n in plugins.names("tunable") if n not in ("peft", "none", "demonstrations", "class-prompt")], SOON),
)
def test_our_tunables_by_their_options(name):
    words = name in ("prompt", "deep-prompt", "text", "lora+prompt")
    kinds = ("masked", "causal") if name == "deep-prompt" else ("masked", "causal", "seq2seq")
    check_tunable(plugins.find("tunable", name)(), kinds=kinds, starts_as_pretrained=not words)


@pytest.mark.parametrize(
    ("check", "noun", "name"), [(check_optimizer, "optimizer", "none"), (check_tunable, "tunable", "none"), (check_proposer, "proposer", "none")]
)  # fmt: skip
def test_what_does_nothing_cannot_be_checked(check, noun, name):
    with pytest.raises(ValueError, match="nothing to check"):
        check(plugins.find(noun, name)())


# optimizers


class Climb(VectorAskTell):
    """The best point so far, and steps around it."""

    def __init__(self, space, popsize=6):
        self.x, self.loss, self.popsize = start_point(space.start, space.d), np.inf, popsize
        self.rng, self.name = np.random.default_rng(space.seed), f"Climb({space.d})"

    def _propose(self):
        return self.x + 0.3 * self.rng.standard_normal((self.popsize, len(self.x)))

    def _learn(self, asked, losses, gradients):
        if losses.min() < self.loss:
            self.x, self.loss = asked[losses.argmin()].copy(), float(losses.min())

    def _save(self):
        return {"kind": self.name, "x": self.x.copy(), "loss": self.loss, "rng": self.rng.bit_generator.state}

    def _load(self, state):
        check_kind(self.name, state)
        self.x, self.loss = np.array(state["x"]), float(state["loss"])
        self.rng.bit_generator.state = state["rng"]


class WithoutGenerator(Climb):
    def _save(self):
        return {key: value for key, value in super()._save().items() if key != "rng"}

    def _load(self, state):
        super()._load({**state, "rng": self.rng.bit_generator.state})


class SharesItsState(Climb):
    def _save(self):
        return {**super()._save(), "x": self.x}

    def _learn(self, asked, losses, gradients):
        if losses.min() < self.loss:
            self.x[:], self.loss = asked[losses.argmin()], float(losses.min())


class HandsOutItsOwn(Climb):
    def ask(self):
        super().ask()
        return self._asked


class NumpysGenerator(Climb):
    def _propose(self):
        return self.x + 0.3 * np.random.standard_normal((self.popsize, len(self.x)))


class Maximises(Climb):
    def _learn(self, asked, losses, gradients):
        super()._learn(asked, -losses, gradients)


class TakesTheMean(Climb):
    def _learn(self, asked, losses, gradients):
        self.loss = min(self.loss, 1e9)
        weights = 1.0 / (1.0 + losses.mean() - losses) ** 2
        self.x = (weights / weights.sum()) @ asked


class OneTooFew(Climb):
    def _propose(self):
        return super()._propose()[1:]


class Single(Climb):
    def _propose(self):
        return super()._propose().astype(np.float32)


class AnySize(Climb):
    def _load(self, state):
        self.name = state["kind"]
        super()._load(state)


class KeepsObjects(Climb):
    def _save(self):
        return {**super()._save(), "rng": {"generator": self.rng}}


class IgnoresTheStart(Climb):
    def __init__(self, space):
        super().__init__(space)
        self.x = np.zeros(space.d)


def optimizer_of(working, **attributes):
    made = {"kind": "made", "start": lambda self, space: working(space), "__annotations__": {"popsize": int}}
    return type("Made", (Optimizer,), {**made, "popsize": 6, "__module__": __name__, **attributes})()


def test_a_right_optimizer_passes():
    check_optimizer(optimizer_of(Climb))


@pytest.mark.parametrize(
    ("working", "words"),
    [
        (WithoutGenerator, "12 generations are 5, a checkpoint"),
        (SharesItsState, "A state that was handed out neither changes"),
        (HandsOutItsOwn, "Candidates that were handed out neither change"),
        (NumpysGenerator, "whatever numpy's own seed"),
        (Maximises, "The best loss on a simple function falls"),
        (TakesTheMean, "NaN and infinity count as worst"),
        (OneTooFew, "Every generation has the same number"),
        (Single, "in float64"),
        (AnySize, "another number of coordinates is refused"),
        (KeepsObjects, "The state is plain data"),
        (IgnoresTheStart, "The first candidates lie around the starting point"),
    ],
)
def test_a_wrong_optimizer_is_told_what_is_wrong(working, words):
    assert any(words in line for line in failures(check_optimizer, optimizer_of(working)))


def test_an_estimator_needs_a_point():
    assert any("has the point that it moves" in line for line in failures(check_optimizer, optimizer_of(Climb, uses="estimator")))  # fmt: skip


# tunables


class Scales(Layerwise):
    """A factor for each hidden unit behind two layers."""

    side_by_side = True
    token_wise = True

    def __init__(self, backbone):
        self.backbone, self.blocks = backbone, (1, 2)

    def dim(self, block):
        return 32

    def initial(self):
        return {block: torch.zeros(32) for block in self.blocks}

    def each(self, vector):
        return torch.atleast_2d(vector)

    def hook(self, vector):
        def scaled(module, args, output):
            hidden = output[0] if isinstance(output, tuple) else output
            each = self.each(vector).to(hidden)
            hidden = self.changed(hidden, each.repeat_interleave(len(hidden) // len(each), 0).unsqueeze(1))
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return scaled

    def changed(self, hidden, each):
        return hidden * (1 + each)

    @contextmanager
    def applied(self, point):
        handles = [self.backbone.layers[b].register_forward_hook(self.hook(vector)) for b, vector in point.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class LeavesAHook(Scales):
    @contextmanager
    def applied(self, point):
        handles = [self.backbone.layers[b].register_forward_hook(self.hook(vector)) for b, vector in point.items()]
        yield
        for handle in handles:
            handle.remove()


class WritesWeights(Scales):
    @contextmanager
    def applied(self, point):
        weight = self.backbone.embedding_weight
        for vector in point.values():
            weight.data += 1e-3 * torch.atleast_2d(vector)[0]
        with super().applied(point):
            yield


class FirstCandidateOnly(Scales):
    def each(self, vector):
        return torch.atleast_2d(vector)[:1]


class ByPosition(Scales):
    def changed(self, hidden, each):
        return hidden * (1 + each * torch.arange(hidden.shape[1]).view(1, -1, 1))


class SaysNothingChanges(Scales):
    def same_below(self, layer, one, other):
        return True


class SaysHigher(Scales):
    def first_layer(self, blocks):
        return max(blocks) + 1


class BeginsElsewhere(Scales):
    def initial(self):
        return {block: torch.ones(32) for block in self.blocks}


class OneVectorForAll(Scales):
    kept: dict = {}  # noqa: RUF012

    def initial(self):
        return self.kept or self.kept.update(super().initial()) or self.kept


class CutsGradients(Scales):
    def each(self, vector):
        return torch.atleast_2d(vector) * 0.5 + torch.atleast_2d(vector).detach() * 0.5


class LoadsAnything(Scales):
    def load(self, folder):
        try:
            return super().load(folder)
        except Exception:
            return self.initial()


class SavesHalf(Scales):
    def save(self, point, folder, base_model):
        storage.write_blocks(folder, {block: vector.half().float() for block, vector in point.items()}, base_model)


class CountsWrong(Scales):
    def describe(self):
        return {**super().describe(), "parameters": 1}


class TurnsThePrompt(Scales):
    def reserve(self, prompt):
        return type(prompt)(prompt.ids[::-1], prompt.answer)


class TakesTwo(Scales):
    side_by_side = False


def tunable_of(working):
    return type("Made", (Tunable,), {"kind": "made", "make": lambda self, given: working(given.backbone)})()


def test_a_right_tunable_passes():
    check_tunable(tunable_of(Scales))


@pytest.mark.parametrize(
    ("working", "words"),
    [
        (LeavesAHook, "nothing of it is left when the context ends"),
        (WritesWeights, "nothing of it is left when the context ends"),
        (FirstCandidateOnly, "Candidates of one generation get what each gets alone"),
        (ByPosition, "are `token_wise` and `leading` right?"),
        (SaysNothingChanges, "`same_below` and `first_layer` are true"),
        (SaysHigher, "`same_below` and `first_layer` are true"),
        (BeginsElsewhere, "The first point is the pretrained model"),
        (OneVectorForAll, "nobody else's memory"),
        (CutsGradients, "its gradient is the slope of the loss"),
        (LoadsAnything, "A missing, damaged or foreign file is refused"),
        (SavesHalf, "What was saved is loaded to the bit"),
        (CountsWrong, "`describe` is JSON"),
        (TurnsThePrompt, "leaves all tokens in their order"),
        (TakesTwo, "more candidates than it can bear at once are refused"),
    ],
)
def test_a_wrong_tunable_is_told_what_is_wrong(working, words):
    assert any(words in line for line in failures(check_tunable, tunable_of(working), kinds=("causal",)))


def test_a_tunable_that_cannot_be_made_is_one_line():
    class Fails(Parameters):
        pass

    with pytest.raises(AssertionError, match="cannot be made beside a tiny causal model"):
        check_tunable(tunable_of(lambda home: 1 / 0), kinds=("causal",))


# objectives


def cross_entropy(logits, gold):
    return -logits.log_softmax(-1)[:, range(len(gold)), gold].mean(1)


def objective_of(function, differentiable=True):
    made = {"kind": "made", "differentiable": differentiable, "loss": lambda self, task: function}
    return type("Made", (Objective,), made)()


def test_a_right_objective_passes():
    check_objective(objective_of(cross_entropy))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda logits, gold: -cross_entropy(logits, gold), "Lower is better"),
        (lambda logits, gold: cross_entropy(logits, gold) * len(gold), "a mean over rows"),
        (lambda logits, gold: cross_entropy(logits, gold).nan_to_num(0.0), "NaN among a candidate's logits"),
        (lambda logits, gold: cross_entropy(logits - logits.mean(0), gold), "does not depend on the others"),
        (lambda logits, gold: cross_entropy(logits, gold).mean(), "give finite losses [P]"),
        (lambda logits, gold: cross_entropy(logits.mul_(2), gold), "are not written to"),
        (
            lambda logits, gold: cross_entropy(logits.detach(), gold) + 0 * logits.sum((1, 2)),
            "its gradient is its slope",
        ),
        (lambda logits, gold: cross_entropy(logits, gold.sort().values), "Lower is better"),
    ],
)
def test_a_wrong_objective_is_told_what_is_wrong(function, words):
    assert any(words in line for line in failures(check_objective, objective_of(function)))


# metrics


def accuracy(predictions, gold):
    return sum(a == b for a, b in zip(predictions, gold, strict=True)) / len(gold)


def of_the_last_call(predictions, gold, kept=[]):  # noqa: B006
    kept.append(accuracy(predictions, gold))
    return sum(kept) / len(kept)


def sorts(predictions, gold):
    predictions.sort()
    gold.sort()
    return accuracy(predictions, gold)


def test_a_right_metric_passes():
    check_metric(accuracy)
    check_metric(lambda predictions, gold: 100 * accuracy(predictions, gold), labels=("a", "b", "c"), upper=100)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda predictions, gold: 1 - accuracy(predictions, gold), "No predictions beat the right ones"),
        (lambda predictions, gold: 100 * accuracy(predictions, gold), "within the bounds"),
        (lambda predictions, gold: accuracy(predictions, gold) / predictions.count("positive"), "within the bounds"),
        (of_the_last_call, "The same labels give the same number"),
        (sorts, "The lists that it is given are not changed"),
        (lambda predictions, gold: accuracy(predictions[:9], gold[:9]), "The order of the rows"),
    ],
)
def test_a_wrong_metric_is_told_what_is_wrong(function, words):
    assert any(words in line for line in failures(check_metric, function))


# proposers


class Words(Worded):
    def drawn(self, round):
        generator = np.random.default_rng([self.seed, round])
        return [self.vocabulary.sample(generator, self.length) for _ in range(self.count)]

    def propose(self, round, tried, known):
        return Proposal(tuple(Draft(words.text, words.ids) for words in self.drawn(round)))


class Counts(Words):
    rounds = 0

    def drawn(self, round):
        self.rounds += 1
        return super().drawn(self.rounds + 10 * round)


class Unseeded(Words):
    def drawn(self, round):
        return super().drawn(np.random.randint(1000))


class OneMore(Words):
    def drawn(self, round):
        return [*super().drawn(round), *super().drawn(round + 50)]


class Longer(Words):
    def drawn(self, round):
        return [self.vocabulary.words((*words.ids, 10)) for words in super().drawn(round)]


class Marks(Words):
    def drawn(self, round):
        return [self.vocabulary.words((2, 3, 4 - round % 2)) for _ in range(self.count)]


class Always(Words):
    def drawn(self, round):
        return super().drawn(1)


class Silent(Words):
    def drawn(self, round):
        return []


class Sorts(Words):
    def propose(self, round, tried, known):
        tried.clear()
        return super().propose(round, tried, known)


class NeedsSome(Words):
    def propose(self, round, tried, known):
        assert tried[-1].loss < 9
        return super().propose(round, tried, known)


def proposer_of(working):
    def make(self, asked):
        return working(asked.vocabulary, asked.length, asked.count, asked.seed)

    return type("Made", (Proposer,), {"kind": "made", "make": make})()


def test_a_right_proposer_passes():
    check_proposer(proposer_of(Words))


@pytest.mark.parametrize(
    ("working", "words"),
    [
        (Counts, "A round is answered in the same way"),
        (Unseeded, "A round is answered in the same way"),
        (OneMore, "at most as many as were asked for"),
        (Longer, "Words are as many tokens as the prompt has"),
        (Marks, "all allowed ones"),
        (Always, "Another round gets other drafts"),
        (Silent, "or a reason why there are none"),
        (Sorts, "is not changed"),
        (NeedsSome, "With nothing tried yet"),
    ],
)
def test_a_wrong_proposer_is_told_what_is_wrong(working, words):
    assert any(words in line for line in failures(check_proposer, proposer_of(working)))

"""What every tunable promises: flat vectors that fit, a model that is left as it was, and what a population measures."""

from __future__ import annotations

import copy
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tandemtune.errors import ModelError, RunError
from tandemtune.evaluators.batch import collate
from tandemtune.models.backbone import Backbone, Kind
from tandemtune.models.layers import hooked
from tandemtune.objectives.cross_entropy import cross_entropy
from tandemtune.optimizers.cmaes import CMAES
from tandemtune.optimizers.gradient import AdamW
from tandemtune.subspace import RandomSubspace, WholeSpace
from tandemtune.testing.promises import expect, keep, refuses
from tandemtune.testing.tiny import LABELS, TinyDesk, hooks_of, tiny_backbone, tiny_task, verbalizer_of
from tandemtune.tunables.base import Given, Parameters, Point, Tunable
from tandemtune.tunables.vocabulary import Vocabulary
from tandemtune.types import Encoded

CLOSE = 1e-5
"""How far results may be apart that are computed in another order, times their size."""


@dataclass
class TunableCase:
    """A tunable to put to the test, beside one tiny model.

    Args:
        make: the model -> fresh parameters beside it.
        backbone: the model; a tiny one.
        starts_as_pretrained: whether the first point is the pretrained model.
        spread: standard deviation of the points that are tried around the first one.
        gradient: "exact" where its gradients are those of the loss, "any" where they are approximations on purpose, "none".
        searched: the blocks that an optimizer moves.
    """

    make: Callable[[Backbone], Parameters]
    backbone: Backbone
    starts_as_pretrained: bool = True
    spread: float = 0.1
    gradient: str = "exact"
    searched: Callable[[Parameters], tuple[int, ...]] = lambda parameters: parameters.blocks

    @classmethod
    def of(
        cls, spec: Tunable, kind: Kind, *, starts_as_pretrained: bool = True, spread: float = 0.1, gradient: str = ""
    ) -> TunableCase:
        """The case of a spec, see `check_tunable`."""
        if spec.searched_by <= {"none"}:
            raise ValueError(f"{type(spec).__name__} is moved by no optimizer, so there is nothing to check")
        follows = gradient or ("exact" if "gradient" in spec.searched_by else "none")
        return cls(
            lambda home: spec.make(given(home, spec)),
            tiny_backbone(kind),
            starts_as_pretrained,
            spread,
            follows,
            spec.searched,
        )

    @cached_property
    def desk(self) -> TinyDesk:
        """Parameters beside the model, and an engine over four prompts."""
        return TinyDesk(self.backbone, self.make(self.backbone))

    @property
    def parameters(self) -> Parameters:
        """The parameters that are put to the test."""
        return self.desk.parameters

    def point(self, seed: int = 0, parameters: Parameters | None = None) -> dict[int, Tensor]:
        """Any point near the first one."""
        generator = torch.Generator().manual_seed(seed)
        return {
            block: vector + self.spread * torch.randn(vector.shape, generator=generator)
            for block, vector in (parameters or self.parameters).initial().items()
        }

    def plain(self, point: Point, prompts: Sequence[Encoded] = ()) -> Tensor:
        """Logits of the label words from the model itself while a point is applied."""
        with self.parameters.applied(point):
            return self.desk.plain(prompts)


def given(backbone: Backbone, spec: Tunable) -> Given:
    """What a run would hand to a tunable: a search in a random subspace if it can be moved so, else a gradient."""
    task, verbalizer = tiny_task(backbone.kind), verbalizer_of(backbone)
    searched = "sampler" in spec.searched_by
    return Given(
        backbone,
        Vocabulary(backbone, spec.allowed_words, verbalizer.token_ids),
        task,
        verbalizer,
        CMAES() if searched else AdamW(),
        RandomSubspace() if searched else WholeSpace(),
        seed=1,
        generations=100,
        max_tokens=64,
    )


def check_tunable(
    spec: Tunable,
    *,
    kinds: Sequence[Kind] = ("masked", "causal", "seq2seq"),
    starts_as_pretrained: bool = True,
    spread: float = 0.1,
    gradient: str = "",
) -> None:
    """Put a tunable through everything that the engine, a search and a run's folder rely on.

    Args:
        spec: the tunable with its options.
        kinds: which tiny models it is put beside.
        starts_as_pretrained: whether its first point is the pretrained model; a prompt's is not.
        spread: standard deviation of the points that are tried around the first one.
        gradient: "exact" where its gradients are those of the loss, "any" where they are approximations on purpose, "none"
            where it is not differentiated; left out, "exact" if a gradient may search it.

    Raises:
        AssertionError: lists every promise that is not kept.
    """
    for kind in kinds:
        case = TunableCase.of(spec, kind, starts_as_pretrained=starts_as_pretrained, spread=spread, gradient=gradient)
        name = f"the tunable {type(spec).__name__}"
        try:
            case.parameters  # noqa: B018  made here, once for all promises
        except Exception as error:
            raise AssertionError(
                f"{name} cannot be made beside a tiny {kind} model ({type(error).__name__}: {error}); `kinds` says which models "
                "it is meant for"
            ) from error
        keep(f"{name} beside a {kind} model", TUNABLE_PROMISES, case)


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max()) if one.numel() else 0.0


def _expect_close(one: Tensor, other: Tensor, what: str) -> None:
    limit = CLOSE * (1.0 + float(other.abs().max()))
    expect(_apart(one, other) <= limit, f"{what}: {_apart(one, other):.3g} apart, expected at most {limit:.3g}")


def _expect_same(one: Tensor, other: Tensor, what: str) -> None:
    expect(torch.equal(one, other), f"{what}: {_apart(one, other):.3g} apart, expected the same bits")


# ---- promises -----------------------------------------------------------------------------------------------------


def has_vectors_that_fit(case: TunableCase) -> None:
    """Blocks ascend, and each vector is as long as its matrices together."""
    p = case.parameters
    expect(list(p.blocks) == sorted(set(p.blocks)), f"blocks {p.blocks}: expected each once, in ascending order")
    for block in p.blocks:
        whole = sum(math.prod(shape) for shape in p.shapes(block))
        expect(p.dim(block) == whole > 0, f"block {block}: dim is {p.dim(block)}, its shapes hold {whole} numbers")


def has_a_first_point(case: TunableCase) -> None:
    """`initial` is complete, finite float32 [dim], the same every time, and nobody else's memory."""
    p = case.parameters
    first = p.initial()
    expect(tuple(first) == p.blocks, f"initial() has the blocks {tuple(first)}, expected {p.blocks}")
    for block, vector in first.items():
        fits = vector.shape == (p.dim(block),) and vector.dtype == torch.float32
        expect(fits, f"block {block}: {tuple(vector.shape)} of {vector.dtype}, expected ({p.dim(block)},) of float32")
        expect(not vector.requires_grad, f"block {block} of initial() wants a gradient")
        expect(bool(vector.isfinite().all()), f"block {block} of initial() holds NaN or infinity")
    kept = copy.deepcopy(first)
    for vector in first.values():
        vector += 1
    fresh = TinyDesk(case.backbone, case.make(case.backbone)).parameters
    for what, other in (("initial()", p), ("initial() of fresh parameters", fresh)):
        found = other.initial()
        same = all(torch.equal(found[block], kept[block]) for block in p.blocks)
        expect(same, f"{what} is not the same again: hand out copies, and draw from the run's seed only")


def leaves_the_model_as_it_was(case: TunableCase) -> None:
    """A point changes what the model says, and nothing of it is left when the context ends, even by an error."""
    model, p = case.backbone.model, case.parameters
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before, hooks, names = case.plain({}), hooks_of(model), dict(model.named_modules())
    changed = case.plain(case.point())
    expect(_apart(before, changed) > 1e-6, f"a point {case.spread:g} away from the first one changes no logit")

    def fail() -> None:
        with p.applied(case.point()):
            raise ZeroDivisionError

    for what in ("after a point", "after an error inside the context"):
        if "error" in what:
            refuses(ZeroDivisionError, fail, "an error inside applied()")
        _expect_same(case.plain({}), before, what)
        expect(hooks_of(model) == hooks, f"{what}: hooks or forwards of its own are left on the model")
        expect(dict(model.named_modules()) == names, f"{what}: the model has other modules")
        for name, value in model.state_dict().items():
            _expect_same(value, weights[name], f"{what}: the weight {name}")


def starts_as_the_pretrained_model(case: TunableCase) -> None:
    """The first point is the pretrained model."""
    if case.starts_as_pretrained:
        _expect_close(case.plain(case.parameters.initial()), case.plain({}), "logits at initial() and without a point")


def leaves_points_alone(case: TunableCase) -> None:
    """A point does not change while it is applied."""
    point = case.point()
    kept = copy.deepcopy(point)
    case.plain(point)
    for block, vector in point.items():
        _expect_same(vector, kept[block], f"block {block} of a point that was applied")


def means_the_same_to_the_engine(case: TunableCase) -> None:
    """The engine's one pass gives what the model itself says, prompt by prompt (are `token_wise` and `leading` right?)."""
    point, desk = case.point(), case.desk
    for prompts, which in ((desk.prompts, "the engine"), (desk.alike, "the engine, where all prompts begin alike,")):
        averaged = case.plain(point, prompts) @ desk.engine.averaging
        found = desk.engine.logits(collate(prompts, LABELS, torch.device("cpu")), point)
        _expect_close(found, averaged, f"logits of {which} and of the model")


def is_a_population_one_by_one(case: TunableCase) -> None:
    """Candidates of one generation get what each gets alone (is `side_by_side` right?)."""
    p, engine, batch, point = case.parameters, case.desk.engine, case.desk.batch, case.point()
    many = {block: torch.stack([case.point(seed)[block] for seed in (1, 2, 3)]) for block in p.blocks}
    for chosen in [*([block] for block in p.blocks), list(p.blocks)]:
        candidates = {block: many[block] for block in chosen}
        alone = torch.stack(
            [engine.logits(batch, {**point, **{b: v[i] for b, v in candidates.items()}}) for i in range(3)]
        )
        together = engine.population_logits(batch, point, candidates)
        _expect_close(together, alone, f"blocks {chosen}: candidates together and alone")
        expect(_apart(alone[0], alone[1]) > 1e-7, f"blocks {chosen}: two candidates give the same logits")


def says_what_lies_below(case: TunableCase) -> None:
    """`same_below` and `first_layer` are true of what enters each layer of the model."""
    p, point, count = case.parameters, case.point(), len(case.backbone.layers)
    before = _entering(case, point)
    for block in p.blocks:
        other = {**point, block: case.point(9)[block]}
        after = _entering(case, other)
        for layer in range(count):
            stays = all(map(torch.equal, before[layer], after[layer]))
            said = p.same_below(layer, point, other)
            expect(
                stays or not said,
                f"same_below({layer}, ...) says that hidden states stay where block {block} changes, but they change",
            )
            expect(
                stays or layer > p.first_layer([block]),
                f"first_layer([{block}]) is {p.first_layer([block])}, but what enters layer {layer} changes already",
            )
    for layer in range(count):
        expect(p.same_below(layer, point, copy.deepcopy(point)), f"same_below({layer}, ...) denies it of equal points")


@torch.no_grad()
def _entering(case: TunableCase, point: Point) -> list[list[Tensor]]:
    """What each layer is given, before the tunable's own hooks."""
    seen: dict[int, list[Tensor]] = {}

    def watch(index: int) -> Callable[..., None]:
        def look(module: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> None:
            wanted = {"hidden_states", "encoder_hidden_states"}
            found = [*args[:1], *(value for name, value in named.items() if name in wanted)]
            seen[index] = [value.clone() for value in found if isinstance(value, Tensor)]

        return look

    with case.parameters.applied(point), ExitStack() as stack:
        for index, layer in enumerate(case.backbone.layers):
            handle = layer.register_forward_pre_hook(watch(index), with_kwargs=True, prepend=True)
            stack.enter_context(hooked(handle))
        case.desk.plain(case.desk.prompts[:1])
    return [seen[index] for index in range(len(case.backbone.layers))]


def keeps_the_prompt(case: TunableCase) -> None:
    """`reserve` leaves all tokens in their order and the answer at its token; the room is the same for every prompt."""
    ids, rooms = (2, 6, 9, 11, 4, 3), set()
    for count in (6, 3, 1):
        prompt = Encoded(ids[:count], 0 if case.backbone.kind == "seq2seq" else count - 1)
        found = case.parameters.reserve(prompt)
        rest = iter(found.ids)
        expect(all(token in rest for token in prompt.ids), f"reserve({prompt.ids}) loses or turns tokens: {found.ids}")
        if case.backbone.kind == "seq2seq":
            expect(found.answer == prompt.answer, f"the answer moved from {prompt.answer} to {found.answer}")
        else:
            there = found.ids[found.answer] == prompt.ids[prompt.answer]
            expect(there, f"the answer of {found.ids} is said to be at {found.answer}, where another token stands")
        rooms.add(len(found.ids) - count)
    expect(len(rooms) == 1, f"prompts of different lengths get different room: {sorted(rooms)}")


def has_gradients_of_the_loss(case: TunableCase) -> None:
    """A backward pass reaches every block, and its gradient is the slope of the loss."""
    if case.gradient == "none":
        return
    home = copy.deepcopy(case.backbone)
    home.model.double()
    desk = TinyDesk(home, case.make(home))
    point, gold = case.point(parameters=desk.parameters), torch.tensor(LABELS)

    def loss(at: Point) -> Tensor:
        logits: list[Tensor] = [desk.engine.gradient_logits(group, at) for group in desk.batch.groups]
        rows = torch.cat([group.rows for group in desk.batch.groups])
        return cross_entropy(torch.cat(logits).unsqueeze(0), gold[rows])[0]

    leaves = {block: vector.clone().requires_grad_() for block, vector in point.items()}
    loss(leaves).backward()  # type: ignore[no-untyped-call]
    for block, leaf in leaves.items():
        slope = leaf.grad
        expect(slope is not None, f"no gradient reaches block {block}")
        if slope is None or case.gradient == "any":
            continue
        size = float(slope.norm())
        expect(math.isfinite(size) and size > 0, f"the gradient of block {block} has the length {size}")
        up, step = slope.double() / size, 2e-3
        ends = [float(loss({**point, block: point[block].double() + s * step * up}).detach()) for s in (1, -1, 2, -2)]
        measured = (8 * (ends[0] - ends[1]) - (ends[2] - ends[3])) / (12 * step)
        expect(
            abs(measured - size) <= 0.02 * size + 2e-4,
            f"block {block}: the loss rises by {measured:.5g} along the gradient, which is {size:.5g} long",
        )


def is_saved_and_loaded(case: TunableCase) -> None:
    """What was saved is loaded to the bit by fresh parameters, and saved again as the same bytes."""
    point = case.point()
    with tempfile.TemporaryDirectory() as place:
        one, other = Path(place) / "new" / "one", Path(place) / "other"
        case.parameters.save(point, one, "base")
        loaded = case.make(case.backbone).load(one)
        expect(loaded.keys() == point.keys(), f"load() gives the blocks {list(loaded)}, expected {list(point)}")
        for block, vector in point.items():
            _expect_same(loaded[block], vector, f"block {block} after save() and load()")
            expect(loaded[block].dtype == torch.float32, f"load() gives {loaded[block].dtype}, expected float32")
        case.parameters.save(loaded, other, "base")
        for file in sorted(path for path in other.rglob("*") if path.is_file()):
            name = file.relative_to(other)
            again = (one / name).is_file() and (one / name).read_bytes() == file.read_bytes()
            expect(again, f"{name} differs when the same point is saved again")


def refuses_files_that_do_not_fit(case: TunableCase) -> None:
    """A missing, damaged or foreign file is refused by a RunError, before a run reports numbers of it."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        refuses(RunError, lambda: case.make(case.backbone).load(folder / "missing"), "load() of a missing folder")
        case.parameters.save(case.point(), folder, "base")
        for path in sorted(folder.rglob("*.safetensors")):
            whole = path.read_bytes()
            for what, damage in (("an empty", b""), ("a cut", whole[:-50]), ("a foreign", b"not an adapter")):
                path.write_bytes(damage)
                refuses(RunError, lambda: case.make(case.backbone).load(folder), f"load() of {what} {path.name}")
            path.write_bytes(whole)


def describes_itself(case: TunableCase) -> None:
    """`describe` is JSON, with the layers and the number of parameters."""
    told = case.parameters.describe()
    json.dumps(told)
    total = sum(case.parameters.dim(block) for block in case.searched(case.parameters))
    expect(told.get("parameters") == total, f"describe() tells of {told.get('parameters')} parameters, it has {total}")
    expect("layers" in told, "describe() says nothing of layers")


def takes_one_candidate_as_a_row(case: TunableCase) -> None:
    """A block may be [1, dim]; more candidates than it can bear at once are refused by a ModelError."""
    p, point = case.parameters, case.point()
    rows = {block: vector.unsqueeze(0) for block, vector in point.items()}
    _expect_close(case.plain(rows), case.plain(point), "logits of a point and of the same one as a row")
    if not p.side_by_side:
        block = p.blocks[-1]
        two = {**point, block: torch.stack([point[block]] * 2)}
        try:
            case.plain(two)
        except ModelError:
            return
        except Exception as error:
            raise AssertionError(f"two candidates at once: expected ModelError, got {type(error).__name__}") from error
        raise AssertionError("two candidates at once are taken although side_by_side is False: raise a ModelError")


TUNABLE_PROMISES: tuple[Callable[[TunableCase], None], ...] = (
    has_vectors_that_fit,
    has_a_first_point,
    leaves_the_model_as_it_was,
    starts_as_the_pretrained_model,
    leaves_points_alone,
    means_the_same_to_the_engine,
    is_a_population_one_by_one,
    takes_one_candidate_as_a_row,
    says_what_lies_below,
    keeps_the_prompt,
    has_gradients_of_the_loss,
    is_saved_and_loaded,
    refuses_files_that_do_not_fit,
    describes_itself,
)

"""What every optimizer promises: the order of ask and tell, nothing shared, and going on to the bit."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandemtune.optimizers.base import AskTell, Optimizer, Space, Text
from tandemtune.runs import checkpoint
from tandemtune.testing.promises import expect, keep, refuses, same

WORDS = 20
"""Tokens of the texts that an optimizer of texts is given."""


@dataclass(frozen=True)
class OptimizerCase:
    """An optimizer to put to the test.

    Args:
        make: seed -> a fresh optimizer, which begins at the origin or at a text of zeros.
        d: its coordinates, or the tokens of its texts.
        popsize: candidates in a generation; None for any number that stays the same.
        generations: how many it has to improve.
        improves: factor by which the best loss on a sphere falls in these.
        seeded: whether other seeds give other candidates.
        texts: whether it proposes texts.
        other_size: seed -> the same kind of optimizer over another number of coordinates.
        around: start [d] -> an optimizer that begins there; None where it cannot be told.
        step_size: spread of its first steps.
        moves_a_point: whether its result is a point that it moves, and not its best candidate.
    """

    make: Callable[[int], AskTell[Any]]
    d: int = 8
    popsize: int | None = None
    generations: int = 150
    improves: float = 2.0
    seeded: bool = True
    texts: bool = False
    other_size: Callable[[int], AskTell[Any]] | None = None
    around: Callable[[NDArray[np.float64]], AskTell[Any]] | None = None
    step_size: float = 1.0
    moves_a_point: bool = False

    @classmethod
    def of(
        cls, spec: Optimizer, *, d: int = 8, lr: float = 0.1, generations: int = 150, improves: float = 2.0
    ) -> OptimizerCase:
        """The case of a spec, see `check_optimizer`."""
        if spec.uses == "none":
            raise ValueError(f"{type(spec).__name__} uses nothing that it is told, so there is nothing to check")
        rate = spec.lr_given or lr

        def make(seed: int, size: int = d, start: NDArray[np.float64] | None = None) -> AskTell[Any]:
            if spec.uses == "gradient":
                start = np.zeros(size, dtype=np.float32) if start is None else start.astype(np.float32)
            space = Space(size, seed, start, rate, generations, generations, texts=((0,) * size,), mutate=_mutated)
            return spec.start(space)

        return cls(
            make,
            d,
            spec.candidates if spec.searches else 1,
            generations,
            improves,
            seeded=spec.uses != "gradient",
            texts=spec.uses == "text",
            other_size=lambda seed: make(seed, d + 4),
            around=None if spec.uses == "text" else lambda start: make(1, start=start),
            step_size=spec.step_size,
            moves_a_point=spec.uses in ("estimator", "gradient"),
        )


def check_optimizer(
    spec: Optimizer, *, d: int = 8, lr: float = 0.1, generations: int = 150, improves: float = 2.0
) -> None:
    """Put an optimizer through everything that a search relies on.

    Args:
        spec: the optimizer with its options.
        d: coordinates of the functions that it is tried on; tokens of the texts for an optimizer of texts.
        lr: learning rate where the spec has none of its own.
        generations: how many it has to improve on a sphere around (1, ..., 1), from the origin.
        improves: factor by which the loss has to fall in these.

    Raises:
        AssertionError: lists every promise that is not kept.
    """
    case = OptimizerCase.of(spec, d=d, lr=lr, generations=generations, improves=improves)
    keep(f"the optimizer {type(spec).__name__}", OPTIMIZER_PROMISES, case)


# ---- functions to search ------------------------------------------------------------------------------------------


def _mutated(text: Text, generator: np.random.Generator) -> Text:
    """Another text: one token is drawn anew."""
    place = int(generator.integers(len(text)))
    return (*text[:place], int(generator.integers(WORDS)), *text[place + 1 :])


def sphere(asked: Any) -> NDArray[np.float64]:
    """Squared distance of vectors to (1, ..., 1), or how many tokens of texts are not 1."""
    return np.sum((np.asarray(asked, dtype=np.float64) - 1.0) ** 2, axis=-1) if _vectors(asked) else _mistakes(asked)


def _mistakes(asked: list[Text]) -> NDArray[np.float64]:
    return np.array([sum(token != 1 for token in text) for text in asked], dtype=np.float64)


def _vectors(asked: Any) -> bool:
    return isinstance(asked, np.ndarray)


def _slopes(asked: Any) -> Any:
    return 2.0 * (asked - 1.0) if _vectors(asked) else None


def _tell(optimizer: AskTell[Any], asked: Any, losses: Any) -> None:
    optimizer.tell(losses, _slopes(asked) if optimizer.wants_gradient else None)


def _step(optimizer: AskTell[Any]) -> Any:
    asked = optimizer.ask()
    _tell(optimizer, asked, sphere(asked))
    return asked


def _made_up(asked: Any) -> NDArray[np.float64]:
    return np.arange(float(len(asked)))


def _best(optimizer: AskTell[Any], generations: int) -> float:
    return min(float(sphere(_step(optimizer)).min()) for _ in range(generations))


def _begin(case: OptimizerCase) -> float:
    return float(case.d)


# ---- promises -----------------------------------------------------------------------------------------------------


def proposes_as_many_as_it_says(case: OptimizerCase) -> None:
    """Every generation has the same number of candidates: vectors [P, d] in float64, or texts of whole numbers."""
    optimizer = case.make(1)
    counts = set()
    for _ in range(7):
        asked = _step(optimizer)
        counts.add(len(asked))
        if case.texts:
            whole = all(isinstance(token, int) for text in asked for token in text)
            expect(isinstance(asked, list) and whole, f"expected a list of tuples of int, got {asked!r}")
            continue
        expect(isinstance(asked, np.ndarray), f"expected an array, got {type(asked).__name__}")
        expect(asked.dtype == np.float64, f"expected float64, got {asked.dtype}")
        expect(asked.shape[1:] == (case.d,), f"expected vectors of {case.d} numbers, got the shape {asked.shape}")
        expect(bool(np.isfinite(asked).all()), "a candidate holds NaN or infinity")
    wanted = counts if case.popsize is None else {case.popsize}
    expect(
        len(counts) == 1 and counts == wanted,
        f"expected {sorted(wanted)} candidates (an optimizer's `candidates`, which is its option popsize), got {sorted(counts)}",
    )


def improves_on_a_sphere(case: OptimizerCase) -> None:
    """The best loss on a simple function falls, whatever the seed."""
    for seed in (1, 2, 3):
        found = _best(case.make(seed), case.generations)
        limit = _begin(case) / case.improves
        expect(
            found < limit,
            f"seed {seed}: from {_begin(case):g} to {found:.3g} in {case.generations} generations, expected below {limit:.3g}",
        )


def begins_where_it_is_told(case: OptimizerCase) -> None:
    """The first candidates lie around the starting point, where one is given."""
    if case.around is None:
        return
    far = 1e4 * max(1.0, case.step_size)
    asked = case.around(np.full(case.d, far)).ask()
    away = float(np.abs(asked - far).max())
    expect(away < 0.1 * far, f"a candidate is {away:.3g} away from the starting point (steps of {case.step_size:g})")


def asks_and_tells_in_turn(case: OptimizerCase) -> None:
    """ask() twice, and tell() without ask(), are refused by a RuntimeError."""
    optimizer = case.make(1)
    refuses(RuntimeError, lambda: optimizer.tell(np.zeros(1)), "tell() before the first ask()")
    asked = optimizer.ask()
    refuses(RuntimeError, optimizer.ask, "ask() twice")
    _tell(optimizer, asked, sphere(asked))
    refuses(RuntimeError, lambda: _tell(optimizer, asked, sphere(asked)), "tell() twice")


def refuses_losses_that_do_not_fit(case: OptimizerCase) -> None:
    """Too few, too many or nested losses are refused by a ValueError, and can be told right afterwards."""
    optimizer, other = case.make(1), case.make(1)
    asked = optimizer.ask()
    other.ask()
    count = len(asked)
    for shape in [(count + 1,), (count - 1,), (count, 1), ()]:
        refuses(ValueError, lambda shape=shape: _tell(optimizer, asked, np.zeros(shape)), f"losses of shape {shape}")  # type: ignore[misc]
    for each in (optimizer, other):
        _tell(each, asked, _made_up(asked))
    expect(same(optimizer.ask(), other.ask()), "after refused losses it goes on in another way than without them")


def takes_plain_numbers(case: OptimizerCase) -> None:
    """Losses may be a list of whole numbers."""
    one, other = case.make(1), case.make(1)
    asked = one.ask()
    other.ask()
    _tell(one, asked, list(range(len(asked))))
    _tell(other, asked, _made_up(asked))
    expect(same(one.ask(), other.ask()), "a list of numbers leads elsewhere than an array of them")


def wants_gradients_or_ignores_them(case: OptimizerCase) -> None:
    """Gradients are asked for where they are needed, and not looked at elsewhere."""
    optimizer, other = case.make(1), case.make(1)
    asked = optimizer.ask()
    other.ask()
    if optimizer.wants_gradient:
        refuses(ValueError, lambda: optimizer.tell(_made_up(asked)), "no gradients")
        refuses(ValueError, lambda: optimizer.tell(_made_up(asked), np.zeros(case.d + 1)), "gradients of another shape")
        return
    optimizer.tell(_made_up(asked))
    other.tell(_made_up(asked), np.full((1, 1), np.nan))
    expect(same(optimizer.ask(), other.ask()), "it looks at gradients although wants_gradient is False")


def goes_on_to_the_bit(case: OptimizerCase) -> None:
    """12 generations are 5, a checkpoint, another process and 7 more: after tell() and between ask() and tell()."""
    for between in (False, True):
        whole, part = case.make(1), case.make(1)
        for turn in range(12):
            asked, again = whole.ask(), part.ask()
            where = f"generation {turn + 1}, checkpoint {'between ask() and tell()' if between else 'after tell()'}"
            expect(same(asked, again), f"{where}: other candidates than without it (is all of it in _save and _load?)")
            if turn == 5 and between:
                part = _through_a_file(part, case)
                refuses(RuntimeError, part.ask, "ask() after a restart between ask() and tell()")
            losses = sphere(asked)
            if turn % 4 == 3:
                losses[turn % len(losses)] = np.nan
            _tell(whole, asked, losses)
            _tell(part, asked, losses)
            if turn == 5 and not between:
                part = _through_a_file(part, case)
        expect(same(part.state(), whole.state()), "the states at the end differ")


def _through_a_file(one: AskTell[Any], case: OptimizerCase) -> AskTell[Any]:
    """The same optimizer after a process died; the new one was used before."""
    fresh = case.make(99)
    _step(fresh)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder) / "checkpoint", {"optimizers": {"3": one.state()}})
        fresh.restore(checkpoint.load(Path(folder) / "checkpoint")["optimizers"]["3"])
    return fresh


def rewinds(case: OptimizerCase) -> None:
    """restore() takes an optimizer back, as often as one likes."""
    optimizer = case.make(1)
    _step(optimizer)
    state = optimizer.state()
    first = [_step(optimizer) for _ in range(3)]
    optimizer.ask()
    for _ in range(2):
        optimizer.restore(state)
        expect(same([_step(optimizer) for _ in range(3)], first), "after restore() it proposes something else")


def has_a_state_of_plain_data(case: OptimizerCase) -> None:
    """The state is plain data: arrays, numbers, text, None, and lists and dicts of them."""
    optimizer = case.make(1)
    _expect_plain(optimizer.state(), "state()")
    _step(optimizer)
    optimizer.ask()
    _expect_plain(optimizer.state(), "state()")


def _expect_plain(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            expect(isinstance(key, str), f"{where} has the key {key!r}, expected text")
            _expect_plain(item, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _expect_plain(item, f"{where}[{index}]")
    elif isinstance(value, np.ndarray):
        expect(value.dtype != object, f"{where} is an array of objects")
    else:
        plain = value is None or isinstance(value, bool | int | float | str | np.generic)
        expect(plain, f"{where} is a {type(value).__name__}")


def has_a_state_of_its_own(case: OptimizerCase) -> None:
    """A state that was handed out neither changes later nor is read back."""
    optimizer, other = case.make(1), case.make(1)
    _step(optimizer), _step(other)
    asked, state = optimizer.ask(), optimizer.state()
    kept = copy.deepcopy(state)
    _tell(optimizer, asked, _made_up(asked))
    for _ in range(3):
        _step(optimizer)
    expect(same(state, kept), "a state that was handed out has changed: copy arrays in _save")
    _spoil(other.state())
    whole = case.make(1)
    _step(whole)
    expect(same(_step(other), _step(whole)), "writing to a state changes the optimizer: copy arrays in _save")


def _spoil(state: Any) -> None:
    for value in state.values():
        if isinstance(value, Mapping):
            _spoil(value)
        elif isinstance(value, np.ndarray) and value.flags.writeable:
            value[...] = 7


def leaves_what_it_is_told(case: OptimizerCase) -> None:
    """Losses and gradients that are handed in are neither changed nor held."""
    optimizer, other = case.make(1), case.make(1)
    asked = optimizer.ask()
    other.ask()
    losses = _made_up(asked)[::-1].copy()
    slopes = _slopes(asked) if optimizer.wants_gradient else None
    kept = copy.deepcopy((losses, slopes))
    optimizer.tell(losses, slopes)
    expect(same((losses, slopes), kept), "tell() writes to the losses or gradients that it is given")
    losses[:] = 1e6
    if slopes is not None:
        slopes[:] = 1e6
    other.tell(*kept)
    for _ in range(4):
        expect(same(_step(optimizer), _step(other)), "it holds the losses or gradients that it was given: copy them")


def hands_out_copies(case: OptimizerCase) -> None:
    """Candidates that were handed out neither change later nor are read back."""
    optimizer, other = case.make(1), case.make(1)
    asked, spoilt = optimizer.ask(), other.ask()
    kept = copy.deepcopy(asked)
    spoilt[:] = [spoilt[0]] * len(spoilt) if case.texts else 1e3
    _tell(optimizer, kept, sphere(kept))
    _tell(other, kept, sphere(kept))
    for _ in range(4):
        expect(same(_step(optimizer), _step(other)), "it reads candidates back from the array that it handed out")
    expect(same(asked, kept), "candidates that were handed out have changed")


def bears_nan_and_infinity(case: OptimizerCase) -> None:
    """NaN and infinity count as worst: single ones do not stop it from improving, and a generation of them breaks nothing."""
    for bad in (np.nan, np.inf, -np.inf):
        optimizer = case.make(1)
        for turn in range(6):
            asked = optimizer.ask()
            losses = sphere(asked)
            losses[turn % len(losses)] = bad
            _tell(optimizer, asked, losses)
        for _ in range(3):
            asked = optimizer.ask()
            _tell(optimizer, asked, np.full(len(asked), bad))
        asked = optimizer.ask()
        if not case.texts:
            expect(bool(np.isfinite(asked).all()), f"after losses of {bad} a candidate holds NaN or infinity")
        _tell(optimizer, asked, sphere(asked))
        found, limit = _best(optimizer, case.generations), _begin(case) / case.improves**0.5
        expect(found < limit, f"after losses of {bad} it came to {found:.3g} only, expected below {limit:.3g}")


def is_driven_by_its_seed(case: OptimizerCase) -> None:
    """The same seed gives the same candidates, whatever numpy's own seed; another seed gives others."""
    one, other = case.make(4), case.make(4)
    kept = np.random.get_state()
    try:
        for turn in range(5):
            np.random.seed(turn)
            asked = _step(one)
            np.random.seed(turn + 100)
            expect(
                same(asked, _step(other)), "two optimizers of one seed differ: draw from default_rng(space.seed) only"
            )
    finally:
        np.random.set_state(kept)
    if case.seeded:
        expect(not same(case.make(1).ask(), case.make(2).ask()), "seeds 1 and 2 give the same candidates")


def refuses_a_state_of_another_size(case: OptimizerCase) -> None:
    """The state of an optimizer over another number of coordinates is refused by a ValueError, and changes nothing."""
    if case.other_size is None or case.texts:
        return
    optimizer, untouched = case.make(1), case.make(1)
    state = case.other_size(1).state()
    refuses(ValueError, lambda: optimizer.restore(state), "the state of another size")
    expect(same(optimizer.ask(), untouched.ask()), "a state that was refused has changed the optimizer")


def has_a_point_if_it_moves_one(case: OptimizerCase) -> None:
    """An estimator, and what follows gradients, has the point that it moves as `point` [d], and the latter its rate as `lr`."""
    optimizer: Any = case.make(1)
    if optimizer.wants_gradient:
        rate = getattr(optimizer, "lr", None)
        expect(isinstance(rate, float), f"expected the learning rate of the next step as `lr`, got {rate!r}")
    if not hasattr(optimizer, "point"):
        expect(
            not case.moves_a_point, f"{type(optimizer).__name__} has no `point`, so nobody knows where it has come to"
        )
        return
    for _ in range(3):
        _step(optimizer)
        point = np.asarray(optimizer.point)
        expect(point.shape == (case.d,), f"expected a point of shape ({case.d},), got {point.shape}")
        expect(bool(np.isfinite(point).all()), "the point holds NaN or infinity")
    kept = point.copy()
    point[...] = 7
    expect(same(np.asarray(optimizer.point), kept), "writing to `point` moves the optimizer: hand out a copy")


OPTIMIZER_PROMISES: tuple[Callable[[OptimizerCase], None], ...] = (
    proposes_as_many_as_it_says,
    improves_on_a_sphere,
    begins_where_it_is_told,
    asks_and_tells_in_turn,
    refuses_losses_that_do_not_fit,
    takes_plain_numbers,
    wants_gradients_or_ignores_them,
    goes_on_to_the_bit,
    rewinds,
    has_a_state_of_plain_data,
    has_a_state_of_its_own,
    leaves_what_it_is_told,
    hands_out_copies,
    bears_nan_and_infinity,
    is_driven_by_its_seed,
    refuses_a_state_of_another_size,
    has_a_point_if_it_moves_one,
)

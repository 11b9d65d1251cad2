"""What every objective promises: a loss for each candidate, from label logits and gold labels alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tandemtune.objectives.base import LossFunction, Objective
from tandemtune.testing.promises import expect, keep, refuses
from tandemtune.testing.tiny import tiny_task

CANDIDATES, ROWS, CLASSES = 5, 12, 2


@dataclass
class ObjectiveCase:
    """An objective to put to the test.

    Args:
        spec: the objective.
    """

    spec: Objective
    loss: LossFunction = field(init=False)
    logits: Tensor = field(init=False)
    gold: Tensor = field(init=False)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.loss = self.spec.loss(tiny_task())
        self.logits = torch.randn(CANDIDATES, ROWS, CLASSES, generator=generator)
        self.gold = torch.arange(ROWS) % CLASSES


def check_objective(spec: Objective) -> None:
    """Put an objective through everything that the evaluator relies on.

    Args:
        spec: the objective with its options.

    Raises:
        AssertionError: lists every promise that is not kept.
    """
    keep(f"the objective {type(spec).__name__}", OBJECTIVE_PROMISES, ObjectiveCase(spec))


def is_one_number_for_each_candidate(case: ObjectiveCase) -> None:
    """Logits [P, N, C] and labels [N] give finite losses [P], the same every time."""
    found = case.loss(case.logits, case.gold)
    expect(isinstance(found, Tensor), f"expected a tensor, got {type(found).__name__}")
    expect(found.shape == (CANDIDATES,), f"expected losses of shape ({CANDIDATES},), got {tuple(found.shape)}")
    expect(found.is_floating_point(), f"expected floating-point losses, got {found.dtype}")
    expect(bool(found.isfinite().all()), f"the losses of ordinary logits hold NaN or infinity: {found.tolist()}")
    expect(torch.equal(found, case.loss(case.logits, case.gold)), "a second call gives other losses")


def judges_each_candidate_by_itself(case: ObjectiveCase) -> None:
    """A candidate's loss does not depend on the others beside it."""
    together = case.loss(case.logits, case.gold)
    alone = torch.cat([case.loss(case.logits[i : i + 1], case.gold) for i in range(CANDIDATES)])
    apart = float((together - alone).abs().max())
    expect(apart < 1e-5, f"losses of candidates together and alone are {apart:.3g} apart")


def is_lower_for_better_answers(case: ObjectiveCase) -> None:
    """Lower is better: right answers beat half-right ones, and these beat wrong ones."""
    right = torch.nn.functional.one_hot(case.gold, CLASSES).float() * 8 - 4
    half = torch.where(torch.arange(ROWS).view(-1, 1) % 4 < 2, right, -right)
    good, middle, bad = case.loss(torch.stack([right, half, -right]), case.gold).tolist()
    expect(
        good < middle < bad,
        f"right, half-right and wrong answers: {good:.4g}, {middle:.4g}, {bad:.4g}; expected to rise",
    )


def does_not_mind_the_order_of_rows(case: ObjectiveCase) -> None:
    """The order of the rows does not matter."""
    turned = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))
    apart = float(
        (case.loss(case.logits, case.gold) - case.loss(case.logits[:, turned], case.gold[turned])).abs().max()
    )
    expect(apart < 1e-5, f"the same rows in another order give a loss that is {apart:.3g} away")


def tells_of_broken_logits(case: ObjectiveCase) -> None:
    """NaN among a candidate's logits gives that candidate NaN or infinity, and no other."""
    broken = case.logits.clone()
    broken[2, 3] = torch.nan
    whole, found = case.loss(case.logits, case.gold), case.loss(broken, case.gold)
    expect(not bool(found[2].isfinite()), f"a candidate with NaN among its logits has the loss {float(found[2]):.4g}")
    others = [i for i in range(CANDIDATES) if i != 2]
    expect(torch.allclose(found[others], whole[others]), "NaN in one candidate changes the losses of others")


def leaves_what_it_is_given(case: ObjectiveCase) -> None:
    """Logits and labels are not written to."""
    logits, gold = case.logits.clone(), case.gold.clone()
    case.loss(logits, gold)
    expect(torch.equal(logits, case.logits) and torch.equal(gold, case.gold), "it writes to the logits or the labels")


def has_a_slope_if_it_says_so(case: ObjectiveCase) -> None:
    """With `differentiable`, the loss is a mean over rows and its gradient is its slope."""
    if not case.spec.differentiable:
        return
    whole = case.loss(case.logits, case.gold)
    parts = [case.loss(case.logits[:, rows], case.gold[rows]) for rows in (slice(0, 4), slice(4, ROWS))]
    apart = float((whole - (parts[0] * 4 + parts[1] * (ROWS - 4)) / ROWS).abs().max())
    expect(
        apart < 1e-5,
        f"the loss is no mean over rows ({apart:.3g} apart), so gradients by groups of rows would be wrong",
    )
    leaf = case.logits.double().requires_grad_()
    case.loss(leaf, case.gold).sum().backward()  # type: ignore[no-untyped-call]
    expect(leaf.grad is not None and float(leaf.grad.norm()) > 0, "no gradient reaches the logits")
    if leaf.grad is None:
        return
    size, step = float(leaf.grad.norm()), 1e-5
    up = leaf.grad / size
    with torch.no_grad():
        ends = [float(case.loss(leaf + s * step * up, case.gold).sum()) for s in (1, -1)]
    measured = (ends[0] - ends[1]) / (2 * step)
    expect(
        abs(measured - size) < 1e-3 * size, f"the loss rises by {measured:.5g} along a gradient of length {size:.5g}"
    )


def is_an_option_of_a_recipe(case: ObjectiveCase) -> None:
    """It is frozen, and can be made again from what a recipe keeps of it."""
    kept = case.spec.model_dump(mode="json")
    expect(type(case.spec).model_validate(kept) == case.spec, f"{kept} makes another objective")
    for name in type(case.spec).model_fields:
        refuses(Exception, lambda name=name: setattr(case.spec, name, None), f"setting {name}")  # type: ignore[misc]


OBJECTIVE_PROMISES: tuple[Callable[[ObjectiveCase], None], ...] = (
    is_one_number_for_each_candidate,
    judges_each_candidate_by_itself,
    is_lower_for_better_answers,
    does_not_mind_the_order_of_rows,
    tells_of_broken_logits,
    leaves_what_it_is_given,
    has_a_slope_if_it_says_so,
    is_an_option_of_a_recipe,
)

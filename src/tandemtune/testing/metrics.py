"""What every metric promises: one number of predicted and true labels, higher for better ones."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tandemtune.testing.promises import expect, keep

Function = Callable[[list[str], list[str]], float]


@dataclass(frozen=True)
class MetricCase:
    """A metric to put to the test.

    Args:
        function: (predictions, gold) -> number.
        labels: labels that it may be given.
        lower: no score is below it.
        upper: no score is above it.
    """

    function: Function
    labels: tuple[str, ...]
    lower: float = 0.0
    upper: float = 1.0

    def rows(self, seed: int = 0) -> tuple[list[str], list[str]]:
        """Random predictions and true labels, all labels among the latter."""
        source = random.Random(seed)
        gold = [*self.labels, *source.choices(self.labels, k=40)]
        return source.choices(self.labels, k=len(gold)), gold


def check_metric(
    function: Function,
    *,
    labels: Sequence[str] = ("negative", "positive"),
    lower: float = 0.0,
    upper: float = 1.0,
) -> None:
    """Put a metric through everything that runs and reports rely on.

    Args:
        function: takes the predicted and the true labels, two lists of one length, and gives a number; higher is better.
        labels: labels that it may be given.
        lower: no score is below it.
        upper: no score is above it.

    Raises:
        AssertionError: lists every promise that is not kept.
    """
    name = getattr(function, "__name__", type(function).__name__)
    keep(f"the metric {name}", METRIC_PROMISES, MetricCase(function, tuple(labels), lower, upper))


def is_a_number_within_its_bounds(case: MetricCase) -> None:
    """Any labels give a finite number within the bounds."""
    one = case.labels[0]
    several = [case.rows(seed) for seed in range(20)]
    for predictions, gold in [*several, ([one], [one]), ([one] * 3, [case.labels[-1]] * 3)]:
        found = case.function(list(predictions), list(gold))
        number = float(found)
        expect(
            math.isfinite(number) and case.lower <= number <= case.upper,
            f"{found!r} for predictions {predictions[:4]}... and gold {gold[:4]}...: expected {case.lower:g} to {case.upper:g}",
        )


def is_highest_for_right_answers(case: MetricCase) -> None:
    """No predictions beat the right ones, and wrong ones score lower."""
    for seed in range(20):
        predictions, gold = case.rows(seed)
        best, found = case.function(list(gold), list(gold)), case.function(list(predictions), list(gold))
        expect(found <= best, f"random predictions score {found:.4g}, the right ones {best:.4g}: is lower better?")
    turned = [case.labels[(case.labels.index(label) + 1) % len(case.labels)] for label in gold]
    wrong = case.function(turned, list(gold))
    expect(wrong < best, f"predictions that are all wrong score {wrong:.4g}, the right ones {best:.4g}")


def is_the_same_every_time(case: MetricCase) -> None:
    """The same labels give the same number, whatever was scored in between."""
    predictions, gold = case.rows(3)
    first = case.function(list(predictions), list(gold))
    case.function(*case.rows(4))
    again = case.function(list(predictions), list(gold))
    expect(first == again, f"the same labels give {first!r} and then {again!r}")


def leaves_what_it_is_given(case: MetricCase) -> None:
    """The lists that it is given are not changed."""
    predictions, gold = case.rows(5)
    kept = list(predictions), list(gold)
    case.function(predictions, gold)
    expect((predictions, gold) == kept, "it changes the lists that it is given")


def does_not_mind_the_order_of_rows(case: MetricCase) -> None:
    """The order of the rows does not matter."""
    for seed in range(5):
        predictions, gold = case.rows(seed)
        whole = case.function(list(predictions), list(gold))
        turned = case.function(predictions[::-1], gold[::-1])
        expect(abs(whole - turned) < 1e-9, f"the same rows backwards score {turned:.6g} in place of {whole:.6g}")


METRIC_PROMISES: tuple[Callable[[MetricCase], None], ...] = (
    is_a_number_within_its_bounds,
    is_highest_for_right_answers,
    is_the_same_every_time,
    leaves_what_it_is_given,
    does_not_mind_the_order_of_rows,
)

"""Where a search tells its incumbent, an optimizer that keeps its best point follows it and never scores it again."""

from __future__ import annotations

import numpy as np
import pytest

from tandemtune.optimizers.base import Incumbent
from tandemtune.optimizers.fireworks import FireworksSearch
from tandemtune.optimizers.random_search import RandomSampling
from tandemtune.testing.promises import same

D = 40  # so many that a spark of dynFWA always moves in one of them


def fireworks(variant, count):
    settings = {"variant": variant, "fireworks": count, "amplitude": 1.0, "g_max": 40, "remeasure": True, "told": True}
    return lambda seed: FireworksSearch(D, 24, seed, start=np.zeros(D), **settings)


MAKE = {
    "random": lambda seed: RandomSampling(D, 12, seed, sigma=0.5, told=True),
    "lotfwa-one": fireworks("lotfwa", 1),
    "lotfwa": fireworks("lotfwa", 3),
    "gfwa": fireworks("gfwa", 1),
    "bbfwa": fireworks("bbfwa", 2),
    "dynfwa": fireworks("dynfwa", 3),
}


class Search:
    """A search as the loop runs it, of a function that changes from turn to turn.

    Args:
        optimizer: proposes.
        choose: (losses, the incumbent's) -> the candidate that takes its place, or None.
    """

    def __init__(self, optimizer, choose):
        self.optimizer, self.choose = optimizer, choose
        self.incumbent = np.zeros(D)

    def turn(self, number, steps=0.1):
        def function(x):
            """In steps, so that losses are often equal."""
            centre = 1.0 + 0.3 * np.sin(number + np.arange(D))
            return np.floor(np.sum((x - centre) ** 2, axis=-1) / steps) * steps

        asked = self.optimizer.ask()
        losses, there = function(asked), float(function(self.incumbent))
        taken = self.choose(losses, there)
        self.optimizer.tell(losses, incumbent=Incumbent(there, taken))
        if taken is not None:
            self.incumbent = asked[taken].copy()
        return asked


def lowest(losses, there):
    best = int(np.argmin(losses))
    return best if losses[best] < there else None


def on_other_rows(losses, there):
    """The second best is better on all rows, now and then, and nothing is in all other cases."""
    return int(np.argsort(losses, kind="stable")[1]) if round(there * 10) % 3 else None


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("choose", [lowest, on_other_rows])
def test_the_incumbent_is_no_candidate(name, choose):
    search = Search(MAKE[name](3), choose)
    for number in range(30):
        before = search.incumbent
        asked = search.turn(number)
        assert not (asked == before).all(axis=1).any()


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("choose", [lowest, on_other_rows])
def test_it_goes_on_from_the_search_s_incumbent(name, choose):
    """If it were lost, it would be a candidate again, or none around it."""
    search = Search(MAKE[name](4), choose)
    moved = 0
    for number in range(30):
        before = search.incumbent
        search.turn(number)
        moved += not np.array_equal(before, search.incumbent)
        best, standing = search.optimizer.best[0], search.incumbent
        kept = [best] if name == "random" else search.optimizer.state()["arrays"]["_x"]
        assert any(np.array_equal(x, standing) for x in kept)
    assert moved > 3


@pytest.mark.parametrize("name", MAKE)
def test_it_goes_on_to_the_bit(name):
    whole, part = Search(MAKE[name](5), lowest), Search(MAKE[name](5), lowest)
    for number in range(12):
        assert same(whole.turn(number), part.turn(number))
        if number == 5:
            fresh = MAKE[name](99)
            fresh.restore(part.optimizer.state())
            part.optimizer = fresh


@pytest.mark.parametrize("name", MAKE)
def test_a_missing_incumbent_is_said(name):
    optimizer = MAKE[name](1)
    losses = np.arange(float(len(optimizer.ask())))
    with pytest.raises(ValueError, match="incumbent"):
        optimizer.tell(losses)
    optimizer.tell(losses, incumbent=Incumbent(1.0))

"""What `make test` takes of a grid of cases."""

from __future__ import annotations

import types
from itertools import product

import pytest

from grids import covering, sparse, thin


@pytest.mark.parametrize("axes", [("abcde", "xy"), ("abc", "xyz", "uv"), ("a", "x")], ids=str)
def test_each_value_is_met_and_none_much_more_often_than_another(axes):
    cases = [{*case} for case in product(*axes)]
    kept = [cases[place] for place in covering(cases)]
    assert len(kept) == max(map(len, axes))
    for axis in axes:
        counts = [sum(value in case for case in kept) for value in axis]
        assert min(counts) >= 1 and max(counts) - min(counts) <= 1


def test_all_of_one_parameter_are_kept():
    assert covering([{"a"}, {"b"}, {"c"}]) == {0, 1, 2}


def test_values_that_are_not_kept_are_slow():
    first, second, third = sparse(["a", "b", "c"], {"a", "c"})
    assert (first, third) == ("a", "c") and second.values == ("b",) and second.marks[0].name == "slow"
    (pair,) = sparse([("a", 1)], ())
    assert pair.values == ("a", 1)


class Case:
    """What `thin` asks of a test."""

    callspec = None

    def __init__(self, function, **marks):
        self.function, self.marks, self.added = function, marks, []

    def get_closest_marker(self, name):
        return types.SimpleNamespace(args=self.marks[name]) if name in self.marks else None

    def add_marker(self, name):
        self.added.append(name)


def test_a_few_cases_are_spread_evenly():
    cases = [Case("f", few=(3,)) for _ in range(9)] + [Case("g", few=(5,)) for _ in range(2)]
    thin(cases)
    assert [place for place, case in enumerate(cases) if case.added != ["slow"]] == [0, 3, 6, 9, 10]

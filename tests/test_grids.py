"""What `make test` takes of a grid of cases."""

from __future__ import annotations

from itertools import product

import pytest

from grids import covering, sparse


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

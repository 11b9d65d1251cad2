"""Who has the next turn."""

from __future__ import annotations

from collections import Counter

from tandemtune.search.schedule import Bandit


def played(bandit, gains, turns):
    chosen = []
    for _ in range(turns):
        turn = bandit.choose()
        assert bandit.choose() == turn  # until a gain is told
        chosen.append(turn)
        bandit.reward(turn, gains[turn])
    return chosen


def test_every_turn_comes_first_once():
    assert sorted(played(Bandit([1, 2, 3, 4]), [0, 0, 0, 0], 4)) == [0, 1, 2, 3]


def test_what_gains_more_comes_more_often():
    counts = Counter(played(Bandit([1, 1, 1]), [0.1, 1.0, 0.1], 100))
    assert counts[1] > 40 > counts[0] > 0 < counts[2]


def test_what_costs_less_comes_more_often():
    counts = Counter(played(Bandit([4, 1]), [0.5, 0.5], 60))
    assert counts[1] > 2 * counts[0] > 0


def test_it_changes_its_mind():
    bandit = Bandit([1, 1])
    played(bandit, [1.0, 0.0], 40)
    later = Counter(played(bandit, [0.0, 1.0], 80)[40:])
    assert later[1] > later[0]


def test_without_gains_and_without_numbers_turns_are_taken_in_turn():
    assert set(Counter(played(Bandit([1, 1, 1]), [float("nan"), -1.0, 0.0], 30)).values()) == {10}


def test_it_goes_on_where_it_was():
    one, other = Bandit([1, 2, 3]), Bandit([1, 2, 3])
    played(one, [0.3, 0.9, 0.2], 17)
    other.restore(one.state())
    assert played(one, [0.3, 0.9, 0.2], 30) == played(other, [0.3, 0.9, 0.2], 30)

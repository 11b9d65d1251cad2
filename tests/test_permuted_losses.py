"""The control whose mentor is told permuted losses."""

from __future__ import annotations

import torch

import permuted_losses
from tandemtune.proposers.base import Draft, Proposal, TriedWords
from tandemtune.tunables.vocabulary import Words


class Listening:
    def __init__(self):
        self.told, self.looked = [], []

    def look(self, point):
        self.looked.append(point)

    def propose(self, round, tried, known):
        self.told.append((round, list(tried), list(known)))
        return Proposal((Draft("words", (1,)),))

    def vector(self, draft, incumbent):
        return incumbent + len(draft.text)


def tried(count):
    words = [Words((n,), f"prompt {n}", 0.0) for n in range(count)]
    return [TriedWords(one, float(n), n / 10, n + 0.5) for n, one in enumerate(words)][::-1]


def test_losses_change_hands_and_nothing_else_does():
    mentor = Listening()
    control = permuted_losses.Permuted(mentor, seed=3)
    shown = tried(8)
    for round in (1, 1, 2):
        assert control.propose(round, shown, shown[:2]).drafts == (Draft("words", (1,)),)
    once, again, other = (told for _, told, _ in mentor.told)
    assert once == again != other and mentor.told[0][2] == shown[:2]
    assert sorted(one.loss for one in once) == sorted(one.loss for one in shown)
    assert {one.words.text for one in once} == {one.words.text for one in shown}
    assert {(one.loss, one.score, one.trained) for one in once} == {(n, n / 10, n + 0.5) for n in range(8)}
    assert [one.loss for one in once] == sorted((one.loss for one in once), reverse=True)
    assert [one.words.text for one in once] != [one.words.text for one in shown]


def test_all_else_is_the_mentors():
    mentor = Listening()
    control = permuted_losses.Permuted(mentor, seed=3)
    control.look({0: torch.zeros(2)})
    assert len(mentor.looked) == 1
    assert torch.equal(control.vector(Draft("abc", (1,)), torch.zeros(2)), torch.full((2,), 3.0))

"""Messages to workers: nothing is lost, and little is sent."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from tandemtune.evaluators.candidates import with_incumbent
from tandemtune.executors.base import shards
from tandemtune.executors.messages import Catalogue, Memory, Request, Told
from tandemtune.search.schedule import Phase
from tandemtune.subspace import Matrices, RandomProjection

DIM = 4096


@pytest.fixture
def phase():
    origin = {block: torch.randn(DIM) for block in range(3)}
    projections = {block: RandomProjection(((64, 32), (32, 64)), 20, (0.1, 0.2), (7, block)) for block in range(3)}
    return Phase("x", ((0,), (1,), (2,)), origin, projections, lambda blocks: None, 8, shard=4)  # type: ignore[arg-type, return-value]


def sent(catalogue, told, memory, request):
    """What arrives, and the bytes that it took."""
    message = told.message(request, catalogue.of(request))
    return memory.request(message), len(message)


def same(one, other):
    return set(one) == set(other) and all(
        torch.equal(one[block].view(torch.int32), other[block].view(torch.int32)) for block in one
    )


def test_candidates_in_a_subspace_arrive_to_the_bit_as_short_vectors(phase):
    """Shard by shard, the incumbent last, whatever was accepted before."""
    catalogue, told, memory = Catalogue(), Told(), Memory()
    incumbent, sizes = dict(phase.origin), []
    for step in range(6):
        block = step % 3
        z = np.random.default_rng(step).standard_normal((9, 20))
        candidates = with_incumbent(phase.up((block,), z), incumbent)
        for part in shards(candidates, 4):
            arrived, size = sent(catalogue, told, memory, Request(incumbent, part, step))
            assert same(arrived.point, incumbent) and same(arrived.candidates, part) and arrived.generation == step
            sizes.append(size)
        incumbent = {**incumbent, block: candidates[block][step].clone()}
    assert sizes[0] > 3 * 4 * DIM, "the whole point, once"
    assert max(sizes[9:][1::3]) < 1000, "then 20 numbers a candidate"


def test_points_are_sent_again_where_they_have_changed_only(phase):
    catalogue, told, memory = Catalogue(), Told(), Memory()
    part = phase.up((0,), np.ones((2, 20)))
    first = sent(catalogue, told, memory, Request(phase.origin, part, None))[1]
    changed = {**phase.origin, 1: phase.origin[1] + 1.0}
    arrived, second = sent(catalogue, told, memory, Request(changed, part, None))
    assert same(arrived.point, changed)
    assert 4 * DIM < second < 4 * DIM + 1500 and first > 4 * 4 * DIM
    assert sent(catalogue, told, memory, Request(changed, part, None))[1] < 1500


def test_a_new_worker_is_told_everything(phase):
    catalogue, told = Catalogue(), Told()
    request = Request(phase.origin, phase.up((2,), np.ones((2, 20))), None)
    sent(catalogue, told, Memory(), request)
    arrived, _ = sent(catalogue, Told(), Memory(), request)
    assert same(arrived.point, request.point) and same(arrived.candidates, request.candidates)


def test_vectors_that_differ_from_the_incumbent_in_few_places_are_sent_as_these():
    point = {0: torch.randn(20_000), 1: torch.tensor([0.0, -0.0, float("nan"), 1.0])}
    candidates = {0: point[0].repeat(3, 1), 1: point[1].repeat(3, 1)}
    candidates[0][1, 17], candidates[0][2, 19_999], candidates[0][0, 3] = 5.0, float("nan"), float("-inf")
    candidates[1][0, 0], candidates[1][1, 1] = -0.0, 0.0  # another sign of nothing
    catalogue, told, memory = Catalogue(), Told(), Memory()
    arrived, _ = sent(catalogue, told, memory, Request(point, candidates, 3))
    assert same(arrived.candidates, candidates) and same(arrived.point, point)
    again = {0: point[0].repeat(3, 1)}
    again[0][:, 5] = torch.arange(3.0)
    assert sent(catalogue, told, memory, Request({0: point[0]}, again, 4))[1] < 600


def test_vectors_that_differ_everywhere_are_sent_whole():
    point, candidates = {0: torch.zeros(500)}, {0: torch.randn(4, 500)}
    arrived, size = sent(Catalogue(), Told(), Memory(), Request(point, candidates, None))
    assert same(arrived.candidates, candidates) and size < 4 * 500 * 4 + 500 * 4 + 1000


def test_a_point_that_was_changed_in_place_is_noticed():
    point = {0: torch.zeros(8)}
    catalogue, told, memory = Catalogue(), Told(), Memory()
    sent(catalogue, told, memory, Request(point, {0: torch.ones(1, 8)}, None))
    point[0] += 2.0
    assert same(sent(catalogue, told, memory, Request(point, {0: torch.ones(1, 8)}, None))[0].point, point)


def test_what_an_accelerator_keeps_is_not_sent():
    """Matrices that lie there are drawn anew in another process; whether some are kept is no change of a subspace."""
    kept = Matrices(torch.device("cpu"), 10**9)
    one, other = (RandomProjection(((64, 32),), 20, (0.1,), (7,), made) for made in (kept, Matrices(kept.device, 1)))
    before = len(pickle.dumps(one))
    one.up(np.ones((1, 20)))
    assert len(kept._kept) == 1 and one == other
    assert len(pickle.dumps(one)) == before < 1000

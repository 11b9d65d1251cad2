"""Who scores which shard: whatever happens to workers, a generation ends with the same losses."""

from __future__ import annotations

import math

import pytest

from executors.stubs import expected, losses, pool_of, requests
from tandemtune.errors import RunError
from virtual_cluster import Behaviour


@pytest.mark.parametrize("workers", [1, 2, 7, 40])
def test_the_number_of_workers_does_not_matter(workers):
    pool = pool_of(workers)
    pool.begin(10)
    for generation in (1, 2):
        wanted = requests(11, generation)
        assert losses(pool.score(wanted)) == expected(wanted)
    assert (pool.ledger.shards, pool.ledger.again, pool.ledger.here, pool.ledger.lost) == (22, 0, 0, 0)
    pool.close()
    assert len(pool.cluster.ended) == workers


def test_work_is_shared_out_evenly():
    pool = pool_of(4)
    pool.begin(10)
    begin = pool.cluster.now()
    pool.score(requests(40))
    assert pool.cluster.now() - begin == pytest.approx(10 * 0.1, rel=0.15)


@pytest.mark.parametrize("dies", [0.5, 1.0, 1.05, 1.15, 1.3])
def test_shards_of_a_worker_that_dies_are_scored_again(dies):
    """While it loads its model, when it is ready, in its first, second and third shard."""
    told = []
    pool = pool_of(2, Behaviour(dies=dies), told=told)
    pool.begin(10)
    wanted = requests(12)
    assert losses(pool.score(wanted)) == expected(wanted)
    assert pool.ledger.lost == 1 and pool.ledger.here == 0
    assert len(told) == 1 and "is gone" in told[0]
    pool.score(requests(12))
    assert pool.ready == 2, "another one was begun in its place"


def test_where_all_die_this_process_goes_on_until_others_are_ready():
    pool = pool_of(2, Behaviour(dies=1.05), Behaviour(dies=1.15))
    pool.begin(10)
    wanted = requests(30)
    assert losses(pool.score(wanted)) == expected(wanted)
    assert pool.ledger.lost == 2 and pool.ledger.here > 0


def test_a_worker_that_hangs_is_helped_and_given_nothing_more():
    pool = pool_of(3, Behaviour(hangs=2))
    pool.begin(10)
    for generation in range(4):
        wanted = requests(9, generation)
        assert losses(pool.score(wanted)) == expected(wanted)
    assert pool.ledger.again >= 1 and pool.ledger.here == 0


def test_where_the_only_worker_hangs_this_process_scores():
    pool = pool_of(1, Behaviour(hangs=3))
    pool.begin(10)
    wanted = requests(8)
    assert losses(pool.score(wanted)) == expected(wanted)
    assert pool.ledger.here == 5


@pytest.mark.parametrize("workers", [1, 3])
def test_where_all_hang_in_their_first_shard_this_process_scores(workers):
    """Nobody knows yet what a shard takes."""
    pool = pool_of(workers, *[Behaviour(hangs=0)] * workers)
    pool.begin(10)
    wanted = requests(8)
    assert losses(pool.score(wanted)) == expected(wanted)
    assert pool.ledger.here == 8 and pool.cluster.now() < 100


def test_where_a_helper_hangs_too_another_one_helps():
    pool = pool_of(3, Behaviour(hangs=3), Behaviour(hangs=7))
    pool.begin(10)
    for generation in range(3):
        wanted = requests(9, generation)
        assert losses(pool.score(wanted)) == expected(wanted)
    assert pool.ledger.here == 0 and pool.cluster.now() < 100


def test_a_slow_worker_does_not_hold_up_the_others():
    """Its last shard would take 50 s; a second copy takes as long as a shard usually does."""
    pool = pool_of(4, Behaviour(slow=50.0), seconds=1.0)
    pool.begin(10)
    begin = pool.cluster.now()
    wanted = requests(12)
    assert losses(pool.score(wanted)) == expected(wanted)
    assert pool.cluster.now() - begin < 10


def test_workers_that_are_refused_are_left_out():
    told = []
    pool = pool_of(3, Behaviour(refused="other weights"), told=told)
    pool.begin(10)
    wanted = requests(6)
    assert losses(pool.score(wanted)) == expected(wanted)
    assert pool.ready == 2 and told == ["a worker is left out: other weights"]


def test_where_all_are_refused_a_run_does_not_begin():
    pool = pool_of(2, *[Behaviour(refused="other weights")] * 2)
    with pytest.raises(RunError, match="no worker can work for this run: other weights"):
        pool.begin(10)


def test_workers_that_never_get_ready():
    pool = pool_of(2, *[Behaviour(ready=math.inf)] * 2)
    with pytest.raises(RunError, match="no worker was ready after 30 s"):
        pool.begin(30)


def test_workers_that_die_again_and_again():
    pool = pool_of(2, *[Behaviour(dies=0.5)] * 100)
    with pytest.raises(RunError, match="die again and again, at last: its machine is gone"):
        pool.begin(1000)

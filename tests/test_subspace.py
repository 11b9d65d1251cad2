"""Random subspaces: each scale rule does what it says, measured."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tandemtune.subspace import LayerStatistics, Matrices, RandomProjection, scales

N_IN, N_OUT, N_KEY = 48, 40, 24
STATISTICS = LayerStatistics(hidden_sd=1.7, x_rms={"q": 0.3, "k": 0.3}, y_sd={"q": 2.5, "k": 0.4})


def shapes(rank):
    return ((N_IN, rank), (rank, N_OUT), (N_IN, rank), (rank, N_KEY))


def projection(rule, *, d=40, rank=2, alpha=0.7, sigma=1.3, seed=(13, 0)):
    found = scales(rule, STATISTICS, ("q", "k"), shapes(rank), d=d, alpha=alpha, sigma=sigma)
    return RandomProjection(shapes(rank), d, tuple(found), seed)


def candidates(d, sigma, count=2000, seed=0):
    return np.random.default_rng(seed).normal(0.0, sigma, (count, d))


def factors(parameters, rank):
    pieces = torch.split(parameters, [math.prod(shape) for shape in shapes(rank)], dim=1)
    return [piece.view(len(parameters), *shape) for piece, shape in zip(pieces, shapes(rank), strict=True)]


def many_factors(rule, d, sigma, rank, alpha):
    """Each factor under many matrices and many z, for the matrices are random too."""
    ups = [
        projection(rule, d=d, rank=rank, alpha=alpha, sigma=sigma, seed=(seed,)).up(candidates(d, sigma, 200, seed))
        for seed in range(20)
    ]
    return factors(torch.cat(ups), rank)


SETTINGS = [(20, 1.0, 1), (40, 0.5, 2), (200, 2.0, 4)]


@pytest.mark.parametrize("d, sigma, rank", SETTINGS)
@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_hidden_state_rule_gives_every_entry_the_layers_spread(d, sigma, rank, alpha):
    for factor in many_factors("hidden_state", d, sigma, rank, alpha):
        assert rms(factor) == pytest.approx(alpha * STATISTICS.hidden_sd, rel=0.04)


@pytest.mark.parametrize("d, sigma, rank", SETTINGS)
def test_normal_rule_gives_every_entry_the_steps_spread(d, sigma, rank):
    for factor in many_factors("normal", d, sigma, rank, 0.7):
        assert rms(factor) == pytest.approx(0.7 * sigma, rel=0.04)


@pytest.mark.parametrize("d, sigma, rank", SETTINGS)
@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_activation_rule_gives_the_added_term_the_outputs_spread(d, sigma, rank, alpha):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, N_IN, generator=generator) * 2.0 + 1.0  # any input: its mean square is what counts
    x *= STATISTICS.x_rms["q"] / rms(x)
    terms, inner = {"q": [], "k": []}, []
    for seed in range(20):  # the matrices are random too
        made = projection("activation", d=d, rank=rank, alpha=alpha, sigma=sigma, seed=(seed,))
        qa, qb, ka, kb = factors(made.up(candidates(d, sigma, 100, seed)), rank)
        inner += [x @ qa, x @ ka]
        terms["q"].append(x @ qa @ qb)
        terms["k"].append(x @ ka @ kb)
    assert rms(torch.cat([piece.flatten() for piece in inner])) == pytest.approx(1.0, rel=0.04)
    for name, y_sd in STATISTICS.y_sd.items():
        assert rms(torch.cat(terms[name])) == pytest.approx(alpha * y_sd, rel=0.06)


def rms(values):
    return float(values.double().square().mean().sqrt())


@pytest.mark.parametrize("rule", ["hidden_state", "activation"])
def test_step_size_cancels(rule):
    """The optimizer's sigma decides its own steps, not the size of what they do."""
    small, large = projection(rule, sigma=0.1), projection(rule, sigma=10.0)
    z = candidates(40, 1.0, 3)
    assert torch.allclose(small.up(z * 0.1), large.up(z * 10.0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rule", ["hidden_state", "activation", "normal"])
def test_zero_is_zero(rule):
    assert not projection(rule).up(np.zeros((2, 40))).any()


def test_shape_and_type():
    made = projection("activation")
    result = made.up(candidates(40, 1.0, 5))
    assert result.shape == (5, sum(math.prod(shape) for shape in shapes(2)))
    assert result.dtype == torch.float32


def test_linear():
    made = projection("activation")
    one, other = candidates(40, 1.0, 4, 1), candidates(40, 1.0, 4, 2)
    summed = made.up(2.0 * one - 3.0 * other)
    assert torch.allclose(summed, 2.0 * made.up(one) - 3.0 * made.up(other), rtol=1e-4, atol=1e-4)


def test_each_part_of_z_belongs_to_one_factor():
    made = projection("activation")
    for part in range(4):
        z = np.zeros((1, 40))
        z[:, part * 10 : part * 10 + 10] = 1.0
        moved = [bool(factor.any()) for factor in factors(made.up(z), 2)]
        assert moved == [index == part for index in range(4)]


def test_same_seed_same_matrix_whatever_ran_before():
    z = candidates(40, 1.0, 3)
    first = projection("activation").up(z)
    np.random.seed(1)
    torch.manual_seed(1)
    assert torch.equal(projection("activation").up(z), first)


def test_blocks_runs_and_factors_differ():
    z = np.ones((1, 40))
    results = [projection("normal", seed=seed).up(z) for seed in [(13, 0), (13, 1), (21, 0), (0, 13)]]
    for index, one in enumerate(results):
        for other in results[index + 1 :]:
            assert abs(float(np.corrcoef(one[0], other[0])[0, 1])) < 0.2
    qa, _, ka, _ = factors(results[0], 2)
    assert not torch.equal(qa, ka)


def test_a_candidate_does_not_depend_on_its_neighbours():
    made = projection("activation")
    z = candidates(40, 1.0, 5)
    alone = torch.cat([made.up(z[i : i + 1]) for i in range(5)])
    assert torch.allclose(made.up(z), alone, rtol=1e-5, atol=1e-6)


def test_scales_by_hand():
    found = scales("activation", STATISTICS, ("q", "k"), shapes(2), d=40, alpha=0.5, sigma=2.0)
    n = math.sqrt(10)
    assert found == pytest.approx(
        [
            1 / (math.sqrt(N_IN) * 0.3 * n * 2.0),
            0.5 * 2.5 / (math.sqrt(2) * n * 2.0),
            1 / (math.sqrt(N_IN) * 0.3 * n * 2.0),
            0.5 * 0.4 / (math.sqrt(2) * n * 2.0),
        ]
    )
    assert scales("hidden_state", STATISTICS, ("q", "k"), shapes(2), d=40, alpha=0.5, sigma=2.0) == pytest.approx(
        [0.5 * 1.7 / (n * 2.0)] * 4
    )
    assert scales("normal", STATISTICS, ("q", "k"), shapes(2), d=40, alpha=0.5, sigma=2.0) == pytest.approx(
        [0.5 / n] * 4
    )


def test_matrices_that_are_kept_give_the_same_parameters():
    """What an accelerator does, here on the processor: with room for all matrices, for some of them, and for none."""
    plain, z = projection("activation"), candidates(40, 1.3, 7)
    expected = plain.up(z)
    for room, kept_there in ((1 << 20, 4), (4 * 10 * N_IN * 2, 1), (0, 0)):
        kept = Matrices(torch.device("cpu"), room)
        other = replace(plain, kept=kept)
        for _ in range(2):
            torch.testing.assert_close(other.up(z), expected, rtol=1e-5, atol=1e-6)
        assert len(kept._kept) == kept_there

"""FZOO and MeZO-GV by hand, in a few dimensions; and the directions of LOZO."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tandemtune.optimizers.fzoo import FZOOSearch
from tandemtune.optimizers.guided import GuidedSPSA
from tandemtune.tunables.noise import Noise

SLOPE = np.array([1.0, -2.0, 0.5, 3.0, 0.0])
START = np.arange(5.0)


def test_fzoo_steps_along_one_sided_differences_over_their_spread():
    optimizer, point = FZOOSearch(5, 7, 3, lr=0.01, epsilon=0.02, start=START), START
    for step in range(3):
        u, asked = optimizer.directions(step), optimizer.ask()
        assert set(np.unique(u)) == {-1.0, 1.0} and u.shape == (6, 5)
        np.testing.assert_allclose(asked, np.concatenate([[point], point + 0.02 * u]), atol=1e-15)
        losses = 7.0 + asked @ SLOPE
        optimizer.tell(losses)
        g = ((losses[1:] - losses[0])[:, None] * u).mean(axis=0) / 0.02
        point = point - 0.01 * g / losses[1:].std(ddof=1)
        np.testing.assert_allclose(optimizer.point, point, atol=1e-10)


def test_fzoo_moves_equally_far_however_steep_the_function():
    moved = []
    for steepness in (1e-3, 1.0, 1e3):
        optimizer = FZOOSearch(5, 9, 3, lr=0.01, epsilon=0.02)
        optimizer.tell(steepness * optimizer.ask() @ SLOPE)
        moved.append(optimizer.point)
    np.testing.assert_allclose(moved[0], moved[1], rtol=1e-9)
    np.testing.assert_allclose(moved[2], moved[1], rtol=1e-9)


@pytest.mark.parametrize("losses", [np.ones(5), [np.nan, 1, 2, 3, 4], [1, np.nan, np.inf, 3, np.nan]])
def test_fzoo_stays_where_nothing_can_be_said(losses):
    optimizer = FZOOSearch(5, 5, 3, lr=0.01, start=START)
    first = optimizer.ask()
    optimizer.tell(losses)
    assert (optimizer.point == START).all()
    assert not (optimizer.ask()[1:] == first[1:]).all()


def test_fzoo_leaves_out_what_has_no_loss():
    optimizer = FZOOSearch(5, 6, 3, lr=0.01, epsilon=0.02, start=START)
    u = optimizer.directions(0)
    losses = optimizer.ask() @ SLOPE
    losses[2] = np.nan
    optimizer.tell(losses)
    good = [0, 2, 3, 4]
    there = losses[1:][good]
    g = ((there - losses[0])[:, None] * u[good]).mean(axis=0) / 0.02
    np.testing.assert_allclose(optimizer.point, START - 0.01 * g / there.std(ddof=1), atol=1e-10)


def test_the_guiding_vector_is_the_contrast_of_low_and_high_losses():
    optimizer = GuidedSPSA(5, 8, 4, lr=0.1, epsilon=0.01, share=0.34, start=START)
    z, asked = optimizer.perturbations(0), optimizer.ask()
    np.testing.assert_allclose(asked[2:], START + 0.01 * z, atol=1e-15)
    first = (asked[0] - START) / 0.01
    np.testing.assert_allclose(asked[1], START - 0.01 * first, atol=1e-12)
    losses = np.concatenate(
        [asked[:2] @ SLOPE, [5.0, 1.0, 4.0, 3.0, 2.0, np.nan]]
    )  # the elite are the second and the fifth
    optimizer.tell(losses)
    point = START - 0.1 * (first @ SLOPE) * first
    np.testing.assert_allclose(optimizer.point, point, atol=1e-9)
    guide = z[[1, 4]].mean(axis=0) - z[[0, 2, 3, 5]].mean(axis=0)
    asked = optimizer.ask()
    np.testing.assert_allclose(asked[:2], [point + 0.01 * guide, point - 0.01 * guide], atol=1e-9)
    optimizer.tell(asked @ SLOPE)
    np.testing.assert_allclose(optimizer.point, point - 0.1 * (guide @ SLOPE) * guide, atol=1e-9)


def test_a_guided_step_is_better_aligned_than_a_random_one():
    """What the paper promises: on a plane the guiding vector points along the gradient more than normal noise does."""
    guided, plain = [], []
    for seed in range(20):
        optimizer = GuidedSPSA(50, 10, seed, lr=0.1, epsilon=0.01)
        slope = np.random.default_rng([seed, 1]).standard_normal(50)
        for found in (plain, guided):
            before, asked = optimizer.point, optimizer.ask()
            optimizer.tell(asked @ slope)
            moved = optimizer.point - before
            found.append(-moved @ slope / np.linalg.norm(moved) / np.linalg.norm(slope))
    assert np.mean(guided) > 2 * np.mean(plain) > 0


def test_one_factor_of_lazy_noise_stays_for_some_groups():
    noise, plain = Noise(5, rank=2, lazy=3, group=2), Noise(5, rank=2)
    factors = [noise.factors((4, 7), direction, 1) for direction in range(12)]
    for direction, (u, v) in enumerate(factors):
        assert torch.equal(u, plain.factors((4, 7), direction, 1)[0])
        same = [other for other in range(12) if torch.equal(v, factors[other][1])]
        begin = direction // 6 * 6 + direction % 2
        assert same == [begin, begin + 2, begin + 4]
    whole = noise.whole((4, 7), 3, 1, True)
    torch.testing.assert_close(whole, factors[3][0] @ factors[3][1].T)

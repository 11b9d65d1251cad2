"""Both solvers against the long way: really leaving each row out, really minimising."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from tandemtune.readout import logistic, squares


def kernel(count, width, seed=0, front=()):
    x = torch.randn(*front, count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x @ x.mT / width + 1.0


def targets(count, classes, seed=1):
    labels = torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.one_hot(labels, classes).double()


def weights(count, seed=2):
    drawn = torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.2
    return drawn / drawn.mean()


def regression(k, y, w, noise, new):
    """Least squares by the textbook, in numpy: predictions for rows whose kernel with the others is `new` [m, N]."""
    return new @ np.linalg.solve(k + noise * np.diag(1 / w), y)


@pytest.mark.parametrize("width", [3, 40])
@pytest.mark.parametrize("noise", [1e-3, 0.3, 10.0])
def test_least_squares_leaves_out_exactly(width, noise):
    k, y, w = kernel(15, width), targets(15, 4), weights(15)
    k[3] = k[4]
    k[:, 3] = k[:, 4]  # a row that is there twice
    found = squares.leave_one_out(k, w, y, noise)
    assert_close(squares.leave_one_out_for_each(k, w, y, [5.0, noise])[1], found, rtol=1e-7, atol=1e-9)
    for row in range(15):
        kept = [i for i in range(15) if i != row]
        alone = regression(k[kept][:, kept].numpy(), y[kept].numpy(), w[kept].numpy(), noise, k[[row]][:, kept].numpy())
        assert_close(found[row].numpy(), alone[0], rtol=1e-7, atol=1e-9)


def test_least_squares_coefficients():
    k, y, w = kernel(15, 6), targets(15, 3), weights(15)
    alpha = squares.solve(k, w, y, 0.5)
    assert_close((k @ alpha).numpy(), regression(k.numpy(), y.numpy(), w.numpy(), 0.5, k.numpy()))


@pytest.mark.parametrize("noise", [1e-3, 0.3, 10.0])
@pytest.mark.parametrize("repeated", [False, True])
def test_many_rows_of_few_features_are_solved_among_the_features(repeated, noise):
    x = torch.randn(60, 7, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    if repeated:  # a feature that says nothing new
        x[:, 6] = x[:, 0] - x[:, 1]
    y, w = targets(60, 3), weights(60)
    wide, tall = squares.Wide(x @ x.mT, w), squares.Tall.of(x, w)
    assert_close(tall.leave_one_out(y, noise), wide.leave_one_out(y, noise), rtol=1e-6, atol=1e-8)
    assert_close(x.mT @ tall.solve(y, noise), x.mT @ wide.solve(y, noise), rtol=1e-6, atol=1e-8)
    each = tall.leave_one_out_for_each(y, [noise, 2.0])
    assert_close(each, wide.leave_one_out_for_each(y, [noise, 2.0]), rtol=1e-6, atol=1e-8)


def test_least_squares_of_a_population_are_those_of_its_members():
    k, y, w = kernel(10, 6, front=(4,)), targets(10, 3), weights(10)
    each = squares.leave_one_out_for_each(k, w, y, [0.2, 1.0])
    for p in range(4):
        assert_close(squares.solve(k, w, y, 0.2)[p], squares.solve(k[p], w, y, 0.2))
        assert_close(squares.leave_one_out(k, w, y, 0.2)[p], squares.leave_one_out(k[p], w, y, 0.2))
        assert_close(each[p], squares.leave_one_out_for_each(k[p], w, y, [0.2, 1.0]))


def minimised(k, offset, y, w):
    """Penalised logistic regression by gradients: coefficients."""
    root = torch.linalg.cholesky(k + 1e-12 * torch.eye(len(k), dtype=k.dtype))
    beta = torch.zeros(root.shape[1], y.shape[1], dtype=k.dtype, requires_grad=True)
    search = torch.optim.LBFGS(
        [beta], max_iter=2000, tolerance_grad=1e-11, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def loss():
        search.zero_grad()
        log_p = torch.log_softmax(offset + root @ beta, dim=1)
        value = -(w[:, None] * y * log_p).sum() + beta.square().sum() / 2
        value.backward()
        return value

    search.step(loss)
    return offset + root @ beta.detach(), torch.cholesky_solve(root @ beta.detach(), root)


@pytest.mark.parametrize("far", [0.0, 30.0])
@pytest.mark.parametrize("strength", [0.1, 5.0])
def test_logistic_regression_finds_the_minimum(strength, far):
    k, y, w = strength * kernel(14, 20), targets(14, 3), weights(14)
    offset = torch.randn(14, 3, dtype=torch.float64) + far * targets(14, 3, seed=9)
    found = logistic.solve(k, offset, y, w)
    logits, _ = minimised(k, offset, y, w)
    assert_close(torch.softmax(offset + k @ found.alpha, 1), torch.softmax(logits, 1), rtol=1e-4, atol=1e-5)
    p = torch.softmax(offset + k @ found.alpha, 1)
    assert_close(found.alpha, w[:, None] * (y - p), rtol=0, atol=1e-6)  # where the derivative is zero


@pytest.mark.parametrize("strength", [0.1, 1.0, 10.0])
def test_logistic_regression_nearly_leaves_out(strength):
    k, y, w = strength * kernel(30, 10), targets(30, 3), weights(30)
    offset = torch.randn(30, 3, dtype=torch.float64)
    found = torch.softmax(logistic.solve(k, offset, y, w).without, 1)
    fitted = torch.softmax(offset + k @ logistic.solve(k, offset, y, w).alpha, 1)
    for row in range(30):
        kept = [i for i in range(30) if i != row]
        rest = logistic.solve(k[kept][:, kept], offset[kept], y[kept], w[kept]).alpha
        alone = torch.softmax(offset[row] + k[row, kept] @ rest, 0)
        apart, moved = (found[row] - alone).abs().max(), (fitted[row] - alone).abs().max()
        assert apart < 0.03 + 0.25 * moved, (row, apart, moved)


def test_logistic_regression_of_a_population_is_that_of_its_members():
    k, y, w = kernel(9, 5, front=(3,)), targets(9, 3), weights(9)
    offset = torch.randn(3, 9, 3, dtype=torch.float64) * 5
    together = logistic.solve(k, offset, y, w)
    for p in range(3):
        alone = logistic.solve(k[p], offset[p], y, w)
        assert_close(together.alpha[p], alone.alpha, rtol=1e-6, atol=1e-8)
        assert_close(together.without[p], alone.without, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(20, 3), (2, 40, 5)])
def test_a_bias_is_solved_among_labels_as_it_is_among_rows(shape):
    made = torch.Generator().manual_seed(0)
    offset = 3 * torch.randn(*shape, dtype=torch.float64, generator=made)
    rows, labels = shape[-2:]
    one_hot = torch.nn.functional.one_hot(torch.randint(labels, (rows,), generator=made), labels).double()
    weights = 0.5 + torch.rand(rows, dtype=torch.float64, generator=made)
    kernel = torch.full((*shape[:-2], rows, rows), 100.0, dtype=torch.float64)
    by_rows, by_labels = (
        logistic.solve(kernel, offset, one_hot, weights),
        logistic.solve_bias(100.0, offset, one_hot, weights),
    )
    assert_close(by_labels.alpha.sum(-2), by_rows.alpha.sum(-2), atol=1e-10, rtol=1e-8)
    assert_close(by_labels.without, by_rows.without, atol=1e-8, rtol=1e-8)

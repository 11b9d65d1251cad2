"""A search that is told nothing but infinities has learned nothing."""

import numpy as np
import pytest

from tandemtune.optimizers.cmaes import CMAESSearch


@pytest.mark.parametrize("covariance", ["full", "separable"])
def test_cma_es_told_only_infinities_stays_where_it_is(covariance):
    search = CMAESSearch(8, 4, 0.1, seed=0, covariance=covariance, mean=np.full(8, 3.0))
    asked = []
    for _ in range(200):
        asked.append(search.ask())
        search.tell(np.full(4, np.inf))
    late = np.concatenate(asked[100:])  # 400 draws from a distribution that has not moved
    assert np.abs(late.mean(axis=0) - 3.0).max() < 4 * 0.1 / np.sqrt(len(late))
    assert np.allclose(late.std(axis=0), 0.1, rtol=0.2)

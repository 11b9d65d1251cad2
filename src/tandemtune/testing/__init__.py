"""Conformance suites: what every optimizer, tunable, objective, metric and proposer promises, to be run on your own.

    from tandemtune.testing import check_optimizer

    def test_annealing():
        check_optimizer(Annealing(popsize=8))

A suite puts a member through all of its promises on tiny random models, without downloads, in seconds, and raises one
`AssertionError` that lists every promise that is not kept and says what came instead of what was expected. It needs no pytest.
Who wants one test for each promise takes the list: ``pytest.mark.parametrize("promise", OPTIMIZER_PROMISES)`` and calls
``promise(OptimizerCase.of(spec))``.
"""

from __future__ import annotations

from tandemtune.testing.metric_suite import check_metric
from tandemtune.testing.objectives import check_objective
from tandemtune.testing.optimizers import OPTIMIZER_PROMISES, OptimizerCase, check_optimizer
from tandemtune.testing.proposers import PROPOSER_PROMISES, ProposerCase, check_proposer
from tandemtune.testing.tiny import tiny_backbone
from tandemtune.testing.tunables import TUNABLE_PROMISES, TunableCase, check_tunable

__all__ = [
    "OPTIMIZER_PROMISES",
    "PROPOSER_PROMISES",
    "TUNABLE_PROMISES",
    "OptimizerCase",
    "ProposerCase",
    "TunableCase",
    "check_metric",
    "check_objective",
    "check_optimizer",
    "check_proposer",
    "check_tunable",
    "tiny_backbone",
]

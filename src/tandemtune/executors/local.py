"""The default: candidates are scored in the run's own process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

from pydantic import Field

from tandemtune.evaluators.base import Evaluator
from tandemtune.executors.base import Elsewhere, Executor, Shard, Sharded, Tell
from tandemtune.plugins import register


@register
class LocalExecutor(Executor):
    """This process."""

    kind: ClassVar[str] = "local"
    summary: ClassVar[str] = "candidates are scored in the run's own process"
    source: ClassVar[str] = "this project"

    shard: Shard | None = Field(
        default=None,
        description="candidates that are scored together, in place of a measured chunk; a run on a cluster with the same shard has "
        "the same journal, to the bit. If left out, the whole generation",
    )

    @contextmanager
    def opened(
        self, evaluators: Sequence[Evaluator], elsewhere: Elsewhere, tell: Tell
    ) -> Iterator[Sequence[Evaluator]]:
        """The evaluators themselves, or shard by shard."""
        shard = self.shard
        yield evaluators if shard is None else [Sharded(evaluator, shard) for evaluator in evaluators]

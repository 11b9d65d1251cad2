"""The scorer of a task in several wordings: a row is one prompt of each template, and what they tell stands side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from tandemtune.evaluators.batch import Batch, Group
from tandemtune.evaluators.engine import Engine
from tandemtune.evaluators.features import PassReading, read
from tandemtune.evaluators.views import View
from tandemtune.problem import Scorer
from tandemtune.tasks.verbalizers import resolve
from tandemtune.tunables.base import Point
from tandemtune.types import Example


@dataclass(frozen=True, eq=False)
class JoinedBatch(Batch):
    """The same rows in several wordings; the groups are those of the first.

    Args:
        each: the rows as prompts of each template.
    """

    each: tuple[Batch, ...] = ()

    @classmethod
    def of(cls, each: Sequence[Batch]) -> JoinedBatch:
        """Rows in each of the wordings; all their tokens count."""
        first = each[0]
        return cls(first.groups, first.labels, sum(one.tokens for one in each), tuple(each))

    def parts(self) -> tuple[Tensor, ...]:
        """All tensors that say what the rows are."""
        return tuple(part for one in self.each for part in one.parts())


class JoinedEngine(Engine):
    """One pass over the rows for each wording. Label logits are the mean over wordings; a view is the wordings' vectors side by
    side, so that its kernel is the sum of theirs.

    Args:
        engines: one for each wording, over the same model.
    """

    no_adapter = (
        "a readout of several templates together is no change of the output embedding: leave [task] together out"
    )

    def __init__(self, engines: Sequence[Engine]) -> None:
        first = engines[0]
        super().__init__(first.stack, first.tunable, first.averaging, first.max_memory)
        self.engines = tuple(engines)

    def logits(self, batch: Batch, point: Point) -> Tensor:
        """Label logits [N, C], the mean over wordings."""
        return torch.stack([engine.logits(one, point) for engine, one in self._pairs(batch)]).mean(dim=0)

    def read(self, batch: Batch, point: Point, views: Sequence[View]) -> PassReading:
        """Mean label logits [N, C], and views [N, wordings * h]."""
        return PassReading.joined([read(engine, one, point, views) for engine, one in self._pairs(batch)])

    def tokens(self, batch: Batch) -> int:
        """Tokens of all wordings that go through the model."""
        return sum(engine.tokens(one) for engine, one in self._pairs(batch))

    def work(
        self, batch: Batch, first: int = 0, stop: int | None = None, *, read: bool = True, apart: bool = False
    ) -> float:
        """What a pass over the rows in all wordings costs, see `Engine.work`."""
        return sum(engine.work(one, first, stop, read=read, apart=apart) for engine, one in self._pairs(batch))

    def parts(self, batch: Batch) -> Iterator[Group]:
        """The prompts as they go through the model, wording by wording."""
        for engine, one in self._pairs(batch):
            yield from engine.parts(one)

    def _pairs(self, batch: Batch) -> Iterator[tuple[Engine, Batch]]:
        assert isinstance(batch, JoinedBatch)
        return zip(self.engines, batch.each, strict=True)


@dataclass
class JoinedScorer(Scorer):
    """A model that is asked each row in several wordings."""

    _each: tuple[Scorer, ...] = field(default=(), init=False, repr=False)

    def __post_init__(self) -> None:
        own = {one.name: getattr(self, one.name) for one in fields(Scorer)}
        first = Scorer(**own)
        others = []
        for task in self.task.wordings[1:]:
            self.backbone.check_template(task.template)
            words = resolve(self.backbone.tokenizer, task.template, task.words, alone=self.backbone.kind == "seq2seq")
            averaging = torch.tensor(words.weights())
            engine = Engine(self.backbone.stack(words), self.parameters, averaging, max_memory=first.engine.max_memory)
            others.append(replace(first, task=task, verbalizer=words, engine=engine))
        self._each = (first, *others)
        self.engine = JoinedEngine([one.engine for one in self._each])
        named = ", ".join(repr(str(task.template)) for task in self.task.wordings)
        self.note(notes=(*self.facts.notes, f"{len(self._each)} templates are read together: {named}"))

    def batch(self, examples: Sequence[Example], plain: bool = False) -> Batch:
        """Rows in each of the wordings, to be scored at one point."""
        return JoinedBatch.of([one.batch(examples, plain) for one in self._each])

    def cut(self, examples: Sequence[Example]) -> list[int]:
        """By how many tokens a row's longest prompt is too long, for the rows that have one."""
        each = [one.encoded(examples, plain=True)[0] for one in self._each]
        lost = (max(prompt.lost for prompt in row) for row in zip(*each, strict=True))
        return [most for most in lost if most]

    def population_batch(self, examples: Sequence[Example]) -> Batch:
        """The same; rows of one length only side by side."""
        return JoinedBatch.of([one.population_batch(examples) for one in self._each])

"""Labels of images by the likeness of their vectors to those of texts: the image's vectors are computed once, so a candidate costs
one pass of the class prompts through the text tower, however many images there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from tandemtune.errors import UsageError
from tandemtune.evaluators.batch import Batch, Group
from tandemtune.evaluators.engine import Engine
from tandemtune.evaluators.features import PassReading
from tandemtune.evaluators.label_words import LabelWordEvaluator
from tandemtune.evaluators.views import ANSWER, TOWER, View
from tandemtune.models.layers import LayerStack
from tandemtune.tunables.base import Parameters, Point


@dataclass(frozen=True, eq=False)
class ClassTexts:
    """What stands for the classes: one text for each name of a class in each template.

    Args:
        batch: the texts, as the text tower takes them; their labels are the classes that they stand for.
        count: classes C.
    """

    batch: Batch
    count: int

    def classes(self, vectors: Tensor) -> Tensor:
        """Vectors of the classes [..., C, D], of length one: the mean of those of their texts [..., T, D], each of length one."""
        each = functional.normalize(vectors, dim=-1)
        owners = functional.one_hot(self.batch.labels, self.count).to(each.dtype)
        return functional.normalize(owners.T @ each, dim=-1)


@dataclass(frozen=True, eq=False)
class ImageBatch(Batch):
    """Images that are scored together. `groups` and `tokens` are those of the class prompts, since they are what the model reads.

    Args:
        features: vectors of the images [N, D], of length one.
        texts: the class prompts.
        pooled: what the image tower pools of them [N, T], where a readout may read that; else [N, 0].
    """

    features: Tensor
    texts: ClassTexts
    pooled: Tensor

    @classmethod
    def of(cls, features: Tensor, labels: Sequence[int], texts: ClassTexts, pooled: Tensor | None = None) -> ImageBatch:
        """Images with labels (-1 where unknown) beside class prompts."""
        gold = torch.tensor(list(labels), dtype=torch.long, device=features.device)
        nothing = features[:, :0] if pooled is None else pooled
        return cls(texts.batch.groups, gold, texts.batch.tokens, features, texts, nothing)

    def parts(self) -> tuple[Tensor, ...]:
        """All tensors that say what the rows are."""
        return (*super().parts(), self.features, *([self.pooled] if self.pooled.shape[1] else []))


class ImageTextEngine(Engine):
    """Label logits of images: the cosine of their vectors and the classes', times the model's scale.

    Args:
        stack: the text tower as a pipeline of layers.
        tunable: what the candidates change.
        scale: what cosines are multiplied by.
        max_memory: bound on the activations of one chunk of candidates, in megabytes.
    """

    no_adapter = "a readout of image vectors changes the classes' vectors, not the text tower"
    further_views = (TOWER,)

    def __init__(self, stack: LayerStack, tunable: Parameters, scale: float, max_memory: float = 256.0) -> None:
        super().__init__(stack, tunable, torch.eye(len(stack.token_ids)), max_memory)
        self.scale = scale

    @classmethod
    def check_views(cls, views: Sequence[View], layers: int, encoder: int | None) -> None:
        """Refuse views of texts; none is a layer's.

        Raises:
            UsageError: there is such a view.
        """
        others = [str(view) for view in views if view not in (ANSWER, TOWER)]
        if others:
            raise UsageError(f"view {', '.join(others)}: of images there are the views answer and tower")

    def gathered(self, words: Tensor) -> Tensor:
        """A text's vector, as it is."""
        return words

    def logits(self, batch: Batch, point: Point) -> Tensor:
        """Label logits [N, C] of one point; of class prompts alone their vectors [T, D]."""
        if not isinstance(batch, ImageBatch):
            return super().logits(batch, point)
        return self.likeness(batch.features, self.classes(batch.texts, point))

    def population_logits(self, batch: Batch, point: Point, candidates: Mapping[int, Tensor]) -> Tensor:
        """Label logits [P, N, C] of candidates that differ from `point` in some blocks; of class prompts alone their vectors."""
        if not isinstance(batch, ImageBatch):
            return super().population_logits(batch, point, candidates)
        vectors = super().population_logits(batch.texts.batch, point, candidates)
        return self.likeness(batch.features, batch.texts.classes(vectors))

    def classes(self, texts: ClassTexts, point: Point) -> Tensor:
        """Vectors of the classes [C, D] at one point, of length one."""
        return texts.classes(super().logits(texts.batch, point))

    def gradient_likeness(self, batch: ImageBatch, point: Point) -> Tensor:
        """Label logits [N, C] at one point, with what a backward pass to the point's tensors needs."""
        parts = [self.gradient_logits(group, point) for group in batch.texts.batch.groups]
        order = torch.cat([group.rows for group in batch.texts.batch.groups]).argsort()
        return self.likeness(batch.features, batch.texts.classes(torch.cat(parts)[order]))

    def likeness(self, features: Tensor, classes: Tensor) -> Tensor:
        """Logits [..., N, C] of images [N, D] and classes [..., C, D]."""
        return self.scale * (features @ classes.mT)

    def read(self, batch: ImageBatch, point: Point, views: Sequence[View]) -> PassReading:
        """Label logits, the images' vectors as the view `ANSWER` (label logits are linear in them, as they are in what enters an output
        embedding), and what the image tower pools as `TOWER`.

        Raises:
            UsageError: a view of a text is wanted.
        """
        return PassReading(self.logits(batch, point), self._views(batch, views))

    def read_population(
        self, batch: ImageBatch, point: Point, candidates: Mapping[int, Tensor], views: Sequence[View]
    ) -> PassReading:
        """The same for candidates that differ from `point` in some blocks; none of them changes a view.

        Raises:
            UsageError: a view of a text is wanted.
        """
        logits = self.population_logits(batch, point, candidates)
        kept = self._views(batch, views)
        return PassReading(logits, {view: vectors.expand(len(logits), -1, -1) for view, vectors in kept.items()})

    def _views(self, batch: ImageBatch, views: Sequence[View]) -> dict[View, Tensor]:
        self.check_views(views, len(self.stack), None)
        known = {ANSWER: batch.features, TOWER: batch.pooled}
        return {view: known[view] for view in views}

    def states(self, batch: Batch, point: Point, layer: int) -> list[Tensor]:
        """Hidden states that enter `layer`, of the class prompts."""
        return super().states(batch.texts.batch if isinstance(batch, ImageBatch) else batch, point, layer)

    def pieces(self, batch: Batch) -> Sequence[Group]:
        """The class prompts as they go through the text tower."""
        return super().pieces(batch.texts.batch if isinstance(batch, ImageBatch) else batch)


class ImageTextEvaluator(LabelWordEvaluator):
    """Losses of candidates on images; all costs are those of the class prompts in the text tower."""

    engine: ImageTextEngine

    def gradient_on(self, batch: Batch, point: Point, blocks: Sequence[int]) -> tuple[float, dict[int, Tensor]]:
        """Loss of one point on some images, and its gradient: all class prompts stand in every row's loss."""
        leaves = {block: point[block].clone().requires_grad_() for block in blocks}
        logits = self.engine.gradient_likeness(cast(ImageBatch, batch), {**point, **leaves})
        loss = self.loss(logits.unsqueeze(0), batch.labels)[0]
        loss.backward()  # type: ignore[no-untyped-call]
        gradients: dict[int, Any] = {
            block: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for block, leaf in leaves.items()
        }
        return float(loss.detach()), gradients

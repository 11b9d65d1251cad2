"""A soft prompt for each class of an image-text model (class-specific context, Zhou et al., arXiv 2109.01134, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tandemtune.errors import ConfigError
from tandemtune.models.backbone import Backbone
from tandemtune.models.layers import hooked
from tandemtune.optimizers.base import Optimizer
from tandemtune.plugins import register
from tandemtune.tunables.base import INPUT, Given, Point
from tandemtune.tunables.prompt import Prompt, PromptOptions
from tandemtune.types import Encoded


class ClassPrompts(Prompt):
    """Vectors in front of each class's name, different ones for each class. The first of a prompt's places holds the number of
    its class, by which the vectors are found; all places' embeddings are replaced.

    Args:
        backbone: an image-text model.
        length: number of places.
        start: vectors [length, width] that every class begins with.
        classes: how many there are.
    """

    def __init__(self, backbone: Backbone, length: int, start: Tensor, classes: int) -> None:
        super().__init__(backbone, length, start)
        self.classes = classes
        self.start = start.reshape(length, -1).repeat(classes, 1).reshape(-1).float()

    def shapes(self, block: int) -> list[tuple[int, int]]:
        """One matrix [classes * length, width], class after class."""
        return [(self.classes * self.length, self.width)]

    def reserve_each(self, prompts: Sequence[Encoded], classes: Sequence[int]) -> list[Encoded]:
        """Make room, and mark it with the class's number."""
        made = []
        for prompt, number in zip(prompts, classes, strict=True):
            roomy = self.reserve(prompt)
            ids = (*roomy.ids[: self.place], number, *roomy.ids[self.place + 1 :])
            made.append(Encoded(ids, roomy.answer, roomy.lost))
        return made

    @contextmanager
    def applied(self, point: Point) -> Iterator[None]:
        """Put the vectors of each class in front of its name, until the context ends."""
        if INPUT not in point:
            yield
            return
        vectors = point[INPUT].reshape(-1, self.classes, self.length, self.width)
        with hooked(self._embeddings.register_forward_hook(_by_class(vectors, self.place))):
            yield


def _by_class(vectors: Tensor, place: int) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
    """A hook that replaces embeddings by vectors [P, C, length, width] of P equal parts of the rows."""
    parts, _, length, _ = vectors.shape

    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        classes = args[0][:, place]
        part = torch.arange(len(classes), device=output.device) // max(1, len(classes) // parts)
        chosen = vectors.to(device=output.device, dtype=output.dtype)[part, classes]
        return torch.cat([output[:, :place], chosen, output[:, place + length :]], dim=1)

    return hook


@register
class ClassPrompt(PromptOptions):
    """A soft prompt for each class of an image-text model."""

    kind: ClassVar[str] = "class-prompt"
    summary: ClassVar[str] = "vectors before the name of each class of an image-text model, different ones for each"
    source: ClassVar[str] = "arXiv 2109.01134"
    card: ClassVar[str] = "A soft prompt for each class"

    def make(self, given: Given) -> ClassPrompts:
        """The same words for every class at the start.

        Raises:
            ConfigError: the model is no image-text model.
        """
        if given.backbone.kind != "image-text":
            raise ConfigError(
                [
                    f"[method] tunable: {self.kind} is for image-text models, {given.backbone.name} is {given.backbone.kind}: take prompt"
                ]
            )
        one = self.prompt(given)
        return ClassPrompts(given.backbone, one.length, one.start, len(given.task.labels))

    def one_block(self, optimizer: Optimizer) -> bool:
        """The input's."""
        return True

    def problems(self, recipe: Any) -> Iterator[str]:
        """Classes that have no prompt."""
        yield from super().problems(recipe)
        if recipe.task.unseen_share is not None:
            yield (
                f"[task] unseen_share: {recipe.task.unseen_share}, but {self.kind} has no prompt for classes that were left out: "
                "set [method] tunable to prompt"
            )

"""LoRA beside a prompt: two tunables with blocks of their own as one, so that one may be searched while the other is proposed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from tandemtune.tunables.base import INPUT, Point
from tandemtune.tunables.lora import LoRA
from tandemtune.tunables.prompt import Prompt
from tandemtune.types import Encoded

PROMPT_FOLDER = "prompt"


class LoRABesidePrompt:
    """LoRA on some layers, and a prompt at the input.

    Args:
        lora: its blocks are layers.
        prompt: its only block is `INPUT`.

    Raises:
        ValueError: the prompt is a deep one, whose blocks would be layers, too.
    """

    token_wise = False

    def __init__(self, lora: LoRA, prompt: Prompt) -> None:
        if prompt.blocks != (INPUT,):
            raise ValueError(f"expected a prompt at the input only, got blocks {list(prompt.blocks)}")
        self.lora, self.prompt = lora, prompt
        self.blocks = (INPUT, *lora.blocks)
        self.names = lora.names
        self.side_by_side = lora.side_by_side

    def shapes(self, block: int) -> list[tuple[int, int]]:
        """Matrices of one block."""
        return self._of(block).shapes(block)

    def dim(self, block: int) -> int:
        """Numbers in one block."""
        return self._of(block).dim(block)

    def initial(self) -> dict[int, Tensor]:
        """The points that both begin with."""
        return {**self.prompt.initial(), **self.lora.initial()}

    def reserve(self, prompt: Encoded) -> Encoded:
        """The prompt with room for the words."""
        return self.prompt.reserve(prompt)

    @contextmanager
    def applied(self, point: Point) -> Iterator[None]:
        """Both at once, until the context ends."""
        with ExitStack() as stack:
            if INPUT in point:
                stack.enter_context(self.prompt.applied({INPUT: point[INPUT]}))
            stack.enter_context(self.lora.applied(self._layers(point)))
            yield

    def first_layer(self, blocks: Sequence[int]) -> int:
        """The lowest block."""
        return min(blocks)

    def same_below(self, layer: int, one: Point, other: Point) -> bool:
        """Hidden states depend on the prompt and on lower layers."""
        return self.prompt.same_below(layer, one, other) and self.lora.same_below(layer, one, other)

    def save(self, point: Point, folder: Path, base_model: str) -> None:
        """Write a PEFT LoRA adapter, and the prompt in a folder inside."""
        self.lora.save(self._layers(point), folder, base_model)
        self.prompt.save({INPUT: point[INPUT]}, folder / PROMPT_FOLDER, base_model)

    def load(self, folder: Path) -> dict[int, Tensor]:
        """Read both back.

        Raises:
            RunError: one of them is missing, damaged or made for another model.
        """
        return {**self.prompt.load(folder / PROMPT_FOLDER), **self.lora.load(folder)}

    def describe(self) -> dict[str, Any]:
        """What both say, and the number of parameters that are searched."""
        return {**self.lora.describe(), "prompt": self.prompt.describe()}

    def _of(self, block: int) -> LoRA | Prompt:
        return self.prompt if block == INPUT else self.lora

    def _layers(self, point: Point) -> Mapping[int, Tensor]:
        return {block: vector for block, vector in point.items() if block != INPUT}

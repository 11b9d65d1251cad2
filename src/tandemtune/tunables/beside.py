"""LoRA beside a prompt: two tunables with blocks of their own as one, so that one may be searched while the other is proposed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from tandemtune.models.architectures import Target
from tandemtune.models.layers import LayerStack
from tandemtune.optimizers.base import Optimizer
from tandemtune.plugins import register
from tandemtune.subspace import LayerStatistics, Rule
from tandemtune.tunables.base import INPUT, LAST_THIRD, Given, Layers, Parameters, Point
from tandemtune.tunables.lora import WHAT_MOVES, Factors, LoRA, LoRATerms, Rank
from tandemtune.tunables.prompt import Prompt, PromptOptions
from tandemtune.tunables.vocabulary import Vocabulary
from tandemtune.types import Encoded

PROMPT_FOLDER = "prompt"


class LoRABesidePrompt(Parameters):
    """LoRA on some layers, and a prompt at the input.

    Args:
        lora: its blocks are layers.
        prompt: its only block is `INPUT`.

    Raises:
        ValueError: the prompt is a deep one, whose blocks would be layers, too.
    """

    token_wise = False

    def __init__(self, lora: LoRATerms, prompt: Prompt) -> None:
        if prompt.blocks != (INPUT,):
            raise ValueError(f"expected a prompt at the input only, got blocks {list(prompt.blocks)}")
        self.lora, self.prompt = lora, prompt
        self.blocks = (INPUT, *lora.blocks)
        self.names = lora.names
        self.leading = prompt.leading
        self.side_by_side = lora.side_by_side

    def names_of(self, block: int) -> tuple[str, ...]:
        """Names of one block's groups of matrices."""
        return self._of(block).names_of(block)

    def shapes(self, block: int) -> list[tuple[int, int]]:
        """Matrices of one block."""
        return self._of(block).shapes(block)

    def dim(self, block: int) -> int:
        """Numbers in one block."""
        return self._of(block).dim(block)

    def initial(self) -> dict[int, Tensor]:
        """The points that both begin with."""
        return {**self.prompt.initial(), **self.lora.initial()}

    def movable(self, point: Point) -> dict[int, Tensor]:
        """The prompt as it is, and LoRA's terms where they can be moved."""
        return {**point, **self.lora.movable(self._layers(point))}

    def reserve(self, prompt: Encoded) -> Encoded:
        """The prompt with room for the words."""
        return self.prompt.reserve(prompt)

    def settle(self, stack: LayerStack, groups: Sequence[Tensor]) -> None:
        """Nothing: the prompt has no deep blocks."""

    @contextmanager
    def applied(self, point: Point) -> Iterator[None]:
        """Both at once, until the context ends."""
        with ExitStack() as stack:
            if INPUT in point:
                stack.enter_context(self.prompt.applied({INPUT: point[INPUT]}))
            stack.enter_context(self.lora.applied(self._layers(point)))
            yield

    def applied_behind(self, point: Point) -> AbstractContextManager[None]:
        """LoRA: the prompt's places are all in the prompt."""
        return self.lora.applied(self._layers(point))

    def first_layer(self, blocks: Sequence[int]) -> int:
        """The lowest block."""
        return min(blocks)

    def same_below(self, layer: int, one: Point, other: Point) -> bool:
        """Hidden states depend on the prompt and on lower layers."""
        return self.prompt.same_below(layer, one, other) and self.lora.same_below(layer, one, other)

    def hung_on(self, blocks: Sequence[int]) -> Sequence[int] | None:
        """The layers of LoRA."""
        return self.lora.hung_on(blocks)

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

    def said(self) -> str:
        """The words."""
        return self.prompt.said()

    def describe(self) -> dict[str, Any]:
        """What both say, and the number of parameters that are searched."""
        return {**self.lora.describe(), "prompt": self.prompt.describe()}

    def _of(self, block: int) -> LoRATerms | Prompt:
        return self.prompt if block == INPUT else self.lora

    def _layers(self, point: Point) -> Mapping[int, Tensor]:
        return {block: vector for block, vector in point.items() if block != INPUT}


@register
class LoRAWithPrompt(PromptOptions):
    """LoRA is searched; the prompt at the input is words and only changes by proposals."""

    kind: ClassVar[str] = "lora+prompt"
    summary: ClassVar[str] = "LoRA is searched, the prompt of words before the text comes from proposals"
    source: ClassVar[str] = "this project"
    card: ClassVar[str] = "A LoRA adapter and a prompt of words"
    takes_words: ClassVar[bool] = True
    words_only: ClassVar[bool] = True

    r: Rank = Field(default=2, description="LoRA rank")
    factors: Factors = Field(default="both", description=WHAT_MOVES)
    layers: Layers = LAST_THIRD

    @property
    def lora(self) -> LoRA:
        """What is beside the prompt, as a tunable of its own."""
        return LoRA(r=self.r, factors=self.factors, layers=self.layers)

    def make(self, given: Given) -> LoRABesidePrompt:
        """LoRA on the chosen layers, and a prompt at the input."""
        return LoRABesidePrompt(self.lora.make(given), self.prompt(given))

    def lr(self, optimizer: Optimizer, vocabulary: Vocabulary) -> float:
        """LoRA's: the prompt is not moved by the optimizer."""
        return optimizer.lr_default

    def searched(self, parameters: LoRABesidePrompt) -> tuple[int, ...]:
        """LoRA's blocks."""
        return parameters.lora.blocks

    @property
    def even(self) -> bool:
        """As LoRA by itself."""
        return self.lora.even

    def parts(self, target: Target | None) -> int:
        """The moving factors of each projection."""
        return self.lora.parts(target)

    def statistics(self, parameters: Any, problem: Any, wanted: Rule) -> tuple[Rule, dict[int, LayerStatistics]]:
        """LoRA's: what enters and leaves the projections of each layer."""
        return wanted, problem.layer_statistics(self.searched(parameters))

    def how_to_load(self, folder: Path) -> str:
        """Both parts."""
        return (
            "Load it with `peft.PeftModel.from_pretrained(base_model, folder)` and write the words of the prompt before the "
            "text, or load the run folder that it lies in with `tandemtune.load`, which does both."
        )

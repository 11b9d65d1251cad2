"""The two faces of what can be tuned: what a recipe says about it (`Tunable`), and the parameters beside a model that come of
it (`Parameters`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from tandemtune.errors import ConfigError
from tandemtune.models.architectures import Target
from tandemtune.models.backbone import Backbone
from tandemtune.models.conversations import Opening
from tandemtune.models.prompts import Truncate
from tandemtune.optimizers.base import Optimizer, Uses
from tandemtune.plugins import Member
from tandemtune.subspace import LayerStatistics, Rule, Subspace
from tandemtune.tasks.base import Task
from tandemtune.tasks.verbalizers import Verbalizer
from tandemtune.tunables import storage
from tandemtune.types import Encoded, Example, seed_for

if TYPE_CHECKING:
    from tandemtune.models.layers import LayerStack
    from tandemtune.tunables.vocabulary import Vocabulary

INPUT = -1
"""The block of the input embeddings, below layer 0."""
PROMPT_LR = 0.1
"""Learning rate of prompts, as a share of the embeddings' standard deviation."""

Point = Mapping[int, Tensor]
"""One setting of a tunable: block -> float32 vector [dim], or [P, dim] where P candidates differ in that block."""


class Parameters(ABC):
    """Parameters that live beside an unmodified model, cut into blocks (usually one block a layer).

    A subclass says how long its blocks are, where they begin and how the model is made to behave as a point says; everything
    else has a default that is right for any tunable, though not the fastest.

    Attributes:
        blocks: in the order in which the model meets them.
        names: of the groups of matrices, for example the projections that LoRA is put on, in all blocks together.
        side_by_side: whether several candidates can be applied at once, as equal parts of one batch.
        token_wise: whether it does the same to every token, wherever that stands, so that prompts may lie end to end in one row.
        leading: otherwise, tokens at the beginning of a text behind which that is so; None where nobody can say.
        replaced: modules of the model in whose place something of its own stands while it is applied.
        directions: (groups, directions in a group) where a point is coefficients of seeded directions; None otherwise.
    """

    blocks: tuple[int, ...] = (INPUT,)
    names: tuple[str, ...] = ()
    side_by_side: bool = False
    token_wise: bool = False
    leading: int | None = None
    directions: tuple[int, int] | None = None
    replaced: Sequence[nn.Module] = ()

    @abstractmethod
    def dim(self, block: int) -> int:
        """Length of the block's flat vector."""

    @abstractmethod
    def initial(self) -> dict[int, Tensor]:
        """The point that a search begins with."""

    @abstractmethod
    def applied(self, point: Point) -> AbstractContextManager[None]:
        """Make the model behave as `point` says until the context ends; as it is where the point is empty.

        Where a block holds [P, dim], the model's batch must hold P equal parts, candidate by candidate.
        """

    def movable(self, point: Point) -> dict[int, Tensor]:
        """The same model as a setting that gradients, and small steps in all directions, lead away from; by default as it is."""
        return dict(point)

    def applied_behind(self, point: Point) -> AbstractContextManager[None]:
        """The same for tokens that are written behind a prompt, whose own keys and values are kept."""
        return self.applied(point)

    def names_of(self, block: int) -> tuple[str, ...]:
        """Names of the groups of matrices that a block has."""
        return self.names

    def shapes(self, block: int) -> Sequence[tuple[int, int]]:
        """Matrices that the block's flat vector is made of, in order."""
        return ((1, self.dim(block)),)

    def reserve(self, prompt: Encoded) -> Encoded:
        """The prompt with room for what the tunable puts into it."""
        return prompt

    def reserve_each(self, prompts: Sequence[Encoded], classes: Sequence[int]) -> list[Encoded]:
        """Class prompts with room for what the tunable puts into each.

        Args:
            prompts: of an image task.
            classes: which class each stands for.
        """
        return [self.reserve(prompt) for prompt in prompts]

    def first_layer(self, blocks: Sequence[int]) -> int:
        """The lowest layer whose output depends on any of the blocks, so that hidden states entering it stay valid; `INPUT`
        if the input embeddings change."""
        return INPUT

    def seen_from(self, layer: int, point: Point) -> Point:
        """What of a point still has to be applied where hidden states that enter `layer` are given; by default all of it."""
        return point

    def same_below(self, layer: int, one: Point, other: Point) -> bool:
        """Whether two points give the same hidden states entering `layer`."""
        return all(same_vector(one[block], other[block]) for block in self.blocks)

    def hung_on(self, blocks: Sequence[int]) -> Sequence[int] | None:
        """Layers whose own maps return something else where these blocks do, by forward hooks on them or by another forward;
        None where it may also be by other weights, so that nothing that the maps returned can be used again."""
        return None

    def settle(self, stack: LayerStack, groups: Sequence[Tensor]) -> None:  # noqa: B027  (nothing to do is the rule)
        """Get ready for prompts of the training rows, token ids [B, T] for each group."""

    def save(self, point: Point, folder: Path, base_model: str) -> None:
        """Write the point as an artefact that other tools can read; by default one tensor for each block.

        Args:
            point: what to keep.
            folder: where the files go; made if it is not there.
            base_model: name of the base model, for the record.
        """
        storage.write_blocks(folder, {block: point[block] for block in self.blocks}, base_model)

    def load(self, folder: Path) -> dict[int, Tensor]:
        """Read a point that `save` wrote.

        Raises:
            RunError: the files are missing, damaged or made for another model.
        """
        return storage.read_blocks(folder, {block: self.dim(block) for block in self.blocks})

    def said(self) -> str:
        """What it puts into a conversation, in half a sentence, for those who ask the model elsewhere; empty for nothing."""
        return ""

    def describe(self) -> dict[str, Any]:
        """Sizes to show and to record: `layers`, `parameters` and what else is worth knowing."""
        return {"layers": list(self.blocks), "parameters": sum(self.dim(block) for block in self.blocks)}


def same_vector(one: Tensor, other: Tensor) -> bool:
    """Whether two vectors of a block are the same; what is one and the same tensor is not read for that."""
    return one is other or torch.equal(one, other)


class Layerwise(Parameters):
    """Base of parameters whose blocks are layers (and, for prompts, `INPUT`): what a block changes, only its layer and those
    above it see."""

    def first_layer(self, blocks: Sequence[int]) -> int:
        """The lowest block; `INPUT` is before the first layer."""
        return min(blocks)

    def same_below(self, layer: int, one: Point, other: Point) -> bool:
        """Hidden states entering a layer depend on the blocks below it only."""
        return all(same_vector(one[block], other[block]) for block in self.blocks if block < layer)

    def hung_on(self, blocks: Sequence[int]) -> Sequence[int] | None:
        """The blocks' own layers."""
        return [block for block in blocks if block != INPUT]


@dataclass(frozen=True)
class Given:
    """What a tunable is made from.

    Args:
        backbone: the model.
        vocabulary: its words.
        task: the task.
        verbalizer: its label words.
        optimizer: who will move the parameters.
        subspace: where it searches.
        seed: of the run.
        generations: how many there can be at most.
        max_tokens: longest prompt.
        rows: training rows that may be shown, or the folder of a run that has shown some.
        truncate: the part that a text loses where a prompt is longer.
        opening: what a conversation begins with, for what belongs next to its question; None elsewhere.
    """

    backbone: Backbone
    vocabulary: Vocabulary
    task: Task
    verbalizer: Verbalizer
    optimizer: Optimizer
    subspace: Subspace
    seed: int
    generations: int
    max_tokens: int
    rows: Sequence[Example] | Path = ()
    truncate: Truncate = "end"
    opening: Opening | None = None

    @property
    def in_subspace(self) -> bool:
        """Whether the search begins at the origin of a subspace."""
        return self.optimizer.vectors and self.subspace.projects

    def start_seed(self) -> int | None:
        """Seed of a first point that is not all zero. Around zero only samplers of both factors at once find a way: a step and its
        opposite have the same loss there, so that those who go by differences of losses would never move."""
        return None if self.in_subspace and self.optimizer.uses == "sampler" else seed_for(self.seed, 6)

    def layers(self, wanted: str | Sequence[int]) -> list[int]:
        """Layer numbers of a `layers` setting.

        Raises:
            ConfigError: the model has fewer layers.
        """
        try:
            return parse_layers(wanted, len(self.backbone.layers))
        except ValueError as error:
            raise ConfigError([f"[method] layers: {error}"]) from None


class Tunable(Member):
    """Base of what a recipe's ``[method.tunable]`` may be: options, what it needs, how it is scaled, saved and described.

    Attributes:
        searched_by: optimizers that can move it, by what they use.
        card: what an adapter's README calls it.
        all_weights: whether it is the model's own weights.
        takes_words: whether a prompt of words can take the place of its input block, so that proposals make sense.
        words_only: whether its input block is always a prompt of words and only changes by proposals.
        untouched: whether model and prompts stay as they are.
        shares_beginnings: whether what all prompts begin with may be computed once for all of them.
    """

    noun: ClassVar[str] = "tunable"
    searched_by: ClassVar[frozenset[Uses]] = frozenset({"sampler", "estimator", "gradient"})
    card: ClassVar[str] = "Parameters"
    all_weights: ClassVar[bool] = False
    takes_words: ClassVar[bool] = False
    words_only: ClassVar[bool] = False
    untouched: ClassVar[bool] = False
    shares_beginnings: ClassVar[bool] = True

    @property
    def added_tokens(self) -> int:
        """Places that are put before every prompt, as far as the recipe says it."""
        return 0

    def make(self, given: Given) -> Parameters:
        """The parameters beside a model, at the point where they begin."""
        raise NotImplementedError

    @property
    def even(self) -> bool:
        """Whether a point and its negative are the same model where a search in a subspace begins."""
        return False

    @property
    def allowed_words(self) -> Literal["words", "all"]:
        """Tokens that a prompt of words may have."""
        return "words"

    def lr(self, optimizer: Optimizer, vocabulary: Vocabulary) -> float:
        """Learning rate where a recipe names none."""
        return optimizer.lr_default

    def searched(self, parameters: Any) -> tuple[int, ...]:
        """Blocks that the optimizer moves."""
        blocks: tuple[int, ...] = parameters.blocks
        return blocks

    def parts(self, target: Target | None) -> int:
        """Equal parts that a search vector is cut into, as far as a recipe tells: one for each factor of a block.

        Args:
            target: modules that a recipe names, or "all-linear"; None for query and key.
        """
        return 1

    def matrices(self, parameters: Any, block: int) -> tuple[tuple[int, int], ...]:
        """Matrices that a search vector's equal parts belong to; by default the whole block is one row."""
        return ((1, parameters.dim(block)),)

    def statistics(self, parameters: Any, problem: Any, wanted: Rule) -> tuple[Rule, dict[int, LayerStatistics]]:
        """What the projections of a subspace are scaled by.

        Args:
            parameters: what `make` made.
            problem: model and rows (`tandemtune.problem.Problem`).
            wanted: the recipe's rule.

        Returns:
            The rule that fits this tunable, and measurements of each searched block.
        """
        return "normal", {block: LayerStatistics(1.0, {}, {}) for block in self.searched(parameters)}

    def how_to_load(self, folder: Path) -> str:
        """A sentence or a snippet for the README beside an artefact."""
        if (folder / "adapter_config.json").is_file():
            return "Load it with `peft.PeftModel.from_pretrained(base_model, folder)`."
        says = ", ".join(f"`{path.name}`" for path in sorted(folder.glob("*.json")))
        return f"Load it with `tandemtune.load` on the run folder that it lies in; {says} says what goes where."

    def problems(self, recipe: Any) -> Iterator[str]:
        """An optimizer that cannot move it, a search vector that cannot be cut."""
        method = recipe.method
        optimizer = method.optimizer
        if optimizer.uses not in self.searched_by:
            yield f"[method] optimizer: {optimizer.kind!r} with tunable {self.kind!r}: {self._instead()}"
        parts, d = self.parts(recipe.model.target), method.subspace.d
        if recipe.in_subspace and d % parts:
            yield (
                f"[method] d: {d} cannot be cut into {parts} equal parts (A and B of each module, see [model] target): "
                f"choose a multiple of {parts}, for example {max(parts, round(d / parts) * parts)}"
            )

    def in_turn(self, recipe: Any) -> bool:
        """Whether what it puts before a text belongs into a conversation, next to its question: words do, and all that takes their place."""
        return bool(self.takes_words and recipe.alternates and recipe.alternate.proposer.words)

    def hand_over_problems(self, recipes: Sequence[Any]) -> Iterator[str]:
        """Why a point of one optimizer cannot be the beginning of another; by default it always can.

        Args:
            recipes: of all stretches of a run, in order, two at least.
        """
        yield from ()

    def _instead(self) -> str:
        if self.searched_by == {"none"}:
            return "where nothing is tuned both are none"
        wanted = {
            "sampler": "cma-es, fireworks or random",
            "estimator": "es or spsa",
            "gradient": "a gradient optimizer (adamw, adam, sgd)",
            "text": "genetic",
        }
        return "choose " + ", or ".join(what for uses, what in wanted.items() if uses in self.searched_by)


def parse_layers(wanted: str | Sequence[int], count: int | None) -> list[int]:
    """Layer numbers of a `layers` setting.

    Args:
        wanted: "all", "last:N", "first:N" with a number or a percentage (rounded up), or a list of numbers.
        count: number of layers of the model; None checks the form only.

    Raises:
        ValueError: not of that form, or beyond the model.
    """
    every = list(range(count or 0))
    if isinstance(wanted, str):
        word, _, number = wanted.partition(":")
        if wanted == "all":
            return every
        digits = number.removesuffix("%")
        if word not in {"last", "first"} or not digits.isdecimal() or int(digits) < 1:
            raise ValueError(
                f'{wanted!r} is not "all", "last:N", "first:N" (a number or a percentage) or a list of numbers'
            )
        if number.endswith("%"):
            if int(digits) > 100:
                raise ValueError(f"{wanted!r} is more than all layers")
            chosen = -(-len(every) * int(digits) // 100)
        else:
            chosen = int(digits)
        if count is not None and chosen > count:
            raise ValueError(f"{wanted!r}, but the model has {count} layers")
        return every[-chosen:] if word == "last" else every[:chosen]
    if not wanted:
        raise ValueError("an empty list, expected at least one layer number")
    if len(set(wanted)) != len(wanted) or min(wanted) < 0:
        raise ValueError(f"{list(wanted)} holds a negative or a repeated number")
    if count is not None and max(wanted) >= count:
        raise ValueError(f"{max(wanted)} is beyond the model's last layer, {count - 1}")
    return sorted(wanted)


def _of_layers_form(wanted: str | list[int]) -> str | list[int]:
    parse_layers(wanted, None)
    return wanted


Layers = Annotated[
    str | list[int],
    AfterValidator(_of_layers_form),
    Field(description='"all", "last:N", "first:N" (a number or a percentage) or a list of layer numbers'),
]
LAST_THIRD = "last:33%"

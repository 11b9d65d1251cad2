"""Soft prompts: trainable vectors in front of the text, at the input (Lester et al., arXiv 2104.08691) and, if wanted, at
the entrance of every layer (deep prompts: Liu et al., arXiv 2110.07602; Sun et al., arXiv 2205.11200).

The prompt's places are held by placeholder tokens, whose embeddings a hook replaces; a deep prompt replaces the hidden states
that enter its layer at the same places. So the model is called as always, and keeps positions and masks in its own hands.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tandemtune.errors import ConfigError, RunError
from tandemtune.models.backbone import Backbone
from tandemtune.models.conversations import Opening
from tandemtune.models.layers import LayerStack, hooked
from tandemtune.models.survey import text_config
from tandemtune.optimizers.base import Optimizer, Uses
from tandemtune.plugins import register
from tandemtune.subspace import LayerStatistics, Rule
from tandemtune.tunables.base import (
    INPUT,
    LAST_THIRD,
    PROMPT_LR,
    Given,
    Layers,
    Layerwise,
    Point,
    Tunable,
)
from tandemtune.tunables.lora import TASK_TYPES
from tandemtune.tunables.vocabulary import Vocabulary
from tandemtune.types import Encoded


class Prompt(Layerwise):
    """Vectors in front of the text.

    Where: causal and sequence-to-sequence models take them before everything else, as PEFT does; masked models behind their
    first special token ([CLS]), where there is one. In a conversation words stand at the beginning of the user's turn. The block `INPUT` holds the embeddings [length, width], block i >= 1
    the hidden states [length, h] that enter layer i at those places.

    Args:
        backbone: the model to tune.
        length: number of places.
        start: the input's vectors [length, width] to begin with.
        layers: layers that have vectors of their own, none of them the first; empty for a prompt at the input only.
        opening: what a conversation begins with, where the vectors stand behind that.
    """

    names = ("prompt",)
    side_by_side = True
    token_wise = False

    def __init__(
        self,
        backbone: Backbone,
        length: int,
        start: Tensor,
        layers: Sequence[int] = (),
        opening: Opening | None = None,
    ) -> None:
        self.length = length
        self.blocks = (INPUT, *sorted(layers))
        self.start = start.reshape(-1).float()
        self.deep: dict[int, Tensor] = {}
        self.opening = opening
        self.place = backbone.prompt_place if opening is None else len(opening.ids)
        self.leading = self.place + length
        self.width = backbone.embedding_weight.shape[1]
        self._hidden = backbone.width
        self._backbone = backbone
        self._embeddings = backbone.embeddings
        self._layers = {block: backbone.layers[block] for block in self.blocks if block != INPUT}

    def shapes(self, block: int) -> list[tuple[int, int]]:
        """One matrix [length, width]."""
        return [(self.length, self.width if block == INPUT else self._hidden)]

    def dim(self, block: int) -> int:
        """Numbers in one block."""
        rows, columns = self.shapes(block)[0]
        return rows * columns

    def initial(self) -> dict[int, Tensor]:
        """The prompt to begin with; deep blocks are zero until `deep` says what enters their layers anyway."""
        point = {INPUT: self.start.clone()}
        for block in self.blocks[1:]:
            point[block] = self.deep.get(block, torch.zeros(self.dim(block))).clone()
        return point

    def settle(self, stack: LayerStack, groups: Sequence[Tensor]) -> None:
        """Let the deep blocks begin as the mean of what enters their layers at the prompt's places anyway, so that the
        first point of a deep prompt is (in a causal model exactly) the prompt at the input.

        Args:
            stack: the model's layers.
            groups: token ids [B, T] of prompts with room for this one.
        """
        places = slice(self.place, self.place + self.length)
        states: list[Tensor | None] = [None] * len(groups)
        begin = 0
        with self.applied({INPUT: self.start}):
            for block in self.blocks[1:]:
                states = [
                    stack.hidden(ids, block, start=begin, states=s) for ids, s in zip(groups, states, strict=True)
                ]
                begin = block
                total = sum(s[:, places].float().sum(dim=0) for s in states if s is not None)
                self.deep[block] = (total / sum(map(len, groups))).cpu().reshape(-1).clone()  # type: ignore[union-attr]

    def reserve(self, prompt: Encoded) -> Encoded:
        """Make room: the prompt's places are held by copies of the first token."""
        ids = prompt.ids
        room = (ids[0],) * self.length
        if self.opening is not None:
            return self.opening.with_room(
                prompt, room + self.opening.separator, seq2seq=self._backbone.kind == "seq2seq"
            )
        behind = self._backbone.kind != "seq2seq" and prompt.answer >= self.place
        return replace(
            prompt,
            ids=ids[: self.place] + room + ids[self.place :],
            answer=prompt.answer + (self.length if behind else 0),
        )

    @contextmanager
    def applied(self, point: Point) -> Iterator[None]:
        """Put the vectors of `point` in their places, until the context ends."""
        with ExitStack() as stack:
            for block, vector in point.items():
                matrix = vector.reshape(*vector.shape[:-1], *self.shapes(block)[0])
                if block == INPUT:
                    handle = self._embeddings.register_forward_hook(_in_embeddings(matrix, self.place))
                else:
                    hook = _in_hidden_states(matrix, self.place)
                    handle = self._layers[block].register_forward_pre_hook(hook, with_kwargs=True)
                stack.enter_context(hooked(handle))
            yield

    def applied_behind(self, point: Point) -> AbstractContextManager[None]:
        """Nothing: all places of the vectors are in the prompt."""
        return nullcontext()

    def save(self, point: Point, folder: Path, base_model: str) -> None:
        """Write a PEFT prompt-tuning adapter; for masked models, deep prompts and words inside a conversation, which PEFT does not have in this form,
        ``prompt.safetensors`` with ``prompt.json``.

        Args:
            point: the vectors to keep.
            folder: where the files go.
            base_model: name of the base model, for the record.
        """
        folder.mkdir(parents=True, exist_ok=True)
        matrices = {b: point[b].reshape(self.shapes(b)[0]).contiguous() for b in self.blocks}
        if not self._in_peft:
            save_file(
                {_key(block): matrix for block, matrix in matrices.items()},
                folder / "prompt.safetensors",
                metadata={"format": "pt"},
            )
            content = {
                "base_model": base_model,
                "length": self.length,
                "place": self.place,
                "blocks": list(self.blocks),
                **({} if self.opening is None else {"separator": list(self.opening.separator)}),
            }
            (folder / "prompt.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            return
        model_config: Any = text_config(self._backbone.model)
        config = {
            "peft_type": "PROMPT_TUNING",
            "task_type": TASK_TYPES[self._backbone.kind],
            "base_model_name_or_path": base_model,
            "inference_mode": True,
            "num_virtual_tokens": self.length,
            "token_dim": self.width,
            "num_transformer_submodules": 1,
            "num_attention_heads": model_config.num_attention_heads,
            "num_layers": model_config.num_hidden_layers,
            "prompt_tuning_init": "RANDOM",
        }
        tensors = {"prompt_embeddings": matrices[INPUT]}
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def load(self, folder: Path) -> dict[int, Tensor]:
        """Read the vectors back.

        Raises:
            RunError: the file is missing, damaged, or holds another prompt.
        """
        path = folder / ("adapter_model.safetensors" if self._in_peft else "prompt.safetensors")
        try:
            tensors = load_file(path)
        except Exception as error:  # safetensors raises its own, undocumented types
            raise RunError(f"prompt {path} cannot be read: {error}") from error
        keys = {block: "prompt_embeddings" if self._in_peft else _key(block) for block in self.blocks}
        for key in sorted(tensors.keys() - set(keys.values())):
            raise RunError(f"prompt {path} also holds {key}, expected {', '.join(keys.values())}: it has other layers")
        point: dict[int, Tensor] = {}
        for block, key in keys.items():
            found = tensors.get(key)
            if found is None or tuple(found.shape) != self.shapes(block)[0]:
                came = "nothing" if found is None else f"shape {tuple(found.shape)}"
                raise RunError(
                    f"prompt {path}: expected {key} of shape {self.shapes(block)[0]}, found {came}: it was made for another "
                    "model or length"
                )
            point[block] = found.float().reshape(-1)
        return point

    def said(self) -> str:
        """Words, where they stand in the user's turn."""
        if self.opening is None:
            return ""
        return f"the user's turn begins with the words of the prompt{', then a line break' if self.opening.separator else ''}"

    def describe(self) -> dict[str, Any]:
        """Length, layers and number of parameters."""
        return {
            "length": self.length,
            "place": self.place,
            "layers": list(self.blocks),
            "parameters": sum(self.dim(block) for block in self.blocks),
        }

    @property
    def _in_peft(self) -> bool:
        return self._backbone.kind in TASK_TYPES and len(self.blocks) == 1 and self.opening is None


def _key(block: int) -> str:
    return "input" if block == INPUT else f"layer.{block}"


def _spread(matrix: Tensor, rows: int, like: Tensor) -> Tensor:
    """Vectors [length, h] for all rows, or [P, length, h] for P equal parts of the rows: [rows or 1, length, h]."""
    given = matrix.to(device=like.device, dtype=like.dtype)
    return given.unsqueeze(0) if given.ndim == 2 else given.repeat_interleave(rows // len(given), dim=0)


def _in_embeddings(matrix: Tensor, place: int) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        changed = output.clone()
        changed[:, place : place + matrix.shape[-2]] = _spread(matrix, len(output), output)
        return changed

    return hook


def _in_hidden_states(matrix: Tensor, place: int) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = next(iter(inspect.signature(module.forward).parameters))
        entering = args[0] if args else kwargs[name]
        changed = entering.clone()
        changed[:, place : place + matrix.shape[-2]] = _spread(matrix, len(entering), entering)
        return ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, name: changed})

    return hook


class PromptOptions(Tunable):
    """Base of tunables with a prompt before the text."""

    prompt_tokens: Annotated[int, Field(ge=1, le=512)] = Field(default=8, description="places of a prompt")
    prompt_text: str | None = Field(
        default=None,
        description="words that a prompt begins as (repeated or cut to its length); random words if left out",
    )
    vocabulary: Literal["words", "all"] = Field(
        default="words",
        description="tokens that a prompt may be read as: whole words of letters, or all but special ones",
    )
    projection: Literal["cosine", "l2"] = Field(
        default="cosine", description="what nearest means when a prompt is read as words"
    )

    def prompt(self, given: Given, layers: Sequence[int] = ()) -> Prompt:
        """A prompt at the input and before some layers, at the words that it begins as.

        Raises:
            ConfigError: there is no room for it, or its text has no tokens.
        """
        length, backbone = self.prompt_tokens, given.backbone
        if length + 8 > backbone.longest:
            raise ConfigError(
                [f"[method] prompt_tokens: {length} leave no room in the {backbone.longest} of the model"]
            )
        if self.prompt_text is None:
            words = given.vocabulary.sample(np.random.default_rng([given.seed, 7]), length)
        else:
            try:
                words = given.vocabulary.fit(self.prompt_text, length)
            except ValueError as error:
                raise ConfigError([f"[method] prompt_text: {error}"]) from None
        return Prompt(backbone, length, given.vocabulary.vectors(words.ids), layers, given.opening)

    @property
    def added_tokens(self) -> int:
        """The prompt's."""
        return self.prompt_tokens

    @property
    def allowed_words(self) -> Literal["words", "all"]:
        """Tokens that the prompt may be read as."""
        return self.vocabulary

    def lr(self, optimizer: Optimizer, vocabulary: Vocabulary) -> float:
        """A share of the embeddings' spread, unless the optimizer scales its own steps."""
        return optimizer.lr_default if optimizer.lr_default != Optimizer.lr_default else PROMPT_LR * vocabulary.sd

    def matrices(self, parameters: Any, block: int) -> tuple[tuple[int, int], ...]:
        """The prompt's vectors as one matrix."""
        return tuple(parameters.shapes(block))

    def statistics(self, parameters: Any, problem: Any, wanted: Rule) -> tuple[Rule, dict[int, LayerStatistics]]:
        """The spread of what the vectors stand among: they are hidden states themselves."""
        rule: Rule = "normal" if wanted == "normal" else "hidden_state"
        return rule, {block: LayerStatistics(problem.hidden_sd(block), {}, {}) for block in self.searched(parameters)}


@register
class SoftPrompt(PromptOptions):
    """Vectors before the text, at the input."""

    kind: ClassVar[str] = "prompt"
    summary: ClassVar[str] = "vectors before the text"
    source: ClassVar[str] = "arXiv 2104.08691"
    card: ClassVar[str] = "A soft prompt"
    takes_words: ClassVar[bool] = True

    def make(self, given: Given) -> Prompt:
        """A prompt at the input."""
        return self.prompt(given)


@register
class DeepPrompt(PromptOptions):
    """Vectors before the text, at the input and before some layers."""

    kind: ClassVar[str] = "deep-prompt"
    summary: ClassVar[str] = "vectors before the text at every layer"
    source: ClassVar[str] = "arXiv 2110.07602"
    card: ClassVar[str] = "A deep soft prompt"

    layers: Layers = LAST_THIRD

    def make(self, given: Given) -> Prompt:
        """A prompt at the input and before the chosen layers.

        Raises:
            ConfigError: none of the chosen layers can have one.
        """
        backbone, layers = given.backbone, given.layers(self.layers)
        first = backbone.depths[0]
        deep = [layer for layer in layers if 0 < layer < first]
        if not deep:
            raise ConfigError(
                [
                    f"[method] layers: {list(layers)} hold no layer that a deep prompt could be put before: choose layers from 1 "
                    f"to {first - 1}, or tunable prompt for the input alone"
                ]
            )
        return self.prompt(given, deep)


@register
class TextPrompt(PromptOptions):
    """A prompt of words, searched as text."""

    kind: ClassVar[str] = "text"
    summary: ClassVar[str] = "a prompt of words"
    source: ClassVar[str] = "IJCAI 2023 (GAP3)"
    card: ClassVar[str] = "A prompt of words"
    searched_by: ClassVar[frozenset[Uses]] = frozenset({"text"})

    def in_turn(self, recipe: Any) -> bool:
        """It is words, whoever searches them."""
        return True

    def make(self, given: Given) -> Prompt:
        """A prompt at the input; its vectors are embeddings of words."""
        return self.prompt(given)

"""Soft prompts: trainable vectors in front of the text, at the input (Lester et al., arXiv 2104.08691) and, if wanted, at
the entrance of every layer (deep prompts: Liu et al., arXiv 2110.07602; Sun et al., arXiv 2205.11200).

The prompt's places are held by placeholder tokens, whose embeddings a hook replaces; a deep prompt replaces the hidden states
that enter its layer at the same places. So the model is called as always, and keeps positions and masks in its own hands.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tandemtune.errors import RunError
from tandemtune.models.backbone import Backbone
from tandemtune.models.layers import LayerStack, hooked
from tandemtune.models.survey import text_config
from tandemtune.tunables.base import INPUT, Layerwise, Point
from tandemtune.tunables.lora import TASK_TYPES
from tandemtune.types import Encoded


class Prompt(Layerwise):
    """Vectors in front of the text.

    Where: causal and sequence-to-sequence models take them before everything else, as PEFT does; masked models behind their
    first special token ([CLS]), where there is one. The block `INPUT` holds the embeddings [length, width], block i >= 1
    the hidden states [length, h] that enter layer i at those places.

    Args:
        backbone: the model to tune.
        length: number of places.
        start: the input's vectors [length, width] to begin with.
        layers: layers that have vectors of their own, none of them the first; empty for a prompt at the input only.
    """

    names = ("prompt",)
    side_by_side = True
    token_wise = False

    def __init__(self, backbone: Backbone, length: int, start: Tensor, layers: Sequence[int] = ()) -> None:
        self.length = length
        self.blocks = (INPUT, *sorted(layers))
        self.start = start.reshape(-1).float()
        self.deep: dict[int, Tensor] = {}
        self.place = 1 if backbone.kind == "masked" and backbone.around.before else 0
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

    def save(self, point: Point, folder: Path, base_model: str) -> None:
        """Write a PEFT prompt-tuning adapter; for masked models and deep prompts, which PEFT does not have in this form,
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
        return self._backbone.kind in TASK_TYPES and len(self.blocks) == 1


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

"""A backbone: a language model as `transformers` loaded it, with its tokenizer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tandemtune.errors import DataError, ModelError
from tandemtune.models.architectures import Architecture, Projection
from tandemtune.models.layers import LayerStack
from tandemtune.tasks.templates import Template
from tandemtune.tasks.verbalizers import Verbalizer
from tandemtune.types import Encoded

Kind = Literal["masked", "causal", "seq2seq"]
_WORD = re.compile(r"\w")


@dataclass(frozen=True)
class Backbone:
    """A frozen language model and its tokenizer.

    Args:
        name: what the user called it.
        model: the model in evaluation mode; its weights are never changed.
        tokenizer: the matching tokenizer (a fast one, since character offsets are needed).
        kind: "masked" reads the hidden word at the mask, "causal" the next word after the prompt, "seq2seq" the first
            word of the decoder's answer.
        architecture: where its layers and projections are.
    """

    name: str
    model: nn.Module
    tokenizer: Any
    kind: Kind
    architecture: Architecture

    def __post_init__(self) -> None:
        if not getattr(self.tokenizer, "is_fast", False):
            raise ModelError(
                f"the tokenizer of {self.name} ({type(self.tokenizer).__name__}) has no character offsets, which are "
                "needed to cut texts without touching the template: save it as a fast tokenizer (tokenizer.json)"
            )
        if self.kind == "masked" and self.tokenizer.mask_token_id is None:
            raise ModelError(f"{self.name} is a masked model but its tokenizer has no mask token")

    @property
    def layers(self) -> list[nn.Module]:
        """The transformer layers in the order in which they run; of two stacks, the encoder's come first."""
        return [layer for path in self.architecture.paths for layer in self.model.get_submodule(path).children()]

    def layer_path(self, index: int) -> str:
        """Where a layer lies in the model, for example "model.layers.7"."""
        first, *rest = self.architecture.paths
        count = len(list(self.model.get_submodule(first).children()))
        return f"{first}.{index}" if index < count or not rest else f"{rest[0]}.{index - count}"

    def projections(self, index: int) -> tuple[Projection, ...]:
        """The maps of a layer that LoRA is put on."""
        first = self.architecture.paths[0]
        own = self.layer_path(index).startswith(f"{first}.")
        return self.architecture.projections if own else self.architecture.decoder_projections

    @property
    def embeddings(self) -> nn.Module:
        """The module that embeds the prompt's tokens."""
        path = self.architecture.embeddings
        return self.model.get_submodule(path) if path else self.model.get_input_embeddings()  # type: ignore[operator]

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.model.parameters()).device

    @property
    def embedding_weight(self) -> Tensor:
        """The embedding matrix [V, width] of that module."""
        weight: Tensor = self.embeddings.weight  # type: ignore[assignment]
        return weight

    @property
    def begins_with_a_mark(self) -> bool:
        """Whether the tokenizer puts a special token before every text."""
        ids = self.tokenizer("a")["input_ids"]
        return len(ids) > 1 and ids[0] in self.tokenizer.all_special_ids

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        config: Any = self.model.config
        given = getattr(config, "head_dim", None)
        return int(given or config.hidden_size // config.num_attention_heads)

    @property
    def longest(self) -> int:
        """How many tokens the model's position table allows (a large number if it has none)."""
        config: Any = self.model.config
        limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
        reserved = (
            2 if getattr(config, "model_type", "") in {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert"} else 0
        )
        return int(limit) - reserved if limit else 1_000_000

    def stack(self, verbalizer: Verbalizer) -> LayerStack:
        """The model's layers as a pipeline that ends in the logits of the label words."""
        ids = torch.tensor(verbalizer.token_ids, dtype=torch.long)
        found = self.architecture
        tuned = [projection.module for projection in found.projections]
        narrow = [name for name in found.narrow if not any(f"{module}.".startswith(f"{name}.") for module in tuned)]
        padding = getattr(self.model.config, "pad_token_id", None) or 0
        first = {"zero": 0, "behind padding": int(padding) + 1, None: None}[found.positions]
        return LayerStack(self.model, found.layers, found.trunk, ids, narrow, found.decoder, found.decoder_reads, first)

    @property
    def filler(self) -> int | None:
        """The token that stands for a missing one: the mask, or T5's first sentinel; None where there is none."""
        sentinel = self.tokenizer.convert_tokens_to_ids("<extra_id_0>") if self.kind == "seq2seq" else None
        if sentinel is not None and sentinel != self.tokenizer.unk_token_id:
            return int(sentinel)
        mask: int | None = self.tokenizer.mask_token_id
        return mask

    @torch.inference_mode()
    def likely_token(self, ids: Sequence[int], place: int) -> Tensor:
        """How likely each token is at a place of a text, given what stands around it (causal models: before it).

        Args:
            ids: token ids of the text, without special tokens.
            place: index in `ids`.

        Returns:
            Logits [V], float32.
        """
        tokenizer, before, behind = self.tokenizer, list(ids[:place]), list(ids[place + 1 :])
        if self.kind == "causal":
            begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
            read = (begin + before) or [tokenizer.eos_token_id or 0]
            return self.model(input_ids=torch.tensor([read], device=self.device)).logits[0, -1].float()  # type: ignore[no-any-return]
        gap = self.filler
        plain, marked = (tokenizer("a", add_special_tokens=marks)["input_ids"] for marks in (False, True))
        first = next(i for i in range(len(marked)) if marked[i : i + len(plain)] == plain)
        read = [*marked[:first], *before, gap, *behind, *marked[first + len(plain) :]]
        given: dict[str, Any] = {"input_ids": torch.tensor([read], device=self.device)}
        if self.kind == "masked":
            return self.model(**given).logits[0, read.index(gap)].float()  # type: ignore[no-any-return]
        begin = [int(self.model.config.decoder_start_token_id)]  # type: ignore[union-attr,arg-type]
        begin += [gap] if gap != tokenizer.mask_token_id else before
        given["decoder_input_ids"] = torch.tensor([begin], device=self.device)
        return self.model(**given).logits[0, -1].float()  # type: ignore[no-any-return]

    def check_template(self, template: Template) -> None:
        """Refuse a template that this kind of model cannot answer.

        Raises:
            ModelError: a model that answers behind the text is asked for a word inside it.
        """
        rest = template.after_mask
        if self.kind != "masked" and any(kind == "slot" or _WORD.search(value) for kind, value in rest):
            how = "reads from left to right" if self.kind == "causal" else "answers after it has read the text"
            raise ModelError(
                f"{self.name} is a {self.kind} model: it {how}, so {{mask}} must be the last word of "
                f"the template, but {str(template)!r} goes on after it"
            )

    def encode(self, template: Template, fields: Mapping[str, str], max_tokens: int) -> Encoded:
        """Turn one example into token ids; a text that is too long loses its end, the template loses nothing.

        Args:
            template: the task's template.
            fields: the example's texts.
            max_tokens: upper bound on the number of ids, special tokens included.

        Raises:
            DataError: the template alone is longer than `max_tokens`.
        """
        limit = min(max_tokens, self.longest)
        kept = {name: self._without_marks(fields[name]) for name in template.fields if name in fields}
        while True:
            ids, answer, cuts = self._tokenize(template, kept)
            excess = len(ids) - limit
            if excess <= 0:
                return Encoded(tuple(ids), answer)
            kept = self._shorten(template, kept, cuts, excess, limit)

    def _without_marks(self, text: str) -> str:
        """Text whose spelled-out special tokens ("[SEP]", "<|endoftext|>") are words like any other, not marks."""
        for mark in self.tokenizer.all_special_tokens:
            if len(mark) > 1 and mark in text:
                text = text.replace(mark, f"{mark[0]} {mark[1:]}")
        return text

    def _shorten(
        self, template: Template, kept: dict[str, str], cuts: dict[str, list[int]], excess: int, limit: int
    ) -> dict[str, str]:
        """Drop tokens from the end of the longest field, down to the second longest or by its share of the excess."""
        lengths = sorted(((len(ends), name) for name, ends in cuts.items()), reverse=True)
        longest, name = lengths[0] if lengths else (0, "")
        if longest == 0:
            raise DataError(
                f"the template {str(template)!r} alone is longer than max_tokens = {limit}: "
                f"raise [task] max_tokens (the model allows {self.longest}) or shorten the template"
            )
        second = lengths[1][0] if len(lengths) > 1 else 0
        drop = min(excess, max(1, longest - second, excess // len(lengths)))
        ends = cuts[name]
        keep = longest - drop
        while keep > 0 and ends[keep - 1] == ends[keep]:
            keep -= 1  # pieces of one character stay or go together
        return {**kept, name: kept[name][: ends[keep - 1]] if keep > 0 else ""}

    def _tokenize(self, template: Template, fields: Mapping[str, str]) -> tuple[list[int], int, dict[str, list[int]]]:
        """Ids, answer position, and for each field the character ends (inside the field) of its tokens."""
        masked = self.kind == "masked"
        rendered = template.render(fields, self.tokenizer.mask_token if masked else "")
        text = rendered.text if masked else rendered.text[: rendered.mask[0]].rstrip(" ")
        encoding = self.tokenizer(text, return_offsets_mapping=True, verbose=False)
        ids: list[int] = list(encoding["input_ids"])
        offsets: list[tuple[int, int]] = list(encoding["offset_mapping"])
        if masked:
            start, end = rendered.mask
            mask = self.tokenizer.mask_token_id  # looked up once: texts may be long
            answers = [i for i, (a, b) in enumerate(offsets) if ids[i] == mask and a < end and b > start]
            if len(answers) != 1:
                raise DataError(f"the tokenizer of {self.name} lost the mask of {text[:80]!r}")
            answer = answers[0]
        elif self.kind == "seq2seq":
            answer = 0  # of the decoder
        else:
            while len(ids) > 1 and ids[-1] == self.tokenizer.eos_token_id and offsets[-1][0] == offsets[-1][1]:
                offsets.pop()
                ids.pop()  # an end-of-text mark behind the prompt would be what the model answers to
            answer = len(ids) - 1
            if answer < 0:
                raise DataError("an empty prompt: the template has no words and the text is empty")
        cuts: dict[str, list[int]] = {}
        for name, (start, end) in rendered.spans.items():
            inside = (b for a, b in offsets if b > a and a >= start - 1 and start < b <= end)
            cuts[name] = sorted(b - start for b in inside)
        return ids, answer, cuts

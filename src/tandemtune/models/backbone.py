"""A backbone: a language model as `transformers` loaded it, with its tokenizer."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from tandemtune.errors import DataError, ModelError
from tandemtune.models.architectures import Architecture, Projection
from tandemtune.models.layers import LayerStack
from tandemtune.models.marks import Around, around, broken, control_ids
from tandemtune.models.passages import PassageStack
from tandemtune.models.prompts import Truncate, goes_on, longest_of, no_room, prompt_text, shortened
from tandemtune.models.quiet import quiet
from tandemtune.models.survey import TOKENS, plain_ids, plain_inputs, text_config
from tandemtune.tasks.templates import Template
from tandemtune.tasks.verbalizers import Verbalizer
from tandemtune.types import Encoded

Kind = Literal["masked", "causal", "seq2seq", "image-text"]
_Stack = TypeVar("_Stack", bound=LayerStack)


@dataclass(frozen=True)
class Backbone:
    """A frozen language model and its tokenizer.

    Args:
        name: what the user called it.
        model: the model in evaluation mode; its weights are never changed.
        tokenizer: the matching tokenizer (a fast one, since character offsets are needed).
        kind: "masked" reads the hidden word at the mask, "causal" the next word after the prompt, "seq2seq" the first
            word of the decoder's answer; "image-text" compares images with texts (`models.image_text`).
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

    @cached_property
    def layers(self) -> list[nn.Module]:
        """The transformer layers in the order in which they run; of two stacks, the encoder's come first."""
        return [self.model.get_submodule(path) for path in self._layer_paths]

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """How many layers each stack has."""
        return tuple(len(self.model.get_submodule(path)) for path in self.architecture.paths)  # type: ignore[arg-type]

    @cached_property
    def _layer_paths(self) -> list[str]:
        stacks = zip(self.architecture.paths, self.depths, strict=True)
        return [f"{path}.{index}" for path, depth in stacks for index in range(depth)]

    def layer_path(self, index: int) -> str:
        """Where a layer lies in the model, for example "model.layers.7"."""
        return self._layer_paths[index]

    def projections(self, index: int) -> tuple[Projection, ...]:
        """The maps of a layer that LoRA is put on; none where the layer has no such map."""
        return self.architecture.projections[index]

    def side_by_side(self, modules: Iterable[nn.Module]) -> bool:
        """Whether candidates that change these modules can stand side by side in one batch."""
        mixed = {self.model.get_submodule(name) for name in self.architecture.mixed}
        return mixed.isdisjoint(modules)

    @property
    def embeddings(self) -> nn.Module:
        """The module that embeds the prompt's tokens."""
        path = self.architecture.embeddings
        return self.model.get_submodule(path) if path else self.model.get_input_embeddings()  # type: ignore[operator]

    @property
    def prompt_place(self) -> int:
        """Where a prompt stands among a text's tokens."""
        return 1 if self.kind == "masked" and self.around.before else 0

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """All weights by name."""
        return self.model.state_dict()

    @property
    def fills_gaps(self) -> bool:
        """Whether the model can say how likely a word is inside a text."""
        return self.kind == "causal" or self.filler is not None

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
    def width(self) -> int:
        """Width of the hidden states."""
        return int(text_config(self.model).hidden_size)

    @cached_property
    def around(self) -> Around:
        """The marks that the tokenizer puts round every text."""
        return around(self.tokenizer)

    @cached_property
    def prefix(self) -> tuple[int, ...]:
        """What a decoder has been given when it writes the first word of its answer; empty for a model of one stack.

        Behind the mark that it begins with stands what `generate` is told to force, or the mark that its tokenizer puts before
        a target (BART's <s>, the code of a language), if that is what the model writes first.

        Raises:
            ModelError: the model does not say what it begins with.
        """
        if self.kind != "seq2seq":
            return ()
        settings = (getattr(self.model, "generation_config", None), self.model.config)
        start = _setting(settings, "decoder_start_token_id")
        if start is None:
            raise ModelError(
                f"{self.name} does not say what its decoder begins with: put decoder_start_token_id into its config.json "
                "(of a model of several languages the code of the answers' one, where it begins with that)"
            )
        forced = _setting(settings, "forced_bos_token_id")
        if forced is not None:
            return start, forced
        marks = _target_marks(self.tokenizer)
        if not marks:
            return (start,)
        with torch.inference_mode():
            first = int(self._plain_logits(self.tokenizer("it was a good day")["input_ids"], [start])[-1].argmax())
        names = ("eos_token_id", "pad_token_id", "unk_token_id", "mask_token_id")
        ordinary = {getattr(self.tokenizer, name) for name in names} - {marks[0]}
        written = first == marks[0] or first in set(self.tokenizer.all_special_ids) - ordinary
        return (start, *marks) if written else (start,)

    @cached_property
    def longest(self) -> int:
        """How many tokens the model's position table allows (a large number if it has none)."""
        stated = longest_of(self.model.config)
        return min(stated, self.architecture.positions or stated)

    def stack(self, verbalizer: Verbalizer) -> LayerStack:
        """The model's layers as a pipeline that ends in the logits of the label words.

        Raises:
            ModelError: the model has no word of that number, or cannot be run layer by layer.
        """
        return self._checked(LayerStack, verbalizer)

    def passages(self, verbalizer: Verbalizer) -> PassageStack:
        """The model's layers as a pipeline that reads and writes whole answers.

        Raises:
            ModelError: the model cannot be run layer by layer.
        """
        return self._checked(PassageStack, verbalizer)

    def _checked(self, form: type[_Stack], verbalizer: Verbalizer) -> _Stack:
        head = self.model.get_output_embeddings()  # type: ignore[operator]
        if head is not None:
            self._check_known(verbalizer.token_ids, len(head.weight))
        ids = torch.tensor(verbalizer.token_ids, dtype=torch.long)
        made = form(self.model, self.architecture, ids, self.prefix)
        if self.kind == "causal":
            self._check_order(made)
        return made

    @torch.inference_mode()
    def _check_order(self, stack: LayerStack) -> None:
        """Refuse a model that looks ahead, but is to read from left to right."""
        first, *others = plain_ids(self.model, TOKENS + 1).tolist()
        ids = torch.tensor([[*others, others[0]], [*others, first]], device=self.device)
        one, other = self.model(**plain_inputs(self.model, ids, None)).logits[:, :-1].float()
        if not stack.same(one, other):
            raise ModelError(
                f"{self.name} ({type(self.model).__name__}) looks at words behind the one that it predicts, so it does not read "
                'from left to right: set [model] kind = "masked", or choose a causal model (one of BERT\'s form needs '
                "is_decoder in its config.json)"
            )

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
            return self._plain_logits(read)[-1]
        gap: int = self.filler  # type: ignore[assignment]
        read = [*self.around.before, *before, gap, *behind, *self.around.behind]
        if self.kind == "masked":
            return self._plain_logits(read)[read.index(gap)]
        written = [gap] if gap != tokenizer.mask_token_id else before
        return self._plain_logits(read, [*self.prefix, *written])[-1]

    def _plain_logits(self, ids: Sequence[int], decoder: Sequence[int] = ()) -> Tensor:
        """Logits [T, V] of the plain model for one text, float32; those of its answer where it has a decoder."""
        self._check_known((*ids, *decoder))
        text, answer = (torch.tensor([list(part)], device=self.device) for part in (ids, decoder))
        given = plain_inputs(self.model, text, answer if decoder else None)
        return self.model(**given).logits[0].float()  # type: ignore[no-any-return]

    @torch.inference_mode()
    def check_reading(self, stack: LayerStack, prompt: Encoded) -> None:
        """Make sure that a prompt's answer is read where the model itself gives it.

        Args:
            stack: the model as a pipeline.
            prompt: a prompt without anything that a tunable puts into it.

        Raises:
            ModelError: `generate` (of a masked model, the plain model at its mask) gives the label words other logits.
        """
        ids = torch.tensor([prompt.ids], device=self.device)
        ours = stack.logits(ids, torch.tensor([prompt.answer], device=self.device))
        if self.kind == "masked":
            theirs = self._plain_logits(prompt.ids)[prompt.ids.index(self.tokenizer.mask_token_id)]
        else:
            generated = self._generated(ids)
            theirs = self._plain_logits(prompt.ids, self.prefix)[-1] if generated is None else generated
        if not stack.agrees(ours, theirs.unsqueeze(0)):
            raise ModelError(
                f"{self.name} gives the label words other scores when it is asked for its answer in the ordinary way, so the "
                "answer would be read at the wrong place: its settings for generation are not supported"
            )

    def _generated(self, ids: Tensor) -> Tensor | None:
        """Logits [V] of the first word that `generate` writes behind the marks of an answer; None if it cannot be asked."""
        model: Any = self.model
        if not (hasattr(model, "can_generate") and model.can_generate()):
            return None
        forced = _setting((model.generation_config, model.config), "forced_bos_token_id") is not None
        given: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "do_sample": False, "num_beams": 1}
        steps = 1
        if self.prefix and forced:
            steps = len(self.prefix)  # it writes the marks itself
        elif self.prefix:
            given["decoder_input_ids"] = torch.tensor([self.prefix], device=self.device)
        given |= {"output_logits": True, "return_dict_in_generate": True}
        try:
            with quiet():
                made = model.generate(ids, **given, max_new_tokens=steps, min_new_tokens=steps)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # some models can be run, but do not fit the code that generates
            return None
        return made.logits[-1][0].float()  # type: ignore[no-any-return]

    def check_template(self, template: Template) -> None:
        """Refuse a template that this kind of model cannot answer.

        Raises:
            ModelError: a model that answers behind the text is asked for a word inside it.
        """
        why = goes_on(self.name, self.kind, template)
        if why:
            raise ModelError(why)

    def encode(
        self, template: Template, fields: Mapping[str, str], max_tokens: int, truncate: Truncate = "end"
    ) -> Encoded:
        """Turn one example into token ids; a text that is too long loses a part, the template loses nothing.

        Args:
            template: the task's template.
            fields: the example's texts.
            max_tokens: upper bound on the number of ids, special tokens included.
            truncate: the part that a text loses.

        Raises:
            DataError: the template alone is longer than `max_tokens`.
        """
        return self.fitted(template, fields, max_tokens, truncate)[0]

    def fitted(
        self, template: Template, fields: Mapping[str, str], max_tokens: int, truncate: Truncate = "end"
    ) -> tuple[Encoded, dict[str, str]]:
        """The same, with the texts as they are read: cut, and spelling out no mark; see `encode`."""
        limit = min(max_tokens, self.longest)
        kept = {name: fields[name] for name in template.fields if name in fields}
        lost = 0
        for attempt in itertools.count():
            ids, answer, cuts, marks = self._tokenize(template, kept)
            excess = len(ids) - limit
            if any(marks.values()):  # a text that spells out a mark ("[SEP]", "<think>") is words like any other
                kept |= {name: broken(kept[name], spans, shorter=attempt > 2) for name, spans in marks.items()}
            elif excess > 0:
                lost = lost or excess
                if not any(cuts.values()):
                    raise no_room(template, limit, self.longest)
                kept = shortened(kept, cuts, excess, truncate)
            else:
                break
        self._check_known(ids)
        return Encoded(tuple(ids), answer, lost), kept

    def _check_known(self, ids: Sequence[int], rows: int | None = None) -> None:
        """Refuse tokens that the model has no vectors for."""
        index, rows = max(ids), rows or len(self.embedding_weight)
        if index < rows:
            return
        raise ModelError(
            f"the tokenizer of {self.name} makes token {index} ({self.tokenizer.convert_ids_to_tokens(index)!r}) of a text, but "
            f"the model knows {rows} tokens only: tokenizer and model do not belong together, take both from one place"
        )

    def _tokenize(
        self, template: Template, fields: Mapping[str, str]
    ) -> tuple[list[int], int, dict[str, list[int]], dict[str, list[tuple[int, int]]]]:
        """Ids, answer position, and for each field the character ends of its tokens and the spans of marks (inside it)."""
        masked = self.kind == "masked"
        text, rendered = prompt_text(self.tokenizer, self.kind, template, fields)
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
            answer = len(self.prefix) - 1  # of the decoder
        else:
            behind = len(self.around.behind)
            if behind and tuple(ids[-behind:]) == self.around.behind:
                # a mark behind the prompt would be what the model answers to
                ids, offsets = ids[:-behind], offsets[:-behind]
            answer = len(ids) - 1
        if not ids:
            raise DataError("an empty prompt: the template has no words and the text is empty")
        cuts: dict[str, list[int]] = {}
        for name, (start, end) in rendered.spans.items():
            inside = (b for a, b in offsets if b > a and a >= start - 1 and start < b <= end)
            cuts[name] = sorted(b - start for b in inside)
        controls = [(a, b) for i, (a, b) in zip(ids, offsets, strict=True) if self._is_control(i, text[a:b])]
        marks = {
            name: [(a - start, min(b, end) - start) for a, b in controls if a < end and b > start]
            for name, (start, end) in rendered.spans.items()
        }
        return ids, answer, cuts, marks

    def _is_control(self, index: int, text: str) -> bool:
        """Whether a token is a mark that its text spells out; what stands for an unknown word is none."""
        if index not in self._controls or not text:
            return False
        return bool(index != self.tokenizer.unk_token_id or text.strip() == self.tokenizer.unk_token)

    @cached_property
    def _controls(self) -> frozenset[int]:
        return control_ids(self.tokenizer)


def _setting(settings: Sequence[Any], name: str) -> int | None:
    """A token that the first of some settings names that has such an entry."""
    found = (getattr(one, name, None) for one in settings)
    return next((int(value[0] if isinstance(value, list) else value) for value in found if value is not None), None)


def _target_marks(tokenizer: Any) -> tuple[int, ...]:
    """The marks that a tokenizer puts before what a decoder has to write."""
    try:
        return around(tokenizer, target=True).before
    except Exception:  # tokenizers of several languages want to be told which one
        return around(tokenizer).before

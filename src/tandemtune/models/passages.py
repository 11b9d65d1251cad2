"""Prompts with whole answers through an unmodified model: the likelihood of given ones, and the next token of those that are
being written, whose keys and values are kept.

A passage is a prompt with an answer behind it: in one row of a causal model, or in the decoder of a model of two stacks. Its
tokens' log-probabilities are read at many positions of one pass; only those positions reach the head.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tandemtune.models.architectures import Architecture
from tandemtune.models.layers import LayerStack, replaced_forward
from tandemtune.models.spans import Spans
from tandemtune.models.survey import accepted, hooked, text_config


class PassageStack(LayerStack):
    """A `LayerStack` that also reads and writes whole answers; a decoder is given the answer behind its marks.

    Args:
        model: a causal or sequence-to-sequence language model.
        architecture: where its layers are.
        token_ids: vocabulary ids whose logits are computed where nobody asks for all.
        prefix: what a decoder is given before its answer; empty for a model of one stack.

    Raises:
        ModelError: the model cannot be run layer by layer.
    """

    def __init__(
        self, model: nn.Module, architecture: Architecture, token_ids: Tensor, prefix: Sequence[int] = ()
    ) -> None:
        self._answers: Tensor | None = None
        super().__init__(model, architecture, token_ids, prefix)
        self.begin = self._prefix

    def inputs(self, ids: Tensor) -> dict[str, Any]:
        """What the model's forward is called with for token ids [n, T], with the answers that are given at the moment."""
        given = super().inputs(ids)
        if self._answers is not None:
            given["decoder_input_ids"] = self._answers
        return given

    @contextmanager
    def answering(self, answers: Tensor | None) -> Iterator[None]:
        """Give the decoder these tokens, marks included, until the context ends.

        Args:
            answers: [n, D]; None for a model of one stack.
        """
        before = self._answers, self._prefix
        self._answers = answers
        if answers is not None:
            self._prefix = tuple(answers[0].tolist())  # how many they are is asked of it
        try:
            yield
        finally:
            self._answers, self._prefix = before

    def log_probabilities(
        self,
        ids: Tensor,
        places: Tensor,
        targets: Tensor,
        *,
        owners: Tensor | None = None,
        answers: Tensor | None = None,
        start: int = 0,
        states: Tensor | None = None,
        gradient: bool = False,
        mask: Tensor | None = None,
        spans: Spans = (),
        most: int | None = None,
    ) -> Tensor:
        """Log-probabilities of given tokens, each where it is predicted.

        Args:
            ids: token ids [n, T].
            places: index of the position that predicts each target [K]; in every row where prompts lie end to end.
            targets: the tokens [K].
            owners: the row of each place [K]; None where prompts lie end to end.
            answers: what a decoder is given [n, D]; None for a model of one stack, whose rows hold the answers.
            start: layer that `states` enter.
            states: hidden states entering layer `start`; None to begin at the embeddings.
            gradient: keep what a backward pass needs.
            mask: 0 for tokens that nothing may look at [n, T]; None if there are none. Needs states of None.
            spans: the passages that lie end to end in each row; empty where each row is one passage.
            most: targets whose logits of all words are held at once; None for all targets. More go through the head in chunks, which
                a backward pass computes again.

        Returns:
            Float32 [K], or [n * K] where passages lie end to end.
        """
        chosen = targets.repeat(len(ids)) if owners is None else targets
        whole = most is None or len(chosen) <= most or self.trunk is None
        with torch.inference_mode(not gradient), torch.set_grad_enabled(gradient):
            with self.answering(answers), ExitStack() as stack:
                if not gradient:
                    self._be_lean(stack)
                given = self._enter(stack, ids, start, states, spans)
                if mask is not None:
                    given["attention_mask"] = mask
                reached = self._read_at(stack, slice(None) if owners is None else owners, places)
                if not whole:
                    stack.enter_context(replaced_forward(self.head, lambda hidden: hidden[:1, :1, :1]))
                logits = self.model(**given).logits
            if whole:
                return _log_probabilities(logits, chosen)
            ((output, hidden),) = reached
            parts = zip(hidden.split(most), chosen.split(most), strict=True)  # type: ignore[no-untyped-call]
            return torch.cat([self._of_targets(output, *part, gradient) for part in parts])

    def _of_targets(self, output: Any, hidden: Tensor, targets: Tensor, gradient: bool) -> Tensor:
        """Log-probabilities [k] of targets whose hidden states [k, 1, h] have left the trunk, by all that the model does behind it.

        Args:
            output: what the trunk has returned.
            hidden: what it is to return instead.
            targets: the tokens.
            gradient: a backward pass computes this anew, so that nothing as wide as the vocabulary is kept for it.
        """

        def found(hidden: Tensor) -> Tensor:
            given = super(PassageStack, self).inputs(targets[:1, None])
            if self.encoder_layers is not None:
                given["encoder_outputs"] = self._read_as(hidden[:1])
            with replaced_forward(self.trunk, lambda *_, **__: _with_first(output, hidden)):  # type: ignore[arg-type]
                return _log_probabilities(self.model(**given).logits, targets)

        if not gradient:
            return found(hidden)
        return checkpoint(found, hidden, use_reentrant=False, preserve_rng_state=False)  # type: ignore[no-any-return]

    def entering(self, ids: Tensor, stop: int, *, answers: Tensor | None, **given: Any) -> Tensor:
        """Hidden states that enter layer `stop`, see `hidden`, with answers in the decoder."""
        with self.answering(answers):
            return self.hidden(ids, stop, **given)

    # ---- writing ----

    @property
    def vocabulary(self) -> int:
        """How many tokens the head scores."""
        return len(self.head.weight)

    def new_cache(self) -> Any:
        """An empty cache of keys and values."""
        from transformers import DynamicCache, EncoderDecoderCache

        config: Any = text_config(self.model)
        if self.encoder_layers is None:
            return DynamicCache(config=config)
        return EncoderDecoderCache(DynamicCache(config=config), DynamicCache())

    def prompts_kept(self, ids: Tensor, mask: Tensor | None, stop: int) -> tuple[Any, Tensor]:
        """Keys and values of prompts in the layers below `stop` of a model of one stack, and what enters that layer.

        Args:
            ids: token ids [n, T].
            mask: 0 for filling behind a prompt [n, T]; None if there is none.
            stop: layer index, at least 1.
        """
        cache = self.new_cache()
        caught: list[Tensor] = []

        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            caught.append(args[0] if args else kwargs[self._first_names[module]])

        with torch.inference_mode(), ExitStack() as stack:
            self._be_lean(stack)
            stack.enter_context(
                hooked(self.layers[stop].register_forward_pre_hook(note, with_kwargs=True, prepend=True))
            )
            step_over = self._step_over()
            for layer in self.layers[stop:]:
                stack.enter_context(replaced_forward(layer, step_over(layer)))
            self._read_at(stack, torch.arange(len(ids), device=ids.device), ids.new_zeros(len(ids)))
            self.model(**self._kept(ids, cache, mask, None))
        return cache, caught[0]

    def first_logits(
        self,
        ids: Tensor,
        last: Tensor,
        cache: Any,
        *,
        mask: Tensor | None = None,
        start: int = 0,
        states: Tensor | None = None,
    ) -> Tensor:
        """Logits [n, V] of the first token behind prompts, in a model of one stack; fills the cache from layer `start` on.

        Args:
            ids: token ids [n, T].
            last: index of each prompt's last token [n].
            cache: empty.
            mask: 0 for filling behind a prompt [n, T]; None if there is none.
            start: layer that `states` enter.
            states: hidden states [n, T, h]; None to begin at the embeddings.
        """
        with torch.inference_mode(), ExitStack() as stack:
            self._be_lean(stack)
            if states is not None:
                self._enter(stack, ids, start, states, ())
            self._read_at(stack, torch.arange(len(ids), device=ids.device), last)
            return self.model(**self._kept(ids, cache, mask, None)).logits[:, 0].float()  # type: ignore[no-any-return]

    def next_logits(self, ids: Tensor, cache: Any, mask: Tensor | None, positions: Tensor | None) -> Tensor:
        """Logits [n, V] of the token behind the last of `ids`, in a model of one stack.

        Args:
            ids: the tokens that were written last [n, 1].
            cache: keys and values of everything before.
            mask: 0 for filling [n, everything]; None if there is none.
            positions: of the tokens [n, 1]; None where the cache tells.
        """
        return self.model(**self._kept(ids, cache, mask, positions)).logits[:, -1].float()  # type: ignore[no-any-return]

    def answer_logits(self, ids: Tensor, cache: Any, text: Tensor, mask: Tensor | None) -> Tensor:
        """Logits [n, V] of the token behind the last of `ids`, in the decoder of a model of two stacks.

        Args:
            ids: the marks at first, then the token that was written last [n, D].
            cache: empty at first.
            text: the encoder's output [n, T, h].
            mask: 0 for filling behind a text [n, T]; None if there is none.
        """
        given: dict[str, Any] = {"encoder_outputs": self._read_as(text), "decoder_input_ids": ids}
        given |= {"past_key_values": cache, "use_cache": True}
        if mask is not None:
            given["attention_mask"] = mask
        return self.model(**given).logits[:, -1].float()  # type: ignore[no-any-return]

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Where tokens are written one by one: without gradient, moving less memory."""
        with torch.inference_mode(), ExitStack() as stack:
            self._be_lean(stack)
            yield

    def _kept(self, ids: Tensor, cache: Any, mask: Tensor | None, positions: Tensor | None) -> dict[str, Any]:
        given: dict[str, Any] = {"input_ids": ids, "past_key_values": cache, "use_cache": True}
        if mask is not None:
            given["attention_mask"] = mask
        if positions is not None and "position_ids" in accepted(self.model):
            given["position_ids"] = positions
        return given

    def _read_at(self, stack: ExitStack, rows: Any, places: Tensor) -> list[tuple[Any, Tensor]]:
        """Let only some positions reach what is behind the layers: [K or n * K, 1, h].

        Returns:
            Empty; what the trunk returns, and these positions of it, when it has been called.
        """

        def at_places(hidden: Tensor) -> Tensor:
            return hidden[rows, places].flatten(0, -2).unsqueeze(1)

        reached: list[tuple[Any, Tensor]] = []

        def pick(module: nn.Module, args: Any, output: Any) -> Any:
            picked = at_places(output if isinstance(output, Tensor) else output[0])
            reached.append((output, picked))
            return _with_first(output, picked)

        def before_head(module: nn.Module, args: tuple[Any, ...]) -> Any:
            return args if reached else (at_places(args[0]), *args[1:])

        if self.trunk is not None:
            stack.enter_context(hooked(self.trunk.register_forward_hook(pick)))
        stack.enter_context(hooked(self.head.register_forward_pre_hook(before_head)))
        return reached


def _with_first(output: Any, hidden: Tensor) -> Any:
    """What a module has returned, with other hidden states in its first place; an output with names is changed."""
    if isinstance(output, Tensor):
        return hidden
    if isinstance(output, tuple):
        return (hidden, *output[1:])
    output[next(iter(output))] = hidden
    return output


def _log_probabilities(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities [k] of tokens by logits [k, 1, V], float32."""
    words = logits[:, 0].float()
    picked = words.gather(1, targets.unsqueeze(1)).squeeze(1)
    return picked - words.logsumexp(dim=1)


def joined(shared: Any, own: Any, below: int, rows: Tensor) -> Any:
    """A cache of keys and values whose lower layers are shared.

    Args:
        shared: of the prompts, filled below a layer.
        own: of all rows, filled from that layer on; it is changed and returned.
        below: the layer.
        rows: the prompt of each row.
    """
    for index in range(below):
        layer = copy.copy(shared.layers[index])
        for name, value in vars(layer).items():  # states of convolutions and recurrences lie in lists and dicts
            if isinstance(value, list | dict):
                setattr(layer, name, copy.copy(value))
        layer.reorder_cache(rows)
        own.layers[index] = layer
    return own


def select(cache: Any, rows: Tensor) -> None:
    """Keep some rows of a cache."""
    for part in (cache,) if hasattr(cache, "layers") else (cache.self_attention_cache, cache.cross_attention_cache):
        for layer in part.layers:
            layer.reorder_cache(rows)

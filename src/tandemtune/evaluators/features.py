"""What the model knows about each row, as vectors: for readouts that are solved, not searched.

The main view is the vector that enters the output embedding at the answer position, after everything a model does on the way
there (final norms, T5's scaling, BERT's transform). A view of the text is the mean of its tokens' hidden states. All views and
the label logits come out of one pass.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from tandemtune.evaluators.batch import Batch, Group
from tandemtune.evaluators.engine import Engine
from tandemtune.evaluators.views import ANSWER, View
from tandemtune.models.layers import LayerStack, hooked
from tandemtune.models.spans import Span, Spans
from tandemtune.models.survey import text_config
from tandemtune.tunables.base import Point


@dataclass(frozen=True)
class PassReading:
    """What one pass tells.

    Args:
        logits: label logits [N, C], or [P, N, C] for a population.
        views: the vectors [N, h] or [P, N, h] of each view.
    """

    logits: Tensor
    views: Mapping[View, Tensor]

    @classmethod
    def joined(cls, each: Sequence[PassReading]) -> PassReading:
        """Of the same rows in several wordings: the mean of their label logits [N, C], and their vectors side by side [N, wordings * h]."""
        logits = torch.stack([one.logits for one in each]).mean(dim=0)
        return cls(logits, {view: torch.cat([one.views[view] for one in each], dim=1) for view in each[0].views})


def read(engine: Engine, batch: Batch, point: Point, views: Sequence[View] = (ANSWER,)) -> PassReading:
    """Label logits and views of one point.

    Args:
        engine: the evaluation engine.
        batch: the prompts.
        point: the setting of the engine's tunable.
        views: what is wanted.

    Returns:
        Float32 logits [N, C] and views [N, h].

    Raises:
        UsageError: the model has no such view.
    """
    own = getattr(engine, "read", None)
    if own is not None:  # of rows that are no texts
        return own(batch, point, views)  # type: ignore[no-any-return]
    reader = _Reader(engine, views)
    return reader.cut(reader.logits(batch, point))


def read_population(
    engine: Engine, batch: Batch, point: Point, candidates: Mapping[int, Tensor], views: Sequence[View] = (ANSWER,)
) -> PassReading:
    """Label logits and views of candidates that differ from `point` in some blocks.

    A view of what enters a layer below all of the candidates' is the same for all of them: it is computed once. So is the mean
    of the text where they differ in a decoder only.

    Args:
        engine: the evaluation engine; hidden states below the candidates' first layer are kept for the next call.
        batch: the prompts.
        point: the incumbent.
        candidates: block -> vectors [P, dim].
        views: what is wanted.

    Returns:
        Float32 logits [P, N, C] and views [P, N, h].

    Raises:
        UsageError: the model has no such view.
    """
    own = getattr(engine, "read_population", None)
    if own is not None:  # of rows that are no texts
        return own(batch, point, candidates, views)  # type: ignore[no-any-return]
    start = engine.tunable.first_layer(list(candidates))
    layers = {view: layer_of(engine.stack, view) for view in views}
    encoder = engine.stack.encoder_layers
    decoding = encoder is not None and start >= encoder
    text = {view: min(start, layer) for view, layer in layers.items() if decoding and view.place == "mean" and layer}
    shared = {**{view: layer for view, layer in layers.items() if layer is not None and layer <= start}, **text}
    reader = _Reader(engine, [view for view in views if view not in shared])
    found = reader.cut(reader.population_logits(batch, point, candidates))
    count = len(found.logits)
    kept = {view: _kept(engine, batch, point, view, layer).expand(count, -1, -1) for view, layer in shared.items()}
    every = {**found.views, **kept}
    return PassReading(found.logits, {view: every[view] for view in views})


def read_with_gradient(engine: Engine, group: Group, point: Point, views: Sequence[View] = (ANSWER,)) -> PassReading:
    """Label logits [B, C] and views [B, h] of one group, with what a backward pass to the point's tensors needs."""
    reader = _Reader(engine, views)
    return reader.cut(reader.gradient_logits(group, point))


def word_logits(stack: LayerStack, vectors: Tensor, bent: bool = True) -> Tensor:
    """What the model makes of vectors that enter its output embedding: the logits of the label words.

    Args:
        stack: the model.
        vectors: [..., h], as the view `ANSWER` has them.
        bent: whether they are bent as the model bends them (`soft_cap`); False for those that are linear in the vectors.

    Returns:
        Float32 logits [..., W], as `LayerStack.logits` gives them.
    """
    weight, bias = stack.head.weight[stack.token_ids], stack.head.bias
    words = None if bias is None else bias[stack.token_ids]
    logits = functional.linear(vectors.to(weight.dtype), weight, words)
    extra = getattr(stack.model, "final_logits_bias", None)
    if isinstance(extra, Tensor):  # BART
        logits = logits + extra.flatten()[stack.token_ids]
    cap = soft_cap(stack)
    return (cap * torch.tanh(logits / cap) if bent and cap is not None else logits).float()


def soft_cap(stack: LayerStack) -> float | None:
    """The bound that a model bends its logits to (Gemma 2); None where they are linear in what enters the output embedding."""
    found: Any = getattr(text_config(stack.model), "final_logit_softcapping", None)
    return None if found is None else float(found)


def layer_of(stack: LayerStack, view: View) -> int | None:
    """The layer of a model whose entering states a view is made of, see `View.layer_among`."""
    return view.layer_among(len(stack), stack.encoder_layers)


class _Reader(Engine):
    """An engine that keeps views beside the label logits of each row: [n, C + widths of the views].

    Args:
        engine: whose parts and kept states are used.
        views: what is kept.
    """

    def __init__(self, engine: Engine, views: Sequence[View]) -> None:
        self.__dict__.update(engine.__dict__)
        self._views = tuple(views)
        stack = _Watched(engine.stack, self._views)
        self._words = len(engine.stack.token_ids)
        self._widths = stack.widths
        self.stack = cast(LayerStack, stack)

    @property
    def width(self) -> int:
        """Numbers that are kept of each row."""
        return super().width + sum(self._widths)

    def gathered(self, words: Tensor) -> Tensor:
        """Label logits, and the views as they are."""
        return torch.cat([super().gathered(words[:, : self._words]), words[:, self._words :]], dim=1)

    def cut(self, kept: Tensor) -> PassReading:
        """The parts of what was kept [..., width]."""
        logits, *parts = kept.split([super().width, *self._widths], dim=-1)  # type: ignore[no-untyped-call]
        return PassReading(logits, dict(zip(self._views, parts, strict=True)))


class _Watched:
    """A stack whose logits are followed by views: [n, W + widths of the views]; all else is the stack's own."""

    def __init__(self, stack: LayerStack, views: Sequence[View]) -> None:
        self._stack = stack
        self._layers = {view: layer_of(stack, view) for view in views}
        hidden = int(text_config(stack.model).hidden_size)
        self.widths = [stack.head.in_features if layer is None else hidden for layer in self._layers.values()]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stack, name)

    def __len__(self) -> int:
        return len(self._stack)

    def logits(
        self, ids: Tensor, answer: Tensor, *, mask: Tensor | None = None, spans: Spans = (), **rest: Any
    ) -> Tensor:
        """As `LayerStack.logits`, with the views behind."""
        caught: dict[View, Tensor] = {}
        with ExitStack() as hooks:
            for view, layer in self._layers.items():
                module = self._stack.head if layer is None else self._stack.layers[layer]
                hook = partial(self._catch, caught, view, answer, mask, spans)
                # before the hooks of a tunable, which change what enters a layer
                hooks.enter_context(hooked(module.register_forward_pre_hook(hook, with_kwargs=True, prepend=True)))
            words = self._stack.logits(ids, answer, mask=mask, spans=spans, **rest)
        return torch.cat([words, *(caught[view] for view in self._layers)], dim=1)

    def _catch(
        self,
        caught: dict[View, Tensor],
        view: View,
        answer: Tensor,
        mask: Tensor | None,
        spans: Spans,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        """A forward pre-hook that puts a view of what enters the module into `caught`."""
        if self._layers[view] is None:
            caught[view] = args[0][:, 0].float()
            return
        given = {**dict(zip(inspect.signature(module.forward).parameters, args, strict=False)), **kwargs}
        own = args[0] if args else kwargs["hidden_states"]
        text = given.get("encoder_hidden_states")
        caught[view] = _vector(view, own, own if text is None else text, answer, mask, spans)


def _vector(view: View, own: Tensor, text: Tensor, answer: Tensor, mask: Tensor | None, spans: Spans) -> Tensor:
    """A view [n, h], float32, of the states that enter a layer and those of the text, both [n, T, h]."""
    if view.place == "mean":
        return _mean(text.float(), mask, spans)
    if spans:
        return own[:, answer].flatten(0, 1).float()
    return own[torch.arange(len(own), device=own.device), answer].float()


def _mean(states: Tensor, mask: Tensor | None, spans: Spans) -> Tensor:
    """Mean over the tokens of each prompt [prompts, h] of states [n, T, h]."""
    if spans:
        pieces = states.split([span.tokens for span in spans], dim=1)  # type: ignore[no-untyped-call]
        parts = [_mean_behind(states, piece, span) for piece, span in zip(pieces, spans, strict=True) if not span.head]
        return torch.cat(parts, dim=1).flatten(0, 1)
    if mask is None:
        return states.mean(dim=1)
    weights = mask.to(states.dtype).unsqueeze(2)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


def _mean_behind(states: Tensor, piece: Tensor, span: Span) -> Tensor:
    """Mean [n, prompts, h] over the tokens of prompts [n, rows * length, h] that may begin with others of the row."""
    own: Tensor = piece.unflatten(1, (span.rows, -1)).mean(dim=2)  # type: ignore[no-untyped-call]
    if not span.behind:
        return own
    shared = torch.cat([states[:, first:end] for first, end in span.behind], dim=1).sum(dim=1, keepdim=True)
    return (own * span.length + shared) / (span.before + span.length)


def _kept(engine: Engine, batch: Batch, point: Point, view: View, layer: int) -> Tensor:
    """A view [N, h] of states that enter a layer and that the engine keeps."""
    stack = engine.stack
    decodes = stack.encoder_layers is not None and layer >= stack.encoder_layers
    rows: list[Tensor] = []
    for group, states in zip(batch.groups, engine.states(batch, point, layer), strict=True):
        text, own = stack.parted(states) if decodes else (states, states)
        rows.append(_vector(view, own, text, group.answer, group.mask, ()))
    order = torch.cat([group.rows for group in batch.groups])
    return torch.cat(rows)[order.argsort()]

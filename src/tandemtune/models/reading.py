"""Keys and values of a decoder's attention to the text, made once and used for all candidates.

They depend on the text's states and on two maps of each layer. Where neither changes, the maps are not run again: they hand on
stand-ins, by which the attention function knows what was made before. Queries of all candidates meet the keys of a text in one
call, so nothing is copied for each candidate, and texts of all lengths go through the decoder's layers as one batch.

What is hung on a map (LoRA's term, a bias) still sees the text and changes what the map returns, once for all candidates or
for each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tandemtune.models.packing import FITTING
from tandemtune.models.spans import Spans
from tandemtune.models.survey import hooked, replaced_forward


@dataclass(frozen=True)
class Reading:
    """What the maps of a decoder made of texts.

    Args:
        text: the encoder's output for texts that lie end to end [1, tokens, h].
        spans: the texts.
        made: what each map returns for them [1, tokens, width], with nothing hung on it.
        forms: what each map was then: its own forward, and its parameters.
    """

    text: Tensor
    spans: Spans
    made: Mapping[nn.Module, Tensor]
    forms: Mapping[nn.Module, tuple[Any, ...]]

    @classmethod
    def of(cls, maps: Sequence[nn.Module], text: Tensor, spans: Spans) -> Reading:
        """Run maps on texts that lie end to end [1, tokens, h]."""
        with torch.inference_mode():
            made = {each: each.forward(text) for each in maps}
        return cls(text, spans, made, {each: _form(each) for each in maps})

    @property
    def rows(self) -> int:
        """How many texts there are."""
        return sum(span.rows for span in self.spans)

    @contextmanager
    def told(self, candidates: int, changed: Collection[nn.Module]) -> Iterator[Tensor]:
        """Let the model's attention to the text use what was made, until the context ends.

        Args:
            candidates: equal parts of the model's batch, each with all texts.
            changed: maps that the candidates differ in.

        Yields:
            What stands in for the encoder's output of each row of the batch [candidates * rows, longest, h]: not a number, so
            that nobody else reads it unnoticed.
        """
        told = _Told(self.spans, candidates)
        longest = max(span.length for span in self.spans)

        def stand_in(width: int) -> Tensor:
            nothing = torch.full((), torch.nan, dtype=self.text.dtype, device=self.text.device)
            return nothing.expand(candidates * self.rows, longest, width)

        with ExitStack() as stack:
            for each in self.made:
                stack.enter_context(self._answering(each, told, candidates if each in changed else 1))
            stack.enter_context(_asked(told))
            yield stand_in(self.text.shape[-1])

    @contextmanager
    def _answering(self, each: nn.Module, told: _Told, copies: int) -> Iterator[None]:
        """Have one map hand on a stand-in, and what it stands for to the attention function."""
        made = self.made[each]
        nothing = torch.full((), torch.nan, dtype=made.dtype, device=made.device)
        own = each.forward if _form(each) != self.forms[each] else None

        def standing(given: Tensor) -> Tensor:
            return nothing.expand(*given.shape[:-1], made.shape[-1])

        if own is None and not each._forward_hooks and not each._forward_pre_hooks:
            told.real[nothing.data_ptr()] = made
            with replaced_forward(each, standing):
                yield
            return
        shape: list[Tensor] = []

        def to_text(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
            shape[:] = args[:1]
            return (self.text.expand(copies, -1, -1),)

        def remember(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            told.real[nothing.data_ptr()] = output
            return standing(shape.pop())

        with ExitStack() as stack:
            if own is None:
                fresh = made.expand(copies, -1, -1).clone  # what hangs on it may write in place
                stack.enter_context(replaced_forward(each, lambda given: fresh()))
            stack.enter_context(hooked(each.register_forward_pre_hook(to_text, prepend=True)))
            stack.enter_context(hooked(each.register_forward_hook(remember)))
            yield


@dataclass
class _Told:
    """What the attention function needs to know: keys and values [1 or candidates, tokens, width] by their stand-ins."""

    spans: Spans
    candidates: int
    real: dict[int, Tensor] = field(default_factory=dict)


_TOLD: ContextVar[_Told] = ContextVar("told")


@contextmanager
def _asked(told: _Told) -> Iterator[None]:
    """Have the attention function of `transformers` look for stand-ins."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    own = ALL_ATTENTION_FUNCTIONS[FITTING]
    token = _TOLD.set(told)
    ALL_ATTENTION_FUNCTIONS[FITTING] = _attention(own)
    try:
        yield
    finally:
        _TOLD.reset(token)
        ALL_ATTENTION_FUNCTIONS[FITTING] = own


def _attention(own: Callable[..., Any]) -> Callable[..., Any]:
    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, Any]:
        told = _TOLD.get(None)  # another thread's model has none
        real = (told.real.get(key.data_ptr()), told.real.get(value.data_ptr())) if told else (None, None)
        keys, values = real
        rows = sum(span.rows for span in told.spans) if told else 0
        if told is None or keys is None or values is None or len(query) != told.candidates * rows:
            return own(module, query, key, value, attention_mask, **kwargs)  # type: ignore[no-any-return]
        if attention_mask is not None:
            raise ValueError("a mask over texts that lie end to end")
        return _by_text(own, module, query, (keys, values), (key.shape, value.shape), told, kwargs), None

    return attention


def _by_text(
    own: Callable[..., Any],
    module: nn.Module,
    query: Tensor,
    made: tuple[Tensor, Tensor],
    shapes: tuple[torch.Size, torch.Size],
    told: _Told,
    kwargs: dict[str, Any],
) -> Tensor:
    """Attention of queries [candidates * rows, heads, D, width] to the texts: [candidates * rows, D, heads, width]."""
    bias = kwargs.pop("position_bias", None)
    kwargs["is_causal"] = False
    parts, marks = told.candidates, query.shape[2]
    shared = all(len(each) == 1 for each in made)
    queries = query.unflatten(0, (parts, -1))  # type: ignore[no-untyped-call]
    found: list[Tensor] = []
    row = token = 0
    for span in told.spans:
        rows, length = span.rows, span.length
        here = queries[:, row : row + rows]
        texts = [
            each[:, token : token + rows * length].view(len(each), rows, length, shape[1], shape[3]).transpose(2, 3)
            for each, shape in zip(made, shapes, strict=True)
        ]
        near = None if bias is None else bias[..., :length]
        if shared:
            given = here.permute(1, 2, 0, 3, 4).flatten(2, 3)  # all candidates' queries of a text beside each other
            keys, values = (each[0] for each in texts)
            near = None if near is None else near.repeat(1, 1, parts, 1)
        else:
            given = here.flatten(0, 1)
            keys, values = (each.expand(parts, -1, -1, -1, -1).flatten(0, 1) for each in texts)
        more = kwargs if near is None else {**kwargs, "position_bias": near}
        output, _ = own(module, given, keys, values, None, **more)
        if shared:
            found.append(output.unflatten(1, (parts, marks)).transpose(0, 1))
        else:
            found.append(output.unflatten(0, (parts, rows)))
        row, token = row + rows, token + rows * length
    return torch.cat(found, dim=1).flatten(0, 1)


def _form(each: nn.Module) -> tuple[Any, ...]:
    """What a map is, to be compared: a forward that somebody put in its place, and its parameters."""
    return each.__dict__.get("forward"), *(id(parameter) for parameter in each._parameters.values())

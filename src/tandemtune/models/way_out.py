"""The way out of a model: only the answer position reaches the head, and the head computes the label words only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tandemtune.errors import ModelError
from tandemtune.models import spans as laid
from tandemtune.models.linear import is_packed
from tandemtune.models.spans import Spans
from tandemtune.models.survey import TOKENS, hooked, plain_ids, read_text, replaced_forward

CLOSE = 1e-2
"""How far logits may lie from a multiple of what the output embedding makes, as a share of their range."""


def output_embedding(model: nn.Module) -> nn.Linear:
    """The output embedding of a model, of which rows can be picked.

    Raises:
        ModelError: it has none.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]
    if not isinstance(head, nn.Linear):
        raise ModelError(
            f"{type(model).__name__} has no linear output embedding (found {type(head).__name__}), "
            "so it predicts no words: choose a masked, causal or sequence-to-sequence language model"
        )
    if is_packed(head):
        raise ModelError(
            f"the output embedding of {type(model).__name__} is packed by a quantization ({type(head).__name__}), so label "
            "words cannot be picked from it: choose a model whose output embedding is left as it was"
        )
    return head


@torch.inference_mode()
def logit_scale(model: nn.Module, head: nn.Linear) -> float | None:
    """What a model multiplies the products of its output embedding by before they are logits (Cohere, Granite), measured on a
    short text; 1 in most models.

    Args:
        model: the model.
        head: its output embedding.

    Returns:
        None where no number does it, as in a model that bends its logits (Gemma 2).
    """
    made: list[Tensor] = []
    with hooked(head.register_forward_hook(lambda _, args, output: made.append(output))):
        said = read_text(model, plain_ids(model, TOKENS).unsqueeze(0)).logits.float()
    products, extra = made[-1].float(), getattr(model, "final_logits_bias", None)
    if isinstance(extra, Tensor):  # BART
        said = said - extra.float()
    if products.shape != said.shape:
        return None
    scale = float((products * said).sum() / products.square().sum().clamp_min(1e-30))
    far = float((scale * products - said).abs().amax())
    return scale if scale > 0 and far <= CLOSE * float(said.amax() - said.amin()) else None


class WayOut:
    """What a model does behind its layers, for some positions and words alone.

    Args:
        model: the model.
        trunk: the module that ends before the head, if there is one.
        head: the output embedding.
        token_ids: vocabulary ids of the words [W].

    Attributes:
        narrow: modules of the last layer that need to see the answer position only.
    """

    def __init__(self, model: nn.Module, trunk: nn.Module | None, head: nn.Linear, token_ids: Tensor) -> None:
        self.model, self.trunk, self.head, self.token_ids = model, trunk, head, token_ids
        self.narrow: Sequence[nn.Module] = ()

    def taken(self, stack: ExitStack, answer: Tensor, spans: Spans) -> None:
        """Have the model leave in this way, until the stack is closed.

        Args:
            stack: undoes it.
            answer: index of the answer position in each row [n]; of each prompt's in a row [R], where rows hold several.
            spans: the prompts that lie end to end in each row; empty where each row is one prompt.
        """
        rows: Any = slice(None) if spans else torch.arange(len(answer), device=answer.device)
        homes = laid.homes(spans, answer.device) if spans else None

        def at_answer(hidden: Tensor) -> Tensor:
            if hidden.shape[1] == 1:  # picked before
                return hidden
            return hidden[rows, answer].flatten(0, -2).unsqueeze(1)

        def pick(module: nn.Module, args: Any, output: Any) -> Any:
            if isinstance(output, Tensor):
                return at_answer(output)
            picked = at_answer(output[0])
            if isinstance(output, tuple):
                return (picked, *output[1:])
            output[next(iter(output))] = picked
            return output

        def label_words_only(hidden: Tensor) -> Tensor:
            hidden = at_answer(hidden)
            # read now, since a tunable may have put other tensors in the parameters' place
            weight, bias = (_frozen(part) for part in (self.head.weight, self.head.bias))
            words = None if bias is None else bias[self.token_ids]
            return functional.linear(hidden, weight[self.token_ids], words)  # type: ignore[index]

        def narrowed(forward: Callable[..., Any]) -> Callable[..., Any]:
            # what these return for one position is added to all of its prompt; the others are never read
            def forwarded(hidden: Tensor, *rest: Any, **named: Any) -> Tensor:
                if homes is None:
                    return forward(at_answer(hidden), *rest, **named)  # type: ignore[no-any-return]
                return forward(hidden[:, answer], *rest, **named)[:, homes]  # type: ignore[no-any-return]

            return forwarded

        for module in self.narrow:
            stack.enter_context(replaced_forward(module, narrowed(module.forward)))
        bias = getattr(self.model, "final_logits_bias", None)
        if bias is not None:  # BART adds one number to the logit of each word
            stack.callback(setattr, self.model, "final_logits_bias", bias)
            self.model.final_logits_bias = bias[..., self.token_ids]
        if self.trunk is not None:
            stack.enter_context(hooked(self.trunk.register_forward_hook(pick)))
        stack.enter_context(replaced_forward(self.head, label_words_only))


def _frozen(part: Tensor | None) -> Tensor | None:
    """A parameter of the model itself gets no gradient; a tensor that stands in its place may."""
    return part.detach() if isinstance(part, nn.Parameter) else part

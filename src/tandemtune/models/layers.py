"""Runs an unmodified `transformers` model from one layer to another.

The model's own forward is called, so masks, rotary positions and whatever an architecture does between its layers stay its
own. Layers that are not wanted are stepped over, hidden states are put in before the first wanted layer, only the answer
position reaches the head, and the head computes the label words only. All of it is undone when the call returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tandemtune.errors import ModelError


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let `module` call another function instead of its own forward, until the context ends."""
    before = module.__dict__.get("forward")  # libraries that spread a model over devices put theirs here too
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = before


@contextmanager
def hooked(handle: Any) -> Iterator[None]:
    """Remove a hook when the context ends."""
    try:
        yield
    finally:
        handle.remove()


class LayerStack:
    """The layers of one model as a pipeline that can be entered and left anywhere.

    Args:
        model: a masked or causal language model.
        layers: path of its list of layers.
        trunk: path of the module whose output the head reads; None for the base model.
        token_ids: vocabulary ids of the label words [W]; only their logits are computed.
        narrow: modules of the last layer that need to see the answer position only.

    Raises:
        ModelError: the model has no output embedding or its layers cannot be entered.
    """

    def __init__(
        self, model: nn.Module, layers: str, trunk: str | None, token_ids: Tensor, narrow: Sequence[str] = ()
    ) -> None:
        self.model = model
        self.layers: list[nn.Module] = list(model.get_submodule(layers))  # type: ignore[call-overload]
        self.trunk: nn.Module = model.get_submodule(trunk) if trunk else model.base_model  # type: ignore[assignment]
        self.head = model.get_output_embeddings()  # type: ignore[operator]
        self.token_ids = token_ids.to(self.device)
        self._narrow = [self.layers[-1].get_submodule(name) for name in narrow]
        self._options: dict[str, Any] = {"use_cache": False} if _is_causal(model) else {}
        if not isinstance(self.head, nn.Linear):
            raise ModelError(
                f"{type(model).__name__} has no linear output embedding (found {type(self.head).__name__}), "
                "so it predicts no words: choose a masked or causal language model"
            )
        self._tuple_length = self._probe()
        self._weight = self.head.weight.detach()[self.token_ids]
        bias = self.head.bias
        self._bias = None if bias is None else bias.detach()[self.token_ids]

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the hidden states."""
        return next(self.model.parameters()).dtype

    @torch.inference_mode()
    def hidden(self, ids: Tensor, stop: int, *, start: int = 0, states: Tensor | None = None) -> Tensor:
        """Hidden states that enter layer `stop`.

        Args:
            ids: token ids [n, T], all rows equally long.
            stop: layer index, 0 <= stop < number of layers.
            start: layer that `states` enter.
            states: hidden states [n, T, h] entering layer `start`; None to begin at the embeddings.

        Returns:
            Hidden states [n, T, h].
        """
        caught: list[Tensor] = []

        def catch(hidden_states: Tensor, *_: Any, **__: Any) -> Any:
            if not caught:
                caught.append(hidden_states)
            return self.as_output(hidden_states)

        with ExitStack() as stack:
            self._enter(stack, start, states)
            for layer in self.layers[stop:]:
                stack.enter_context(replaced_forward(layer, catch))
            self._read_out(stack, torch.zeros(len(ids), dtype=torch.long, device=ids.device))
            self.model(input_ids=ids, **self._options)
        return states if start == stop and states is not None else caught[0]

    @torch.inference_mode()
    def logits(self, ids: Tensor, answer: Tensor, *, start: int = 0, states: Tensor | None = None) -> Tensor:
        """Logits of the label words at the answer position.

        Args:
            ids: token ids [n, T], all rows equally long.
            answer: index of the answer position in each row [n].
            start: layer that `states` enter.
            states: hidden states [n, T, h] entering layer `start`; None to begin at the embeddings.

        Returns:
            Float32 logits [n, W].
        """
        with ExitStack() as stack:
            self._enter(stack, start, states)
            self._read_out(stack, answer)
            output = self.model(input_ids=ids, **self._options)
        return output.logits[:, 0, :].float()  # type: ignore[no-any-return]

    def _enter(self, stack: ExitStack, start: int, states: Tensor | None) -> None:
        if states is None:
            return

        def put_in(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                return (states, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": states}

        def step_over(hidden_states: Tensor, *_: Any, **__: Any) -> Any:
            return self.as_output(hidden_states)

        for layer in self.layers[:start]:
            stack.enter_context(replaced_forward(layer, step_over))
        handle = self.layers[start].register_forward_pre_hook(put_in, with_kwargs=True)
        stack.enter_context(hooked(handle))

    def _read_out(self, stack: ExitStack, answer: Tensor) -> None:
        rows = torch.arange(len(answer), device=answer.device)

        def pick(module: nn.Module, args: Any, output: Any) -> Any:
            picked = output[0][rows, answer].unsqueeze(1)
            if isinstance(output, tuple):
                return (picked, *output[1:])
            output["last_hidden_state"] = picked
            return output

        def label_words_only(hidden: Tensor) -> Tensor:
            return functional.linear(hidden, self._weight, self._bias)

        def narrowed(forward: Callable[..., Any]) -> Callable[..., Any]:
            # what these return for one position is added to all of them; the others are never read
            return lambda hidden, *rest, **named: forward(hidden[rows, answer].unsqueeze(1), *rest, **named)

        for module in self._narrow:
            stack.enter_context(replaced_forward(module, narrowed(module.forward)))
        stack.enter_context(hooked(self.trunk.register_forward_hook(pick)))
        stack.enter_context(replaced_forward(self.head, label_words_only))

    def as_output(self, hidden: Tensor) -> Any:
        """Hidden states in the form in which this model's layers return them."""
        if self._tuple_length is None:
            return hidden
        return (hidden, *([None] * (self._tuple_length - 1)))

    def _probe(self) -> int | None:
        """Whether a layer returns a bare tensor (None) or a tuple of some length; refuses a model that calls its parts
        in another way than the pipeline needs."""
        seen: dict[str, Any] = {}
        parts = {"first layer": self.layers[0], "trunk": self.trunk, "output embedding": self.head}
        with torch.inference_mode(), ExitStack() as stack:
            for name, part in parts.items():
                stack.enter_context(hooked(part.register_forward_hook(partial(_note, seen, name))))
            logits = self.model(input_ids=self.token_ids[:1].view(1, 1), **self._options).logits
        for name, part in parts.items():
            if name not in seen:
                raise ModelError(
                    f"{type(self.model).__name__} does not call its {name} ({type(part).__name__}), "
                    "so its layers cannot be entered and left"
                )
        if seen["output embedding"].shape[-1] != logits.shape[-1]:
            raise ModelError(
                f"{type(self.model).__name__} does not use its output embedding as the last step before the logits "
                f"({seen['output embedding'].shape[-1]} outputs, {logits.shape[-1]} logits), so it cannot be cut "
                "down to the label words"
            )
        output = seen["first layer"]
        return len(output) if isinstance(output, tuple) else None


def _note(seen: dict[str, Any], name: str, module: nn.Module, args: Any, output: Any) -> None:
    seen.setdefault(name, output)


def _is_causal(model: nn.Module) -> bool:
    return hasattr(model.config, "use_cache") and not type(model).__name__.endswith("ForMaskedLM")

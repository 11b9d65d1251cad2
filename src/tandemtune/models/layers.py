"""Runs an unmodified `transformers` model from one layer to another.

The model's own forward is called, so masks, rotary positions and whatever an architecture does between its layers stay its
own. Layers that are not wanted are stepped over, hidden states are put in before the first wanted layer, only the answer
position reaches the head, and the head computes the label words only. All of it is undone when the call returns.

A model of two stacks is one pipeline too: the encoder's layers, then the decoder's, which has one position. Hidden states that
enter a decoder layer are the encoder's output with the decoder's position behind it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tandemtune.errors import ModelError
from tandemtune.models import packing
from tandemtune.models.lean import compiled, compiled_rotation, lean_forward
from tandemtune.models.packing import Spans


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
        model: a masked, causal or sequence-to-sequence language model.
        layers: path of its list of layers; of the encoder's where there are two.
        trunk: path of the module whose output the head reads; None for the base model.
        token_ids: vocabulary ids of the label words [W]; only their logits are computed.
        narrow: modules of the last layer that need to see the answer position only.
        decoder: path of the decoder's list of layers, if the model has one.
        reads: modules of a decoder layer that read the text's tokens.
        first_position: what the model calls the first position; None if it cannot be told positions.

    Raises:
        ModelError: the model has no output embedding or its layers cannot be entered.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: str,
        trunk: str | None,
        token_ids: Tensor,
        narrow: Sequence[str] = (),
        decoder: str | None = None,
        reads: Sequence[str] = (),
        first_position: int | None = None,
    ) -> None:
        self.model = model
        self.layers: list[nn.Module] = list(model.get_submodule(layers).children())
        self.encoder_layers = len(self.layers) if decoder else None
        if decoder:
            self.layers += list(model.get_submodule(decoder).children())
        self.trunk: nn.Module = model.get_submodule(trunk) if trunk else model.base_model  # type: ignore[assignment]
        self.head = model.get_output_embeddings()  # type: ignore[operator]
        self.token_ids = token_ids.to(self.device)
        self.costs = _costs(self.layers, self.encoder_layers, reads)
        self._narrow = [self.layers[-1].get_submodule(name) for name in narrow]
        if not isinstance(self.head, nn.Linear):
            raise ModelError(
                f"{type(model).__name__} has no linear output embedding (found {type(self.head).__name__}), "
                "so it predicts no words: choose a masked, causal or sequence-to-sequence language model"
            )
        parts = [module for layer in self.layers for module in layer.modules()]
        self._lean = {module: lean for module in parts if (lean := lean_forward(module))}
        self._compiled: dict[nn.Module, Callable[..., Any]] = {}
        self._tuple_length: int | None = None
        self._shares = False
        self._probe()
        self._first_position = first_position
        self.longest_packed = packing.longest(model)
        self.packs = first_position is not None and decoder is None and packing.packs(model, len(self.layers))

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

    def hidden(
        self, ids: Tensor, stop: int, *, start: int = 0, states: Tensor | None = None, spans: Spans = ()
    ) -> Tensor:
        """Hidden states that enter layer `stop`.

        Args:
            ids: token ids [n, T], all rows equally long.
            stop: layer index, 0 <= stop < number of layers.
            start: layer that `states` enter.
            states: hidden states [n, T, h] entering layer `start`; None to begin at the embeddings.
            spans: the prompts that lie end to end in each row; empty where each row is one prompt.

        Returns:
            Hidden states [n, T, h]; [n, T + 1, h] where a decoder layer is entered.
        """
        caught: list[Tensor] = []

        def catch(layer: nn.Module) -> Callable[..., Any]:
            named = inspect.signature(layer.forward).parameters

            def taken(*args: Any, **kwargs: Any) -> Any:
                given = {**dict(zip(named, args, strict=False)), **kwargs}
                if not caught:
                    read = given["encoder_hidden_states"] if self._decodes(stop) else None
                    own = given["hidden_states"]
                    caught.append(own if read is None else torch.cat([read, own], dim=1))
                return self.as_output(given["hidden_states"])

            return taken

        if start == stop and states is not None:
            return states
        with torch.inference_mode(), ExitStack() as stack:
            self._be_lean(stack)
            given = self._enter(stack, ids, start, states, spans)
            for layer in self.layers[stop:]:
                stack.enter_context(replaced_forward(layer, catch(layer)))
            self._read_out(stack, torch.zeros(len(ids), dtype=torch.long, device=ids.device), ())
            self.model(**given)
        return caught[0]

    def logits(
        self,
        ids: Tensor,
        answer: Tensor,
        *,
        start: int = 0,
        states: Tensor | None = None,
        gradient: bool = False,
        mask: Tensor | None = None,
        spans: Spans = (),
    ) -> Tensor:
        """Logits of the label words at the answer position.

        Args:
            ids: token ids [n, T], all rows equally long.
            answer: index of the answer position in each row [n]; of each prompt's in a row [R], where rows hold several.
            start: layer that `states` enter.
            states: hidden states [n, T, h] entering layer `start`; None to begin at the embeddings.
            gradient: keep what a backward pass through the logits needs.
            mask: 0 for tokens that nothing may look at [n, T]; None if there are none. Needs states of None.
            spans: the prompts that lie end to end in each row; empty where each row is one prompt.

        Returns:
            Float32 logits [n, W], or [n * R, W].
        """
        with torch.inference_mode(not gradient), torch.set_grad_enabled(gradient), ExitStack() as stack:
            if not gradient:
                self._be_lean(stack)
            given = self._enter(stack, ids, start, states, spans)
            if mask is not None:
                given["attention_mask"] = mask
            self._read_out(stack, answer, spans)
            output = self.model(**given)
            return output.logits[:, 0, :].float()  # type: ignore[no-any-return]

    def compile(self, wanted: bool = True) -> int:
        """Have what the layers do between their matrix products compiled for passes without gradient, or take that back.

        Args:
            wanted: False takes it back.

        Returns:
            How many parts are compiled now.
        """
        parts = (module for layer in self.layers for module in layer.modules())
        self._compiled = compiled(parts) if wanted else {}
        return len(self._compiled)

    def _be_lean(self, stack: ExitStack) -> None:
        """Have passes without gradient move less memory, until the stack is closed."""
        for module, forward in {**self._lean, **self._compiled}.items():
            stack.enter_context(replaced_forward(module, forward))
        if self._compiled:
            stack.enter_context(compiled_rotation(self.layers))

    def _decodes(self, layer: int) -> bool:
        """Whether a layer belongs to the decoder."""
        return self.encoder_layers is not None and layer >= self.encoder_layers

    def _inputs(self, ids: Tensor) -> dict[str, Any]:
        """What the model's forward is called with."""
        given: dict[str, Any] = {"input_ids": ids}
        if hasattr(self.model.config, "use_cache") and not type(self.model).__name__.endswith("ForMaskedLM"):
            given["use_cache"] = False
        if self.encoder_layers is not None:
            begin = int(self.model.config.decoder_start_token_id)  # type: ignore[union-attr,arg-type]
            given["decoder_input_ids"] = torch.full((len(ids), 1), begin, device=ids.device)
        return given

    def _enter(self, stack: ExitStack, ids: Tensor, start: int, states: Tensor | None, spans: Spans) -> dict[str, Any]:
        """Have the model begin at layer `start`; returns what to call it with."""
        given = self._inputs(ids)
        if spans:
            stack.enter_context(packing.end_to_end(self.model, spans))
            given["position_ids"] = packing.positions(spans, self._first_position or 0, ids.device)
        if states is None:
            return given
        own = states
        skipped = range(start)
        if self._decodes(start):
            given["encoder_outputs"] = (states[:, :-1],)
            own = states[:, -1:]
            skipped = range(self.encoder_layers or 0, start)

        def put_in(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                return (own, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": own}

        step_over = self._step_over()
        for index in skipped:
            stack.enter_context(replaced_forward(self.layers[index], step_over(self.layers[index].forward)))
        # before the hooks of a tunable, which change what enters a layer
        handle = self.layers[start].register_forward_pre_hook(put_in, with_kwargs=True, prepend=True)
        stack.enter_context(hooked(handle))
        return given

    def _step_over(self) -> Callable[..., Callable[..., Any]]:
        """Stand-ins for layers that are not wanted: they hand on what enters them.

        Where layers also return what all of them share (T5's position biases), the first one runs on a single row for it.
        """
        shared: list[tuple[Any, ...]] = []

        def stand_in(forward: Callable[..., Any]) -> Callable[..., Any]:
            def step(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
                if not self._shares:
                    return self.as_output(hidden_states)
                if not shared:
                    rows = len(hidden_states)
                    one = forward(
                        hidden_states[:1],
                        *(_first_row(arg, rows) for arg in args),
                        **{name: _first_row(arg, rows) for name, arg in kwargs.items()},
                    )
                    shared.append(one[1:])
                return (hidden_states, *shared[0])

            return step

        return stand_in

    def _read_out(self, stack: ExitStack, answer: Tensor, spans: Spans) -> None:
        rows: Any = slice(None) if spans else torch.arange(len(answer), device=answer.device)
        homes = packing.homes(spans, answer.device) if spans else None

        def at_answer(hidden: Tensor) -> Tensor:
            if hidden.shape[1] == 1:  # picked before
                return hidden
            return hidden[rows, answer].flatten(0, -2).unsqueeze(1)

        def pick(module: nn.Module, args: Any, output: Any) -> Any:
            picked = at_answer(output[0])
            if isinstance(output, tuple):
                return (picked, *output[1:])
            output["last_hidden_state"] = picked
            return output

        def label_words_only(hidden: Tensor) -> Tensor:
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

        for module in self._narrow:
            stack.enter_context(replaced_forward(module, narrowed(module.forward)))
        bias = getattr(self.model, "final_logits_bias", None)
        if bias is not None:  # BART adds one number to the logit of each word
            stack.callback(setattr, self.model, "final_logits_bias", bias)
            self.model.final_logits_bias = bias[..., self.token_ids]
        stack.enter_context(hooked(self.trunk.register_forward_hook(pick)))
        stack.enter_context(replaced_forward(self.head, label_words_only))

    def as_output(self, hidden: Tensor) -> Any:
        """Hidden states in the form in which this model's layers return them."""
        if self._tuple_length is None:
            return hidden
        return (hidden, *([None] * (self._tuple_length - 1)))

    def _probe(self) -> None:
        """Find out what a layer returns beside the hidden state; refuse a model that calls its parts in another way than
        the pipeline needs."""
        seen: dict[str, Any] = {}
        parts = {"first layer": self.layers[0], "trunk": self.trunk, "output embedding": self.head}
        with torch.inference_mode(), ExitStack() as stack:
            for name, part in parts.items():
                stack.enter_context(hooked(part.register_forward_hook(partial(_note, seen, name))))
            logits = self.model(**self._inputs(self.token_ids[:1].view(1, 1))).logits
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
        if isinstance(output, tuple):
            self._tuple_length = len(output)
            self._shares = any(isinstance(part, Tensor) for part in output[1:])


def _note(seen: dict[str, Any], name: str, module: nn.Module, args: Any, output: Any) -> None:
    seen.setdefault(name, output)


def _frozen(part: Tensor | None) -> Tensor | None:
    """A parameter of the model itself gets no gradient; a tensor that stands in its place may."""
    return part.detach() if isinstance(part, nn.Parameter) else part


def _first_row(value: Any, rows: int) -> Any:
    """The first row of what a layer is given for every row of a batch; anything else as it is."""
    return value[:1] if isinstance(value, Tensor) and value.ndim > 1 and len(value) == rows else value


def _costs(layers: Sequence[nn.Module], encoder_layers: int | None, reads: Sequence[str]) -> tuple[float, ...]:
    """What one token of the text costs in each layer, as a share of the first one's weights: a decoder's layer maps it to
    keys and values only."""
    if encoder_layers is None:
        return (1.0,) * len(layers)
    weights = [{name: part.weight.numel() for name, part in _linear(layer)} for layer in layers]
    whole = sum(weights[0].values())
    decoding = (sum(found[name] for name in reads) / whole for found in weights[encoder_layers:])
    return (1.0,) * encoder_layers + tuple(decoding)


def _linear(layer: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    return ((name, part) for name, part in layer.named_modules() if isinstance(part, nn.Linear))

"""Runs an unmodified `transformers` model from one layer to another.

The model's own forward is called, so masks, rotary positions and whatever an architecture does between its layers stay its
own. Layers that are not wanted are stepped over, hidden states are put in before the first wanted layer, only the answer
position reaches the head, and the head computes the label words only. All of it is undone when the call returns.

A model of two stacks is one pipeline too: the encoder's layers, then the decoder's, which is given a mark or two to begin its
answer with. Hidden states that enter a decoder layer are the encoder's output with those of the marks behind it.

Whether a model may be run in this way is found out by doing so: every layer is entered and left once, on a short text, and the
logits have to be the model's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from tandemtune.errors import ModelError
from tandemtune.models import packing
from tandemtune.models import spans as laid
from tandemtune.models.architectures import Architecture
from tandemtune.models.costs import layer_costs
from tandemtune.models.lean import compiled, compiled_rotation, lean_forward
from tandemtune.models.reading import Reading
from tandemtune.models.spans import Span, Spans
from tandemtune.models.survey import ROWS, TOKENS, plain_ids, plain_inputs
from tandemtune.models.survey import hooked as hooked
from tandemtune.models.survey import replaced_forward as replaced_forward
from tandemtune.models.way_out import WayOut, output_embedding

CLOSE, CLOSE_IN_16_BITS = 2e-3, 1e-1
"""How far logits may lie apart that should be equal, as a share of the range of a text's logits."""


class LayerStack:
    """The layers of one model as a pipeline that can be entered and left anywhere.

    Args:
        model: a masked, causal or sequence-to-sequence language model.
        architecture: where its layers are.
        token_ids: vocabulary ids of the label words [W]; only their logits are computed.
        prefix: what a decoder is given before its answer; empty for a model of one stack.

    Raises:
        ModelError: the model has no output embedding, or does not give its own logits when it is run layer by layer.
    """

    def __init__(
        self, model: nn.Module, architecture: Architecture, token_ids: Tensor, prefix: Sequence[int] = ()
    ) -> None:
        self.model = model
        stacks = [list(model.get_submodule(path)) for path in architecture.paths]  # type: ignore[call-overload]
        self.layers: list[nn.Module] = [layer for stack in stacks for layer in stack]
        self.encoder_layers = len(stacks[0]) if len(stacks) > 1 else None
        self._prefix = tuple(prefix)
        self._read_as: Callable[[Tensor], Any] = lambda states: (states,)
        self.trunk = model.get_submodule(architecture.trunk) if architecture.trunk else None
        self.head = output_embedding(model)
        self.token_ids = token_ids.to(self.device)
        self._way_out = WayOut(model, self.trunk, self.head, self.token_ids)
        reads = {model.get_submodule(name) for name in architecture.reads}
        self.costs, self.answer_costs = layer_costs(self.layers, self.encoder_layers, reads, len(self._prefix))
        self._first_names = {layer: next(iter(inspect.signature(layer.forward).parameters)) for layer in self.layers}
        self._tuple_lengths: dict[nn.Module, int] = {}
        self._shares: set[nn.Module] = set()
        self._lean: dict[nn.Module, Callable[..., Any]] = {}
        self._compiled: dict[nn.Module, Callable[..., Any]] = {}
        self._embedding: nn.Module | None = None
        self._probe()
        self._embedding = self._found_embedding()
        parts = [module for layer in self.layers for module in layer.modules()]
        self._lean = {module: lean for module in parts if (lean := lean_forward(module))}
        self._narrow_where_it_may([self.layers[-1].get_submodule(name) for name in architecture.narrow], architecture)
        self.longest_packed = packing.longest(model)
        self._first_position = None if len(stacks) > 1 else packing.first_position(model, len(self.layers), self.same)
        self.packs = self._first_position is not None
        self.shares = self._first_position is not None and packing.shares(
            model, self._first_position, len(self.layers), self.same
        )
        self.readers = {layer: tuple(m for m in layer.modules() if m in reads) for layer in self.layers}
        if not self._takes_readings():
            self.readers = {}

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the hidden states."""
        return next(each for each in self.model.parameters() if each.is_floating_point()).dtype

    @property
    def marks(self) -> int:
        """Tokens that a decoder is given before its answer; 0 in a model of one stack."""
        return len(self._prefix)

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
            Hidden states [n, T, h]; [n, T + D, h] where a decoder layer is entered that is given D marks.
        """
        caught: list[Tensor] = []

        def catch(layer: nn.Module) -> Callable[..., Any]:
            forward = layer.forward

            def taken(*args: Any, **kwargs: Any) -> Any:
                own = args[0] if args else kwargs[self._first_names[layer]]
                if not caught and self._decodes(stop):
                    given = {**dict(zip(inspect.signature(forward).parameters, args, strict=False)), **kwargs}
                    caught.append(torch.cat([given["encoder_hidden_states"], own], dim=1))
                elif not caught:
                    caught.append(own)
                return self.as_output(layer, own)

            return taken

        if start == stop and states is not None:
            return states
        with torch.inference_mode(), ExitStack() as stack:
            self._be_lean(stack)
            given = self._enter(stack, ids, start, states, spans)
            for layer in self.layers[stop:]:
                stack.enter_context(replaced_forward(layer, catch(layer)))
            self._way_out.taken(stack, torch.zeros(len(ids), dtype=torch.long, device=ids.device), ())
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
        reading: Reading | None = None,
        changed: Sequence[int] = (),
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
            reading: what the decoder's maps made of the texts; the rows are candidates with all of its texts each, `start` is
                a decoder's layer, and `states` are those of the marks alone [n, D, h].
            changed: layers in which the candidates differ.

        Returns:
            Float32 logits [n, W], or [n * R, W].
        """
        with torch.inference_mode(not gradient), torch.set_grad_enabled(gradient), ExitStack() as stack:
            if not gradient:
                self._be_lean(stack)
            text = None
            if reading is not None:
                maps = [each for layer in changed for each in self.readers.get(self.layers[layer], ())]
                text = stack.enter_context(reading.told(len(ids) // reading.rows, maps))
            given = self._enter(stack, ids, start, states, spans, text)
            if mask is not None:
                given["attention_mask"] = mask
            self._way_out.taken(stack, answer, spans)
            output = self.model(**given)
            return output.logits[:, 0, :].float()  # type: ignore[no-any-return]

    def parted(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """The text's states [n, T, h] and the marks' [n, D, h] of those that enter a decoder's layer."""
        text = states.shape[1] - self.marks
        return states[:, :text], states[:, text:]

    def read(self, text: Tensor, spans: Spans) -> Reading:
        """Keys and values of all decoder layers for texts that lie end to end [1, tokens, h]."""
        return Reading.of([each for maps in self.readers.values() for each in maps], text, spans)

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

    def inputs(self, ids: Tensor) -> dict[str, Any]:
        """What the model's forward is called with for token ids [n, T]."""
        decoder = torch.tensor([self._prefix], device=ids.device).expand(len(ids), -1) if self._prefix else None
        return plain_inputs(self.model, ids, decoder)

    def _enter(
        self,
        stack: ExitStack,
        ids: Tensor,
        start: int,
        states: Tensor | None,
        spans: Spans,
        text: Tensor | None = None,
    ) -> dict[str, Any]:
        """Have the model begin at layer `start`; returns what to call it with."""
        given = self.inputs(ids)
        if spans:
            stack.enter_context(packing.end_to_end(self.model, spans))
            given["position_ids"] = laid.positions(spans, self._first_position or 0, ids.device)
        if states is None:
            return given
        own = states
        skipped = range(start)
        if self._decodes(start):
            if text is None:
                text, own = self.parted(states)
            given["encoder_outputs"] = self._read_as(text)
            skipped = range(self.encoder_layers or 0, start)
        name = self._first_names[self.layers[start]]

        def put_in(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return ((own, *args[1:]), kwargs) if args else (args, {**kwargs, name: own})

        if self._embedding is not None:  # what it returns is replaced below
            stack.enter_context(replaced_forward(self._embedding, lambda *_, **__: own))
        step_over = self._step_over()
        for index in skipped:
            stack.enter_context(replaced_forward(self.layers[index], step_over(self.layers[index])))
        # before the hooks of a tunable, which change what enters a layer
        handle = self.layers[start].register_forward_pre_hook(put_in, with_kwargs=True, prepend=True)
        stack.enter_context(hooked(handle))
        return given

    def _step_over(self) -> Callable[[nn.Module], Callable[..., Any]]:
        """Stand-ins for layers that are not wanted: they hand on what enters them.

        Where layers also return what all of them share (T5's position biases), the first one runs on a single row for it.
        """
        shared: list[tuple[Any, ...]] = []

        def stand_in(layer: nn.Module) -> Callable[..., Any]:
            name, forward = self._first_names[layer], layer.forward

            def step(*args: Any, **kwargs: Any) -> Any:
                hidden = args[0] if args else kwargs[name]
                if layer not in self._shares:
                    return self.as_output(layer, hidden)
                if not shared:
                    rows = len(hidden)
                    one = forward(
                        *(_first_row(arg, rows) for arg in args),
                        **{key: _first_row(arg, rows) for key, arg in kwargs.items()},
                    )
                    shared.append(one[1:])
                return (hidden, *shared[0])

            return step

        return stand_in

    def as_output(self, layer: nn.Module, hidden: Tensor) -> Any:
        """Hidden states in the form in which a layer returns them."""
        length = self._tuple_lengths.get(layer)
        return hidden if length is None else (hidden, *([None] * (length - 1)))

    def _probe(self) -> None:
        """Find out what the layers return beside the hidden state, and whether the model gives its own logits when each of
        them is entered and left."""
        sharing: set[nn.Module] = set()

        def note(layer: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, tuple):
                self._tuple_lengths[layer] = len(output)
                if any(isinstance(part, Tensor) for part in output[1:]):
                    sharing.add(layer)

        def note_form(encoder: nn.Module, args: Any, output: Any) -> None:
            if hasattr(output, "last_hidden_state"):
                self._read_as = lambda states: type(output)(last_hidden_state=states)

        with ExitStack() as stack:
            if self._prefix:
                encoder: nn.Module = self.model.get_encoder()  # type: ignore[operator]
                stack.enter_context(hooked(encoder.register_forward_hook(note_form)))
            ids, answer, own = self._trial(note)
        why = self._against(ids, answer, own)
        if why and sharing:  # layers that need what the first one returns beside the hidden state
            self._shares = sharing
            why = self._against(ids, answer, own)
        if why:
            raise ModelError(
                f"{type(self.model).__name__} cannot be run layer by layer, from any layer and to the label words only ({why}): "
                "this architecture is not supported"
            )

    def _found_embedding(self) -> nn.Module | None:
        """The outermost module that returns what enters the first layer, if it need not run where hidden states are put in behind
        it. Found out by trying; a model of two stacks embeds in both of them."""
        if self.encoder_layers is not None or len(self) < 2:
            return None
        made: list[tuple[Tensor, nn.Module]] = []
        entered: list[Tensor] = []

        def note(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not entered:
                made.append((output, module))

        def enter(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            entered.append(args[0] if args else kwargs[self._first_names[layer]])

        with ExitStack() as stack:
            for module in self.model.modules():
                stack.enter_context(hooked(module.register_forward_hook(note)))
            first = self.layers[0].register_forward_pre_hook(enter, with_kwargs=True)
            stack.enter_context(hooked(first))
            ids, answer, own = self._trial()
        self._embedding = next((module for output, module in reversed(made) if output is entered[0]), None)
        last = len(self) - 1
        try:
            found = self.logits(ids, answer, start=last, states=self.hidden(ids, last))
        except torch.OutOfMemoryError:
            raise
        except Exception:  # whatever the code of a model says to this
            return None
        return self._embedding if self.agrees(found, own) else None

    def _against(self, ids: Tensor, answer: Tensor, own: Tensor) -> str:
        """What keeps the model from giving its own logits [n, V] when every layer is entered and left; empty if nothing does."""
        try:
            states: Tensor | None = None
            for layer in range(1, len(self)):
                states = self.hidden(ids, layer, start=layer - 1 if layer > 1 else 0, states=states)
            found = [self.logits(ids, answer)]
            if states is not None:
                found.append(self.logits(ids, answer, start=len(self) - 1, states=states))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever the code of a model says to this
            return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
        return "" if all(self.agrees(one, own) for one in found) else "its logits are others then"

    def _trial(self, note: Callable[..., None] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """A short batch, its answer positions, and the plain model's logits [n, V] there."""
        ids = plain_ids(self.model, ROWS * TOKENS).view(ROWS, TOKENS)
        last = (len(self._prefix) or TOKENS) - 1
        answer = torch.tensor([last, max(0, last - 1)], device=ids.device)
        with torch.inference_mode(), ExitStack() as stack:
            for layer in self.layers if note else ():
                stack.enter_context(hooked(layer.register_forward_hook(note)))  # type: ignore[arg-type]
            logits = self.model(**self.inputs(ids)).logits.float()
        return ids, answer, logits[torch.arange(ROWS), answer]

    def agrees(self, found: Tensor, own: Tensor) -> bool:
        """Whether logits of the label words [n, W] are those of the plain model [n, V], up to rounding."""
        spread = float(own.amax() - own.amin())
        return self.same(found, own[:, self.token_ids], spread) or not bool(torch.isfinite(own).all())

    def same(self, found: Tensor, own: Tensor, spread: float | None = None) -> bool:
        """Whether logits are equal up to rounding, as a share of their spread or of a given one."""
        if found.shape != own.shape:
            return False
        low = any(parameter.dtype != torch.float32 for parameter in self.model.parameters())
        wide = float(own.amax() - own.amin()) if spread is None else spread
        return float((found - own).abs().amax()) <= (CLOSE_IN_16_BITS if low else CLOSE) * max(wide, 1e-6)

    def _takes_readings(self) -> bool:
        """Whether the model gives its own logits where keys and values of its texts were made before. Found out by trying."""
        first = self.encoder_layers
        if first is None or not any(self.readers.values()):
            return False
        lengths = (TOKENS - 2, TOKENS)
        ids = plain_ids(self.model, sum(lengths))
        texts = [part.unsqueeze(0) for part in ids.split(lengths)]  # type: ignore[no-untyped-call]
        answer = ids.new_full((1,), self.marks - 1)
        _, _, whole = self._trial()
        own = torch.cat([self.logits(part, answer) for part in texts])
        try:
            for start in {first, len(self) - 1}:
                states = [self.parted(self.hidden(part, start)) for part in texts]
                reading = self.read(
                    torch.cat([text for text, _ in states], dim=1), tuple(Span(1, length) for length in lengths)
                )
                marks = torch.cat([mark for _, mark in states]).repeat(2, 1, 1)
                for watched in (False, True):
                    found = self._with_reading(reading, start, marks, watched)
                    if not self.same(found, own.repeat(2, 1), float(whole.amax() - whole.amin())):
                        return False
        except torch.OutOfMemoryError:
            raise
        except Exception:  # whatever the code of a model says to this
            return False
        return True

    def _with_reading(self, reading: Reading, start: int, marks: Tensor, watched: bool) -> Tensor:
        """Logits of two candidates, where nothing is hung on the maps or something is that changes nothing."""
        ids = torch.zeros(len(marks), 1, dtype=torch.long, device=marks.device)
        answer = ids[:, 0] + self.marks - 1
        with ExitStack() as stack:
            for each in reading.made if watched else ():
                stack.enter_context(hooked(each.register_forward_hook(lambda module, args, output: output)))
            return self.logits(ids, answer, start=start, states=marks, reading=reading, changed=[start])

    def _narrow_where_it_may(self, modules: Sequence[nn.Module], architecture: Architecture) -> None:
        """Let modules of the last layer see the answer position only, where that leaves the logits what they are."""
        tuned = {self.layers[-1].get_submodule(one.module) for one in architecture.projections[-1]}
        self._way_out.narrow = [module for module in modules if not tuned & set(module.modules())]
        ids, answer, own = self._trial()
        try:
            fine = self.agrees(self.logits(ids, answer), own)
        except (RuntimeError, TypeError, ValueError, IndexError):
            fine = False
        if not fine:
            self._way_out.narrow = []

    def widen(self, modules: Sequence[nn.Module]) -> None:
        """Have modules see all positions, since something else stands in their place and adds to what they return.

        Args:
            modules: the model's own.
        """
        held = {part for module in modules for part in module.modules()}
        self._way_out.narrow = [module for module in self._way_out.narrow if not held & {*module.modules()}]


def _first_row(value: Any, rows: int) -> Any:
    """The first row of what a layer is given for every row of a batch; anything else as it is."""
    return value[:1] if isinstance(value, Tensor) and value.ndim > 1 and len(value) == rows else value

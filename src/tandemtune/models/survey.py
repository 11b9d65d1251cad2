"""Watches a model as it reads two short texts: which modules it calls, how often, in which order, and with what.

What a model says of itself when it runs holds for every architecture; a table of names would hold for those in it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from tandemtune.errors import ModelError
from tandemtune.models.linear import in_few_bits, is_linear

ROWS, TOKENS, ANSWERS = 2, 5, 3
"""Texts, tokens of each, and tokens that a decoder is given: three numbers that no shape can mix up."""


@contextmanager
def hooked(handle: Any) -> Iterator[None]:
    """Remove a hook when the context ends."""
    try:
        yield
    finally:
        handle.remove()


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


@dataclass
class Seen:
    """What was seen of one module.

    Args:
        times: how often it was called.
        entered: shape of the first tensor that it was given.
        left: shape of the first tensor that it returned.
        print_: one number for each vector that entered it, to know it again.
        alone: whether it returned a tensor and nothing beside it.
    """

    times: int = 0
    entered: tuple[int, ...] = ()
    left: tuple[int, ...] = ()
    print_: Tensor | None = None
    alone: bool = True


@dataclass
class Survey:
    """A model's run on two texts.

    Args:
        modules: what it called, by name, in the order of the first calls.
        mixed: names of modules with weights whose input does not hold each text's vectors in rows of their own.
        embeddings: name of the module that embeds the texts' tokens; None if none does.
        positions: how many tokens its table of positions has room for; None if it has no table.
        answer_positions: the same of its decoder.
        rounded: names of linear maps that it gives numbers of a few bits.
    """

    modules: dict[str, Seen]
    mixed: frozenset[str]
    embeddings: str | None
    positions: int | None
    answer_positions: int | None = None
    rounded: tuple[str, ...] = ()


@torch.inference_mode()
def survey(model: nn.Module) -> Survey:
    """Have a model read two texts, and one of them alone.

    Raises:
        ModelError: it cannot, or what it computes is not a number.
    """
    ids = plain_ids(model, ROWS * TOKENS).view(ROWS, TOKENS)
    both, alone = _Watch(ids), _Watch(ids[:1])
    for watch in (both, alone):
        try:
            watch.run(model)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever the code of a model says
            if watch.rounded:
                break
            raise ModelError(
                f"{type(model).__name__} cannot be run on a text: {type(error).__name__}: {_first_line(error)}"
            ) from error
    rounded = tuple(dict.fromkeys([*both.rounded, *alone.rounded]))
    if not rounded and any(
        seen.print_ is not None and bool(seen.print_.isnan().any()) for seen in alone.modules.values()
    ):
        raise ModelError(
            f"{type(model).__name__} gives no usable numbers when it reads a text: set [model] dtype to float32, or choose a "
            "model whose weights are whole"
        )
    names = {module: name for name, module in model.named_modules()}
    for name, module in model.named_modules(remove_duplicate=False):
        if names[module] in both.modules:  # a module that lies in several places
            both.modules[name] = both.modules[names[module]]
    mixed = (name for name, module in model.named_modules() if _has_weights(module) and not _apart(both, alone, name))
    return Survey(both.modules, frozenset(mixed), both.embeddings, both.positions, both.answer_positions, rounded)


def read_text(model: nn.Module, ids: Tensor) -> Any:
    """What a model returns for texts [n, T], and a few tokens in its decoder where it has one."""
    decoder = plain_ids(model, ANSWERS).expand(len(ids), -1) if has_decoder(model) else None
    return model(**plain_inputs(model, ids, decoder))


def plain_ids(model: nn.Module, count: int) -> Tensor:
    """Ids of different tokens that no setting of a model names (padding, marks, places of images), on its device [count]."""
    embedded: Any = model.get_input_embeddings()  # type: ignore[operator]
    size = int(embedded.weight.shape[0])
    named = set(_named_ids(model.config.to_dict()))  # type: ignore[union-attr,operator]
    free = [index for index in range(size) if index not in named] or [0]
    order = torch.randperm(len(free), generator=torch.Generator().manual_seed(0))[:count].tolist()
    chosen = [free[order[place % len(order)]] for place in range(count)]
    return torch.tensor(chosen, device=embedded.weight.device)


def plain_inputs(model: nn.Module, ids: Tensor, decoder: Tensor | None) -> dict[str, Any]:
    """What a model's forward is called with.

    Args:
        model: the model.
        ids: token ids [n, T].
        decoder: what a decoder is given [n, D]; None for a model of one stack.
    """
    given: dict[str, Any] = {"input_ids": ids}
    if "use_cache" in accepted(model):
        given["use_cache"] = False
    if decoder is not None:
        given["decoder_input_ids"] = decoder
    return given


def accepted(model: nn.Module) -> frozenset[str]:
    """Names of what the forward of a model takes."""
    return accepted_by(type(model))


def accepted_by(form: type[nn.Module]) -> frozenset[str]:
    """The same of a class of models."""
    return _parameters(form.forward)


@lru_cache(maxsize=8)
def _parameters(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)


def has_decoder(model: nn.Module) -> bool:
    """Whether a model reads with one stack of layers and answers with another."""
    return bool(getattr(model.config, "is_encoder_decoder", False))


def text_config(model: nn.Module) -> Any:
    """The settings of a model's language part: all of them, or one part's where it also sees or hears."""
    config: Any = model.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


@dataclass
class _Watch:
    ids: Tensor
    modules: dict[str, Seen] = field(default_factory=dict)
    embeddings: str | None = None
    positions: int | None = None
    answer_positions: int | None = None
    rounded: list[str] = field(default_factory=list)

    def run(self, model: nn.Module) -> None:
        with ExitStack() as stack:
            for name, module in model.named_modules():
                before, behind = self._entered(name, module), self._left(name)
                stack.enter_context(hooked(module.register_forward_pre_hook(before, with_kwargs=True)))
                stack.enter_context(hooked(module.register_forward_hook(behind)))
            with _Lookups(self):
                read_text(model, self.ids)

    def _entered(self, name: str, module: nn.Module) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen = self.modules.setdefault(name, Seen())
            seen.times += 1
            given = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
            if given is None or seen.times > 1:
                return
            seen.entered = tuple(given.shape)
            if is_linear(module) and in_few_bits(given):
                self.rounded.append(name)
            if isinstance(module, nn.Embedding) and self.embeddings is None and _same(given, self.ids):
                self.embeddings = name
            if _has_weights(module) and given.is_floating_point():
                seen.print_ = _print(given)

        return hook

    def _left(self, name: str) -> Any:
        def hook(_: nn.Module, args: Any, output: Any) -> None:
            first = first_tensor(output)
            self.modules[name].alone &= isinstance(output, Tensor)
            if first is not None and not self.modules[name].left:
                self.modules[name].left = tuple(first.shape)

        return hook


class _Lookups(TorchFunctionMode):
    """Notes how many rows a table has behind the one in which a text's first position is looked up."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.embedding:
            ids, weight = args[:2] if len(args) > 1 else (args[0], (kwargs or {})["weight"])
            row = ids.reshape(-1, ids.shape[-1])[0] if ids.ndim else ids.reshape(1)
            if len(row) in (TOKENS, ANSWERS) and bool((row.diff() == 1).all()):
                name = "positions" if len(row) == TOKENS else "answer_positions"
                room = len(weight) - int(row[0])
                setattr(self.watch, name, min(room, getattr(self.watch, name) or room))
        return func(*args, **(kwargs or {}))


def first_tensor(output: Any) -> Tensor | None:
    """The tensor that a module returns, alone or before others; None if it returns something else."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        output = list(output.values())
    first = output[0] if isinstance(output, (tuple, list)) and output else None
    return first if isinstance(first, Tensor) else None


def _apart(both: _Watch, alone: _Watch, name: str) -> bool:
    """Whether what entered a module for the first of two texts is the first half of it, and what enters it for that text alone."""
    two, one = both.modules.get(name), alone.modules.get(name)
    if two is None or one is None or two.times != 1 or one.times != 1 or two.print_ is None or one.print_ is None:
        return False
    if len(two.print_) != ROWS * len(one.print_) or not one.print_.numel():
        return False
    return torch.allclose(
        two.print_[: len(one.print_)], one.print_, rtol=2e-2, atol=2e-2 * float(one.print_.std(correction=0))
    )


def _print(given: Tensor) -> Tensor:
    """One number for each vector of [n, ..., width]; [n, ...]."""
    pattern = torch.cos(torch.arange(given.shape[-1], device=given.device, dtype=torch.float32) ** 1.5)
    return given.float() @ pattern


def _has_weights(module: nn.Module) -> bool:
    if isinstance(module, nn.Embedding):
        return False
    return is_linear(module) or next(module.parameters(recurse=False), None) is not None


def _same(given: Tensor, ids: Tensor) -> bool:
    return given.shape == ids.shape and torch.equal(given, ids)


def _named_ids(settings: Mapping[Any, Any]) -> Iterator[int]:
    """Values of all settings, at any depth, that name a token."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _named_ids(value)
        elif isinstance(key, str) and "token" in key and ("_id" in key or "_index" in key):
            yield from (one for one in (value if isinstance(value, list) else [value]) if isinstance(one, int))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200].rstrip(".") if lines else "no reason given"

"""Frozen weights in few bits: the formats that a model's layers can be brought into here, and layers that come in one.

A quantized map is used as it is: terms are added to what it returns. What is asked of it is that it gives the same numbers
whenever it is called, and, for methods that follow gradients, that gradients go through it.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tandemtune.errors import ModelError
from tandemtune.models.linear import device_of, in_few_bits, is_linear, is_packed, sizes, why_rounded
from tandemtune.models.survey import ROWS, TOKENS, plain_ids, read_text

INSTALL = "pip install 'tandemtune[quantize]'"


@dataclass(frozen=True)
class Format:
    """A form in which the linear maps of all layers can be held; embeddings and head stay as they are."""

    name: ClassVar[str]
    package: ClassVar[str]
    bytes: ClassVar[float]
    """Of a weight, scales included."""
    gradients: ClassVar[bool]
    """Whether they go through such a map."""

    def apply(self, model: nn.Module, layers: Sequence[str], dtype: torch.dtype) -> None:
        """Bring a model's layers into this form.

        Args:
            model: on a processor.
            layers: paths of its lists of layers.
            dtype: number format of the products.

        Raises:
            ModelError: the package is missing, or the layers hold no `nn.Linear`.
        """
        places = tuple(f"{path}." for path in layers)
        names = [n for n, module in model.named_modules() if isinstance(module, nn.Linear) and n.startswith(places)]
        if not names:
            raise ModelError(
                f"[model] quantize: the layers of {type(model).__name__} hold no nn.Linear that could be kept in {self.name}: leave it out"
            )
        try:
            with _silent():
                self._apply(model, names, dtype)
        except ImportError as error:
            raise ModelError(f"[model] quantize = {self.name!r} needs {self.package}: {INSTALL}") from error

    def _apply(self, model: nn.Module, names: Sequence[str], dtype: torch.dtype) -> None:
        raise NotImplementedError


class Int8(Format):
    """8 bits, one scale for each output column."""

    name = "int8"
    package = "torchao"
    bytes = 1.0
    gradients = False

    def _apply(self, model: nn.Module, names: Sequence[str], dtype: torch.dtype) -> None:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        wanted = set(names)
        quantize_(model, Int8WeightOnlyConfig(), filter_fn=lambda module, path: path in wanted)


class NF4(Format):
    """4-bit normal floats, one scale for every 64 weights (Dettmers et al., arXiv 2305.14314, section 3)."""

    name = "nf4"
    package = "bitsandbytes"
    bytes = 0.5625
    gradients = True

    def _apply(self, model: nn.Module, names: Sequence[str], dtype: torch.dtype) -> None:
        from bitsandbytes.nn import Linear4bit, Params4bit

        kept = set(getattr(model, "_keep_in_fp32_modules", None) or ())  # too large for few bits, `transformers` says
        names = [name for name in names if not kept & set(name.split("."))]
        for name in _that_may_be_packed(model, names):
            old: Any = model.get_submodule(name)
            made = Linear4bit(
                *sizes(old),
                bias=old.bias is not None,
                compute_dtype=dtype,
                compress_statistics=False,
                quant_type=self.name,
                device="meta",
            )
            packed = Params4bit(
                old.weight.data, requires_grad=False, compress_statistics=False, quant_type=self.name, module=made
            )
            made.weight, made.bias = packed, old.bias
            _put(model, {name: made.to("cpu").eval()})
        settle(model)


class _AsPacked(nn.Linear):
    """A map whose weights look packed, and which computes as before.

    Args:
        plain: the map.
    """

    def __init__(self, plain: Any) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = sizes(plain)
        bytes_ = torch.zeros(1, dtype=torch.uint8).expand(plain.weight.shape)
        self.weight, self.bias = nn.Parameter(bytes_, requires_grad=False), plain.bias
        self._plain = (plain,)  # no module of this one
        self.rounded = False

    def forward(self, hidden: Tensor) -> Tensor:
        """What the map makes of hidden states."""
        (plain,) = self._plain
        self.rounded |= in_few_bits(hidden)
        return plain(hidden.to(plain.weight.dtype))  # type: ignore[no-any-return]


def _that_may_be_packed(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Those of some maps that a model gives real numbers even if their weights are bytes. Found out by trying.

    Some code brings what enters a map into the number format of the map's weights: T5's last one would be given whole numbers.

    Raises:
        ModelError: the model cannot be run then.
    """
    plain = {name: model.get_submodule(name) for name in names}
    looking = {name: _AsPacked(module) for name, module in plain.items()}
    try:
        _put(model, looking)
        with torch.inference_mode():
            read_text(model, plain_ids(model, ROWS * TOKENS).view(ROWS, TOKENS))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever the code of a model says to this
        raise ModelError(
            f"[model] quantize: {type(model).__name__} cannot be run with packed weights ({type(error).__name__}: {error}): leave it out"
        ) from error
    finally:
        _put(model, plain)
    kinds = {name: (type(model.get_submodule(name.rpartition(".")[0])), name.rpartition(".")[2]) for name in names}
    refused = {kinds[name] for name, module in looking.items() if module.rounded}
    return [
        name for name in names if kinds[name] not in refused
    ]  # an expert may not have been asked, but others like it


def _put(model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    for name, module in modules.items():
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, module)


FORMATS: dict[str, Format] = {each.name: each for each in (Int8(), NF4())}


def method_of(config: Any) -> str | None:
    """The method by which a model's weights come quantized, as its configuration says; None for ordinary weights."""
    told = getattr(config, "quantization_config", None)
    if told is None:
        return None
    method = told.get("quant_method") if isinstance(told, dict) else getattr(told, "quant_method", None)
    return str(getattr(method, "value", method) or "unknown method")


def settle(model: nn.Module) -> None:
    """Have quantized maps hold and compute the same at any time.

    On some processors bitsandbytes packs the weights anew when a map is first called without gradient. From then on products are
    made in bfloat16, whatever format was asked for, no gradient goes through, and widths must be multiples of 32.

    Raises:
        ModelError: a map was to come packed, and has not.
    """
    parts: Iterator[Any] = model.modules()
    for module in parts:
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
            if getattr(module.weight, "quant_state", None) is None:
                raise ModelError(
                    "its configuration says that its weights are quantized (bitsandbytes), and in its files they are not: take "
                    "quantization_config out of config.json"
                )


def guard(model: nn.Module) -> None:
    """Have quantized maps refuse numbers of a few bits, in case that no text has shown them yet: not every expert reads every text."""
    for name, module in model.named_modules():
        if is_linear(module) and is_packed(module):
            module.register_forward_pre_hook(partial(_refuse_rounded, name))


def _refuse_rounded(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
    if args and isinstance(args[0], Tensor) and in_few_bits(args[0]):
        raise ModelError(why_rounded(name, module))


def packed_maps(layers: Sequence[nn.Module]) -> list[nn.Module]:
    """The quantized maps of layers."""
    return [module for layer in layers for module in layer.modules() if is_linear(module) and is_packed(module)]


def stops_gradients(maps: Sequence[nn.Module], dtype: torch.dtype) -> str:
    """The class of a quantized map that lets no gradient through; "" where all do. One map of each class is tried.

    Args:
        maps: quantized maps.
        dtype: number format of the hidden states.
    """
    for kind, module in {type(module): module for module in maps}.items():
        if not _lets_through(module, dtype):
            return kind.__name__
    return ""


def _lets_through(module: nn.Module, dtype: torch.dtype) -> bool:
    width = sizes(module)[0]
    given = torch.linspace(-1, 1, 2 * width, dtype=dtype, device=device_of(module)).view(1, 2, width)
    try:
        with torch.inference_mode(False), torch.enable_grad(), _silent():
            module(given.requires_grad_(True)).float().square().sum().backward()
    except RuntimeError:
        return False
    return given.grad is not None and bool(given.grad.any())


@contextmanager
def _silent() -> Iterator[None]:
    """Keep what quantization libraries say of kernels that they do without from the screen."""
    for name in ("torchao", "bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

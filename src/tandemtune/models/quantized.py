"""Frozen weights in few bits: the formats that a model's layers can be brought into here, and layers that come in one.

A quantized map is used as it is: terms are added to what it returns. What is asked of it is that it gives the same numbers
whenever it is called, and, for methods that follow gradients, that gradients go through it.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from tandemtune.errors import ModelError
from tandemtune.models.linear import device_of, is_linear, is_packed, sizes

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

        # T5 brings what enters its last map into that map's number format, which must not be that of packed weights
        kept = set(getattr(model, "_keep_in_fp32_modules", None) or ())
        for name in names:
            if kept & set(name.split(".")):
                continue
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
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, made.to("cpu").eval())
        settle(model)


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

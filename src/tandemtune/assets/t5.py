"""T5 out of two ONNX graphs with 8-bit weights: an ordinary folder of float32 safetensors and tokenizer.

The graphs are those that PyTorch exports and ONNX Runtime quantizes: a linear map has become a `MatMulInteger` node
that is called by its module, an embedding a stored tensor of that name; a weight is ``(q - zero_point) * scale``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandemtune.assets.onnx_file import Graph, read
from tandemtune.errors import AssetError

Weights = dict[str, NDArray[np.float32]]
_ROOTS = (("enc.", "encoder."), ("m.", ""))
_SUFFIX = "_quantized"
_FEED_FORWARD = "encoder.block.0.layer.1.DenseReluDense"
_ATTENTION = "encoder.block.0.layer.0.SelfAttention"


def write_folder(encoder: Path, decoder: Path, tokenizer: Path, out: Path) -> None:
    """Write `config.json`, `model.safetensors` and the tokenizer of the T5 model that two graphs describe.

    Args:
        encoder: ONNX file of the encoder.
        decoder: ONNX file of the decoder and the head, which is not tied to the embedding.
        tokenizer: its `tokenizer.json`; a length limit or padding inside is dropped.
        out: an existing folder to write to.

    Raises:
        AssetError: a file is damaged, or the graphs do not hold exactly the weights of such a model.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    weights = {**_weights(read(encoder), encoder.name), **_weights(read(decoder), decoder.name)}
    own = weights.pop("encoder.embed_tokens.weight", None)
    if own is not None and "shared.weight" in weights and not np.array_equal(own, weights["shared.weight"]):
        raise AssetError(f"{encoder.name} and {decoder.name}: expected one embedding for both, found two")
    settings = _settings(weights)
    _require(weights, settings)
    try:
        save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    except SafetensorError as error:
        raise AssetError(f"model.safetensors could not be written: {error}") from error
    _write(out / "config.json", settings)
    _write(out / "generation_config.json", {name: settings[name] for name in settings if name.endswith("_token_id")})
    _write_tokenizer(tokenizer, out)


def _weights(graph: Graph, file: str) -> Weights:
    named: Weights = {}
    for name, tensor in graph.tensors.items():
        base = name.removesuffix(_SUFFIX)
        if not base.endswith(".weight"):
            continue
        named[_module(base)] = tensor.astype(np.float32) if base == name else _dequantized(graph, base, file)
    for node in graph.nodes:
        if node.op_type != "MatMulInteger":
            continue
        quantized = [name for name in node.input if name in graph.tensors and name.endswith(_SUFFIX)]
        if len(quantized) == 1:
            path = node.name.strip("/").removesuffix("/MatMul_quant").replace("/", ".")
            weight = _dequantized(graph, quantized[0].removesuffix(_SUFFIX), file)
            named[f"{_module(path)}.weight"] = np.ascontiguousarray(weight.T)
    return named


def _module(path: str) -> str:
    for start, instead in _ROOTS:
        if path.startswith(start):
            return instead + path.removeprefix(start)
    return path


def _dequantized(graph: Graph, base: str, file: str) -> NDArray[np.float32]:
    try:
        quantized, scale, zero = (graph.tensors[base + end] for end in (_SUFFIX, "_scale", "_zero_point"))
        weight = (quantized.astype(np.float32) - zero.astype(np.float32)) * scale
        return np.asarray(weight, np.float32)
    except KeyError as error:
        raise AssetError(f"{file}: expected {error.args[0]} beside {base}{_SUFFIX}, it is not there") from None
    except ValueError as error:
        raise AssetError(f"{file}: the scale or zero point of {base} does not fit it ({error})") from None


def _settings(weights: Weights) -> dict[str, Any]:
    try:
        vocabulary, width = weights["shared.weight"].shape
        buckets, heads = weights[f"{_ATTENTION}.relative_attention_bias.weight"].shape
        inner = weights[f"{_ATTENTION}.q.weight"].shape[0]
        hidden = weights[f"{_FEED_FORWARD}.wi_0.weight"].shape[0]
        head_width = inner // heads
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise AssetError(
            f"expected the graphs of a T5 model with gated feed-forward layers, found other weights ({error!r})"
        ) from error
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "is_encoder_decoder": True,
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": head_width,
        "d_ff": hidden,
        "num_heads": heads,
        "num_layers": _blocks(weights, "encoder"),
        "num_decoder_layers": _blocks(weights, "decoder"),
        "relative_attention_num_buckets": buckets,
        "relative_attention_max_distance": 128,
        "feed_forward_proj": "gated-gelu",
        # `transformers` takes the first of these to mean the second, and ties no head that has weights of its own.
        "tie_word_embeddings": False,
        "scale_decoder_outputs": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
        "dtype": "float32",
    }


def _blocks(weights: Weights, stack: str) -> int:
    return len({name.split(".")[2] for name in weights if name.startswith(f"{stack}.block.")})


def _require(weights: Weights, settings: dict[str, Any]) -> None:
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    with torch.device("meta"):
        model = T5ForConditionalGeneration(T5Config(**settings))
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if "embed_tokens" not in name}
    wanted["lm_head.weight"] = wanted["shared.weight"]
    found = {name: tensor.shape for name, tensor in weights.items()}
    if found == wanted:
        return
    problems = [
        *(f"{name} is missing" for name in sorted(wanted.keys() - found.keys())),
        *(f"{name} was not expected" for name in sorted(found.keys() - wanted.keys())),
        *(f"{n} is {found[n]}, not {wanted[n]}" for n in sorted(found.keys() & wanted.keys()) if found[n] != wanted[n]),
    ]
    more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
    raise AssetError(f"expected the graphs of a whole T5 model: {', '.join(problems[:3])}{more}")


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_tokenizer(source: Path, out: Path) -> None:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    try:
        plain = Tokenizer.from_file(str(source))
    except Exception as error:  # the library raises nothing more precise
        raise AssetError(f"{source.name}: expected a tokenizer, but it cannot be read ({error})") from error
    plain.no_truncation()
    plain.no_padding()
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=plain, model_max_length=512, **special).save_pretrained(out)

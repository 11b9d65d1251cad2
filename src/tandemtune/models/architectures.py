"""Where attention lives in each architecture: a table, so that a new one is a row and not a branch."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from tandemtune.errors import ModelError


@dataclass(frozen=True)
class Projection:
    """One linear map of an attention layer whose input is the layer's hidden state.

    Args:
        name: short name, "q" or "k", or the module's own name where the user named it.
        module: path of the module inside a layer.
        part: which third of a fused module's output it is (0 query, 1 key, 2 value), or None for a module of its own.
        interleaved: the fused output is laid out head by head (GPT-NeoX) instead of as three blocks (GPT-2).
    """

    name: str
    module: str
    part: int | None = None
    interleaved: bool = False


@dataclass(frozen=True)
class Architecture:
    """How to find the parts of one model type.

    Args:
        layers: path of the list of layers inside the model.
        projections: the maps that LoRA is put on, by default query and key.
        trunk: path of the module that returns the last hidden state to the head; None for the model's base model.
        mixed_inputs: the projections also map something that all rows share (DeBERTa's relative positions), so the
            candidates of a population cannot stand side by side in one batch.
        narrow: modules of a layer behind its attention that map every token by itself; in the last layer they need to
            see the answer position only.
        decoder: path of the decoder's list of layers, for models that read with one stack and answer with another.
        decoder_projections: the maps of a decoder layer that LoRA is put on: those of its attention to the text, since
            the one position that is decoded has nothing else to attend to.
        decoder_reads: maps of a decoder layer that read the encoder's output: the keys and values of that attention.
        embeddings: path of the module that embeds the prompt's tokens; None for the model's input embeddings.
        positions: what the model calls the first position of a text, "zero" or "behind padding"; None where it cannot be told
            positions or attends by them, so that prompts cannot be laid end to end.
    """

    layers: str
    projections: tuple[Projection, ...]
    trunk: str | None = None
    mixed_inputs: bool = False
    narrow: tuple[str, ...] = ()
    decoder: str | None = None
    decoder_projections: tuple[Projection, ...] = ()
    decoder_reads: tuple[str, ...] = ()
    embeddings: str | None = None
    positions: Literal["zero", "behind padding"] | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of all lists of layers, in the order in which the model runs them."""
        return (self.layers,) if self.decoder is None else (self.layers, self.decoder)


def _pair(layers: str, query: str, key: str, narrow: tuple[str, ...]) -> Architecture:
    return Architecture(layers, (Projection("q", query), Projection("k", key)), narrow=narrow, positions="zero")


def _fused(layers: str, module: str, narrow: tuple[str, ...], *, interleaved: bool = False) -> Architecture:
    parts = tuple(Projection(name, module, part, interleaved) for part, name in enumerate("qk"))
    return Architecture(layers, parts, narrow=narrow, positions="zero")


def _bert_like(layers: str, query: str = "query", key: str = "key") -> Architecture:
    narrow = ("attention.output.dense", "intermediate", "output.dense")
    return _pair(layers, f"attention.self.{query}", f"attention.self.{key}", narrow)


def _seq2seq(root: str, layers: str, own: str, other: str, query: str, key: str) -> Architecture:
    """An encoder whose layers have their own attention, and a decoder whose layers attend to the encoder's output."""
    return Architecture(
        f"{root}encoder.{layers}",
        (Projection("q", f"{own}.{query}"), Projection("k", f"{own}.{key}")),
        trunk=f"{root}decoder",
        decoder=f"{root}decoder.{layers}",
        decoder_projections=(Projection("q", f"{other}.{query}"), Projection("k", f"{other}.{key}")),
        decoder_reads=(f"{other}.{key}", f"{other}.{key.replace('k', 'v', 1)}"),
        embeddings=f"{root}encoder.embed_tokens",
    )


_LLAMA_LIKE = _pair("model.layers", "self_attn.q_proj", "self_attn.k_proj", ("self_attn.o_proj", "mlp"))
_OPT = _pair("model.decoder.layers", "self_attn.q_proj", "self_attn.k_proj", ("self_attn.out_proj",))

ARCHITECTURES: dict[str, Architecture] = {
    "bert": _bert_like("bert.encoder.layer"),
    **dict.fromkeys(
        ("roberta", "xlm-roberta"), replace(_bert_like("roberta.encoder.layer"), positions="behind padding")
    ),
    "electra": _bert_like("electra.encoder.layer"),
    "deberta-v2": replace(
        _bert_like("deberta.encoder.layer", "query_proj", "key_proj"), mixed_inputs=True, positions=None
    ),
    "distilbert": replace(
        _pair("distilbert.transformer.layer", "attention.q_lin", "attention.k_lin", ("attention.out_lin", "ffn")),
        positions=None,
    ),
    "gpt2": _fused("transformer.h", "attn.c_attn", ("attn.c_proj", "mlp")),
    "gpt_neox": _fused("gpt_neox.layers", "attention.query_key_value", ("attention.dense", "mlp"), interleaved=True),
    "opt": replace(_OPT, trunk="model.decoder"),
    **dict.fromkeys(("t5", "mt5"), _seq2seq("", "block", "layer.0.SelfAttention", "layer.1.EncDecAttention", "q", "k")),
    **dict.fromkeys(("bart", "mbart"), _seq2seq("model.", "layers", "self_attn", "encoder_attn", "q_proj", "k_proj")),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"), _LLAMA_LIKE),
}


def linear_names(layer: nn.Module) -> list[str]:
    """Paths of all modules in `layer` that LoRA can be put on (linear maps, `Conv1D` included)."""
    return [name for name, module in layer.named_modules() if is_linear(module)]


def is_linear(module: nn.Module) -> bool:
    """Whether the module maps vectors by one weight matrix: `nn.Linear` or GPT-2's `Conv1D`."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def sizes(module: nn.Module) -> tuple[int, int]:
    """Input and output width of a linear module; `Conv1D` stores its weight the other way round."""
    weight = module.weight
    rows, columns = (int(n) for n in weight.shape)  # type: ignore[union-attr]
    return (columns, rows) if isinstance(module, nn.Linear) else (rows, columns)


def columns(projection: Projection, module: nn.Module, head_dim: int) -> torch.Tensor:
    """Output columns of `module` that belong to `projection`.

    Args:
        projection: the table's row.
        module: the linear module that it names.
        head_dim: width of one attention head, needed for an interleaved layout.

    Returns:
        Column numbers [n_out], int64.
    """
    width = sizes(module)[1]
    every = torch.arange(width)
    if projection.part is None:
        return every
    if projection.interleaved:
        return every.view(-1, 3, head_dim)[:, projection.part].reshape(-1)
    return every.view(3, width // 3)[projection.part]


def find(model: nn.Module, target: Sequence[str] | None = None) -> Architecture:
    """The architecture of a loaded model, from the table or from the user's own module names.

    Args:
        model: a masked, causal or sequence-to-sequence language model of `transformers`.
        target: module names inside a layer (``["self_attn.q_proj", ...]``), instead of the table's Q and K.

    Raises:
        ModelError: unknown model type without `target`, or a target that the layers do not have.
    """
    config = model.config
    model_type = str(getattr(config, "model_type", ""))
    known = ARCHITECTURES.get(model_type)
    if known is None and target is None:
        found = _layer_lists(model)
        names = linear_names(found[0][1][0]) if found else []
        raise ModelError(
            f"model type {model_type!r} is not in the table of architectures ({', '.join(sorted(ARCHITECTURES))}). "
            f"Its layers hold these linear modules: {', '.join(names) or 'none found'}. "
            "Name the query and key projections in the recipe, for example "
            f"[model] target = {names[:2] or ['self_attn.q_proj', 'self_attn.k_proj']}"
        )
    if target is None:
        return known  # type: ignore[return-value]
    if not target or len(set(target)) != len(target):
        raise ModelError(f"target {list(target)} must name at least one module, and each only once")
    path = known.layers if known else _list_with(model, target)
    names = linear_names(model.get_submodule(path)[0])  # type: ignore[index]
    for name in target:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ModelError(
                f"target {name!r} is no linear module of the layers at {path!r}, which hold: {', '.join(names)}.{hint}"
            )
    chosen = tuple(Projection(name, name) for name in target)
    if known is None:
        return Architecture(path, chosen)
    inside = linear_names(model.get_submodule(known.decoder)[0]) if known.decoder else []  # type: ignore[index]
    missing = [name for name in target if known.decoder and name not in inside]
    if missing:
        raise ModelError(
            f"target {missing[0]!r} is no linear module of the decoder's layers at {known.decoder!r}, which hold: "
            f"{', '.join(inside)}"
        )
    return replace(known, projections=chosen, decoder_projections=chosen if known.decoder else ())


def _layer_lists(model: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    lists = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) > 0]
    return sorted(lists, key=lambda item: -len(item[1]))


def _list_with(model: nn.Module, target: Sequence[str]) -> str:
    lists = _layer_lists(model)
    for path, layers in lists:
        if target[0] in linear_names(layers[0]):
            return path
    names = linear_names(lists[0][1][0]) if lists else []
    raise ModelError(f"target {target[0]!r} is in no list of layers of this model; its layers hold: {', '.join(names)}")

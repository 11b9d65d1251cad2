"""Where the layers of a model lie, and query and key in them: found by watching it run, for any architecture.

What does not fit is refused in one line: layers that run more than once, or are spread over several lists, and layers in which
query and key cannot be told.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from tandemtune.errors import ModelError
from tandemtune.models.linear import is_linear, sizes, why_rounded
from tandemtune.models.survey import ANSWERS, ROWS, TOKENS, Survey, has_decoder, plain_ids, plain_inputs, survey

Target: TypeAlias = Sequence[str] | Literal["all-linear"]

QUERY_AND_KEY = (
    ("q_proj", "k_proj"),
    ("query", "key"),
    ("query_proj", "key_proj"),
    ("q_lin", "k_lin"),
    ("q", "k"),
    ("Wq", "Wk"),
)
"""What models call the two maps where each is a module of its own."""
FUSED = ("c_attn", "query_key_value", "qkv_proj", "Wqkv", "qkv")
"""What models call one map that makes query, key and value."""
NARROW = (
    *("mlp", "ffn", "feed_forward", "intermediate", "output.dense", "attention.output.dense", "attention.dense"),
    *("self_attn.o_proj", "self_attn.out_proj", "attn.c_proj", "attention.out_lin"),
)
"""What models call modules behind a layer's attention that map every token by itself."""


@dataclass(frozen=True)
class Projection:
    """One linear map of an attention layer whose input is the layer's hidden state.

    Args:
        name: short name, "q" or "k", or the module's own name where the user named it.
        module: path of the module inside a layer.
        columns: the outputs of a module that also makes others; None for all outputs.
        asked: what the user wrote for it, where that may stand for several modules; None if it is the name.
    """

    name: str
    module: str
    columns: tuple[int, ...] | None = None
    asked: str | None = None

    def outputs(self, module: nn.Module) -> Tensor:
        """Numbers of the outputs of `module` that belong to it [n_out], int64."""
        return torch.arange(sizes(module)[1]) if self.columns is None else torch.tensor(self.columns)


@dataclass(frozen=True)
class Architecture:
    """How to find the parts of one model.

    Args:
        paths: the lists of layers, in the order in which the model runs them: one, or an encoder's and a decoder's.
        projections: for each layer the maps that LoRA is put on; none where a layer has no such map. Of a decoder's layers
            those of its attention to the text, since what it is given there is one mark and little else to attend to.
        trunk: the module that returns the last hidden state to the head; None if there is no such module.
        mixed: modules for which candidates cannot stand side by side in one batch, since they also map something that all
            rows share (DeBERTa's relative positions), or lay out rows in another way.
        narrow: modules of the last layer behind its attention that map every token by itself.
        reads: maps of the decoder's layers that read the text's tokens: keys and values of the attention to them.
        embeddings: the module that embeds the prompt's tokens; None for the model's input embeddings.
        positions: how many tokens the table of positions has room for; None if there is no such table.
        answer_positions: the same of a decoder's.
    """

    paths: tuple[str, ...]
    projections: tuple[tuple[Projection, ...], ...]
    trunk: str | None = None
    mixed: frozenset[str] = frozenset()
    narrow: tuple[str, ...] = ()
    reads: frozenset[str] = frozenset()
    embeddings: str | None = None
    positions: int | None = None
    answer_positions: int | None = None


def find(model: nn.Module, target: Target | None = None) -> Architecture:
    """The architecture of a loaded model.

    Args:
        model: a masked, causal or sequence-to-sequence language model of `transformers`.
        target: modules inside a layer by their paths or the ends of these (``["q_proj", "mlp.up_proj"]``), or "all-linear",
            instead of query and key.

    Raises:
        ModelError: its layers cannot be entered one by one, query and key cannot be told, the target is not there, or it rounds
            what enters its quantized maps.
    """
    seen = survey(model)
    if seen.rounded:
        raise ModelError(why_rounded(seen.rounded[0], model.get_submodule(seen.rounded[0])))
    paths = _paths(model, seen)
    layers = {f"{path}.{name}": layer for path in paths for name, layer in _children(model, path)}
    called = {place: _called(place, layer, seen) for place, layer in layers.items()}
    if target is not None:
        projections = _named(called, target)
    else:
        fused = _fused(model, layers, called)
        found = (_query_and_key(place, names, seen, fused.get(place, ())) for place, names in called.items())
        projections = dict(zip(called, found, strict=True))
        if not any(projections.values()):
            raise ModelError(_advice(model, called))
    _check_own(layers, projections)
    last = list(layers)[-1]
    return Architecture(
        paths,
        tuple(projections.values()),
        _trunk(paths[-1], seen),
        seen.mixed,
        tuple(name for name in NARROW if f"{last}.{name}" in seen.modules) if len(paths) == 1 else (),
        _readers(called, paths[-1], seen) if len(paths) > 1 else frozenset(),
        seen.embeddings,
        seen.positions,
        seen.answer_positions,
    )


def linear_names(layer: nn.Module) -> list[str]:
    """Paths of all modules in `layer` that LoRA can be put on (linear maps, `Conv1D` included)."""
    return [name for name, module in layer.named_modules() if is_linear(module)]


def _children(model: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    """Names and modules of a list, each as often as it stands there."""
    return [(name, module) for name, module in model.get_submodule(path)._modules.items() if module is not None]


def _paths(model: nn.Module, seen: Survey) -> tuple[str, ...]:
    """The lists whose modules the hidden states of the text (and of the answer) go through, one after the other, each once."""
    found: list[tuple[str, int]] = []
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or any(path.startswith(f"{other}.") for other, _ in found):
            continue
        names = [f"{path}.{name}" for name, _ in _children(model, path)]
        runs = [seen.modules[name] for name in names if name in seen.modules]
        if not runs or not all(_is_layer(run.entered, run.left) for run in runs):
            continue
        if len(runs) < len(names) or any(run.times > 1 for run in runs):
            most = max(run.times for run in runs)
            how = f"run {most} times with the same weights" if most > 1 else "do not run one after the other"
            raise ModelError(
                f"the layers of {type(model).__name__} at {path!r} {how}, so a candidate for one layer would change others as "
                "well: layers that share weights are not supported"
            )
        found.append((path, runs[0].entered[1]))
    wanted = [TOKENS, ANSWERS] if has_decoder(model) else [TOKENS]
    if [tokens for _, tokens in found] == wanted:
        return tuple(path for path, _ in found)
    what = ", ".join(path for path, _ in found) or "none found"
    raise ModelError(
        f"the layers of {type(model).__name__} (model type {model.config.model_type!r}) cannot be entered one by one: expected "  # type: ignore[union-attr]
        f"{'a list of encoder layers and one of decoder layers' if len(wanted) > 1 else 'one list of layers'} that each take and "
        f"return hidden states [rows, tokens, width], found: {what}. This architecture is not supported"
    )


def _is_layer(entered: tuple[int, ...], left: tuple[int, ...]) -> bool:
    return entered == left and len(entered) == 3 and entered[0] == ROWS and entered[1] in (TOKENS, ANSWERS)


def _called(place: str, layer: nn.Module, seen: Survey) -> dict[str, nn.Module]:
    """The linear maps that a layer calls, by their names in it."""
    return {
        name: module
        for name, module in layer.named_modules()
        if is_linear(module) and (found := seen.modules.get(f"{place}.{name}")) is not None and found.alone
    }


def _readers(called: Mapping[str, Iterable[str]], decoder: str, seen: Survey) -> frozenset[str]:
    every = (f"{place}.{name}" for place, names in called.items() if place.startswith(f"{decoder}.") for name in names)
    return frozenset(name for name in every if _reads(name, seen))


def _reads(name: str, seen: Survey) -> bool:
    """Whether a decoder's map reads the text, and not what is decoded."""
    entered = seen.modules[name].entered
    return len(entered) == 3 and entered[1] == TOKENS


def _query_and_key(
    place: str, called: Mapping[str, nn.Module], seen: Survey, fused: tuple[Projection, ...]
) -> tuple[Projection, ...]:
    """Query and key of a layer's attention: to the text, where there are two; nothing where there is none."""
    pairs = [
        (name, f"{name.removesuffix(query)}{key}")
        for query, key in QUERY_AND_KEY
        for name in called
        if name.rpartition(".")[2] == query and f"{name.removesuffix(query)}{key}" in called
    ]
    if len(pairs) > 1:
        across = [
            pair for pair in pairs if _reads(f"{place}.{pair[1]}", seen) and not _reads(f"{place}.{pair[0]}", seen)
        ]
        pairs = across or pairs
    if len(pairs) == 1:
        return Projection("q", pairs[0][0]), Projection("k", pairs[0][1])
    return fused if not pairs else ()


def _fused(
    model: nn.Module, layers: Mapping[str, nn.Module], called: Mapping[str, Mapping[str, nn.Module]]
) -> dict[str, tuple[Projection, ...]]:
    """Query and key in the maps that also make the value, for each layer that has such a map.

    Which outputs are the query's is asked of the attention: they are those that the query it is given depends on.
    """
    found = {
        place: (name, module)
        for place, names in called.items()
        for name, module in names.items()
        if name.rpartition(".")[2] in FUSED
    }
    if not found or has_decoder(model):
        return {}
    made: list[Tensor] = []
    given: list[tuple[Tensor, Tensor]] = []

    def leaf(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        made.append(output.detach().float().requires_grad_())
        return made[-1].to(output.dtype)

    with torch.enable_grad(), _attention_told(model, given):
        handles = [module.register_forward_hook(leaf) for _, module in found.values()]
        try:
            model(**plain_inputs(model, plain_ids(model, ROWS * TOKENS).view(ROWS, TOKENS), None))
        except torch.OutOfMemoryError:
            raise
        except Exception:  # an attention of another form than could be told
            return {}
        finally:
            for handle in handles:
                handle.remove()
    if not len(made) == len(given) == len(found):
        return {}
    result: dict[str, tuple[Projection, ...]] = {}
    for (place, (name, _)), output, parts in zip(found.items(), made, given, strict=True):
        columns = [_columns(part, output) for part in parts]
        if not all(columns) or set(columns[0]) & set(columns[1]):
            return {}
        result[place] = tuple(Projection(short, name, own) for short, own in zip("qk", columns, strict=True))
    return result


def _columns(part: Tensor, output: Tensor) -> tuple[int, ...]:
    """The columns of `output` [n, T, width] that `part` was made of."""
    unlike = torch.arange(part.numel(), device=part.device).cos().view(part.shape)  # or slopes could cancel out
    (slope,) = torch.autograd.grad((part.float() * unlike).sum(), output, retain_graph=True)
    return tuple(slope.abs().flatten(0, -2).sum(dim=0).nonzero().flatten().tolist())


class _attention_told:  # noqa: N801
    """Keeps the queries and keys that a model's attention is given, until the context ends."""

    _name = "tandemtune-told"

    def __init__(self, model: nn.Module, given: list[tuple[Tensor, Tensor]]) -> None:
        self._config: Any = model.config
        self._given = given

    def __enter__(self) -> None:
        from transformers import AttentionInterface
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        self._before = self._config._attn_implementation
        own = ALL_ATTENTION_FUNCTIONS["sdpa"]

        def told(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
            self._given.append((query, key))
            return own(module, query, key, value, None, **kwargs)

        AttentionInterface.register(self._name, told)
        self._config._attn_implementation = self._name

    def __exit__(self, *_: object) -> None:
        self._config._attn_implementation = self._before


def _named(called: Mapping[str, Mapping[str, nn.Module]], target: Target) -> dict[str, tuple[Projection, ...]]:
    """The modules that a user named, as PEFT reads names: in each layer those that it has."""
    every = list(dict.fromkeys(name for names in called.values() for name in names))
    if isinstance(target, str):
        asked = dict.fromkeys(every, target)
    else:
        asked = {}
        for word in target:
            meant = [name for name in every if name == word] or [name for name in every if name.endswith(f".{word}")]
            if not meant:
                close = difflib.get_close_matches(word, [*every, *(name.rpartition(".")[2] for name in every)], n=1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                raise ModelError(
                    f"target {word!r} is no linear module of the layers, and no end of one's path. They hold: {_held(called)}.{hint}"
                )
            twice = [name for name in meant if name in asked]
            if twice:
                raise ModelError(f"target {list(target)} names {twice[0]!r} twice: leave one of them out")
            asked |= dict.fromkeys(meant, word)
    if not asked:
        raise ModelError(f"target {target!r} must name at least one linear module; the layers hold: {_held(called)}")
    return {
        place: tuple(Projection(name, name, asked=word) for name, word in asked.items() if name in names)
        for place, names in called.items()
    }


def _held(called: Mapping[str, Mapping[str, nn.Module]]) -> str:
    """Linear modules of the layers: those that every layer has, then those that some have."""
    every = list(dict.fromkeys(name for names in called.values() for name in names))
    common = [name for name in every if all(name in names for names in called.values())]
    rest = [name for name in every if name not in common]
    some = f"; in some layers: {', '.join(rest)}" if rest else ""
    return f"{', '.join(common) or 'no linear module in all'}{some}" if every else "none"


def _advice(model: nn.Module, called: Mapping[str, Mapping[str, nn.Module]]) -> str:
    every = list(dict.fromkeys(name for names in called.values() for name in names))
    if not every:
        return (
            f"{type(model).__name__} (model type {model.config.model_type!r}) has no linear modules in its layers that LoRA could be "  # type: ignore[union-attr]
            "put on: this architecture is not supported"
        )
    likely = [name for name in every if "attn" in name.lower() or "attention" in name.lower()] or every
    return (
        f"query and key of {type(model).__name__} (model type {model.config.model_type!r}) cannot be told from its other "  # type: ignore[union-attr]
        f"modules. Its layers hold these linear modules: {_held(called)}. Name those that LoRA is to be put on in the recipe, "
        f"for example [model] target = {likely[:2]}"
    )


def _check_own(layers: Mapping[str, nn.Module], projections: Mapping[str, Sequence[Projection]]) -> None:
    """Refuse modules that several layers call."""
    owner: dict[nn.Module, str] = {}
    for place, chosen in projections.items():
        for module in {layers[place].get_submodule(one.module) for one in chosen}:
            other = owner.setdefault(module, place)
            if other != place:
                raise ModelError(
                    f"the layers {other} and {place} share a module, so a candidate for one layer would change others as well: "
                    "layers that share weights are not supported"
                )


def _trunk(path: str, seen: Survey) -> str | None:
    """The outermost module around the last list of layers that returns the hidden states that leave them."""
    parts = path.split(".")
    tokens = seen.modules[f"{path}.0"].left[1]
    around = (".".join(parts[:count]) for count in range(1, len(parts)))
    return next((name for name in around if name in seen.modules and _returns(seen.modules[name].left, tokens)), None)


def _returns(left: Iterable[int], tokens: int) -> bool:
    return tuple(left)[:2] == (ROWS, tokens) and len(tuple(left)) == 3

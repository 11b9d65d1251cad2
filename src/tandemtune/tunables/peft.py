"""Any adapter of the PEFT library (github.com/huggingface/peft) as a tunable: IA3, DoRA, VeRA, LoKr, OFT and the others.

PEFT puts its layers into a model by replacing modules. Here it does so once; what it has replaced is taken out again at once, and
put back only while a point is applied, with the point's values in the place of PEFT's own parameters. Between two points the
model is the pretrained one, and whoever looks at its modules finds those that it came with.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor, nn

from tandemtune.errors import ModelError, UsageError
from tandemtune.models.backbone import Backbone
from tandemtune.models.linear import is_linear
from tandemtune.plugins import near, register
from tandemtune.tunables import storage
from tandemtune.tunables.base import INPUT, Given, Parameters, Point, Tunable
from tandemtune.tunables.lora import TASK_TYPES
from tandemtune.types import seed_for

INSTALL = "the tunable peft needs the package peft: pip install 'tandemtune[peft]'"
OWN_TARGETS = ("LN_TUNING", "TRAINABLE_TOKENS", "ADAPTION_PROMPT")
"""Types that change no linear maps, so that query and key are no default for them."""
NEEDS_MORE = {
    "POLY": "needs a task number with every row",
    "XLORA": "mixes adapters that were trained before",
    "MIXED": "mixes other types",
    "SHADOW": "runs a small model of its own beside the layers",
}
"""Types that a single adapter is not, with the reason."""


class PEFTAdapter(Parameters):
    """All parameters that PEFT would train, in one block.

    Candidates are scored one by one, since PEFT's layers hold one setting. Nothing below the lowest layer that PEFT changes is
    computed again for them.

    Args:
        backbone: the model to tune.
        kind: PEFT's name of the type, for example "IA3".
        options: PEFT's own options of that type; `target_modules` are query and key where they are not named.
        seed: draws what PEFT draws at the start.

    Raises:
        UsageError: PEFT is missing, or has no such type or options.
        ModelError: PEFT cannot put the adapter on this model, or would change what the model itself is.
    """

    names = ("adapter",)
    blocks = (INPUT,)
    side_by_side = False

    def __init__(self, backbone: Backbone, kind: str, options: Mapping[str, Any], seed: int) -> None:
        config = make_config(kind, options, targets_of(backbone), TASK_TYPES.get(backbone.kind))
        self._kind, self._home = kind.upper(), backbone
        with _as_it_was(backbone, self._kind) as original:
            self._wrapped = _wrapped(backbone, config, seed)
            self._wrapped.eval()
            self._grafts = [
                (parent, name, child, grafted)
                for parent, children in original.items()
                for name, child in children.items()
                if child is not None and (grafted := parent._modules.get(name)) is not None and grafted is not child
            ]
            trained = {id(p): p for p in self._wrapped.parameters() if p.requires_grad}
            self._trained: list[nn.Parameter] = list(trained.values())
            place = {key: index for index, key in enumerate(trained)}
            self._holders = [
                (module, name, place[id(parameter)])
                for module in self._wrapped.modules()
                for name, parameter in module._parameters.items()
                if id(parameter) in place
            ]
            self._layers, self._lowest = _layers_of(backbone, {id(module) for module, _, _ in self._holders})
        for parameter in self._trained:
            parameter.requires_grad_(False)
        self._refuse_what_is_entered()
        self._counts = [parameter.numel() for parameter in self._trained]
        self._first = torch.cat([p.detach().float().cpu().reshape(-1) for p in self._trained])
        self.replaced = [child for _, _, child, _ in self._grafts]
        self.token_wise = all(_by_token(grafted) for _, _, _, grafted in self._grafts)
        self._try()

    def shapes(self, block: int) -> list[tuple[int, int]]:
        """One matrix for each parameter; a vector is a row."""
        return [(p.numel() // p.shape[-1], p.shape[-1]) if p.ndim else (1, 1) for p in self._trained]

    def dim(self, block: int) -> int:
        """Number of parameters that PEFT would train."""
        return sum(self._counts)

    def initial(self) -> dict[int, Tensor]:
        """What PEFT begins with: for nearly all types the pretrained model."""
        return {INPUT: self._first.clone()}

    def first_layer(self, blocks: Sequence[int]) -> int:
        """The lowest layer that PEFT changes; `INPUT` where it changes something outside of the layers."""
        return self._lowest

    def same_below(self, layer: int, one: Point, other: Point) -> bool:
        """Up to the lowest layer that PEFT changes all points are one."""
        return layer <= self._lowest or torch.equal(one[INPUT], other[INPUT])

    @contextmanager
    def applied(self, point: Point) -> Iterator[None]:
        """Put PEFT's layers into the model with the values of `point`, until the context ends.

        Raises:
            ModelError: more than one candidate at once.
        """
        if INPUT not in point:
            yield
            return
        with self._in_place(self._values(point[INPUT])):
            yield

    def save(self, point: Point, folder: Path, base_model: str) -> None:
        """Write an ordinary PEFT adapter: `adapter_config.json` and `adapter_model.safetensors`.

        Args:
            point: the parameters to keep.
            folder: where the files go.
            base_model: name of the base model, for whoever loads it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with self.applied(point):
            kept = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in self._state().items()}
        save_file(kept, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = copy(self._wrapped.peft_config["default"])
        config.base_model_name_or_path, config.inference_mode = base_model, True
        told = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
        (folder / "adapter_config.json").write_text(json.dumps(told, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def load(self, folder: Path) -> dict[int, Tensor]:
        """Read a point back from an adapter that `save` wrote.

        Raises:
            RunError: the file is missing, damaged or made for another model or with other options.
        """
        from peft.utils import set_peft_model_state_dict

        path = folder / "adapter_model.safetensors"
        tensors = storage.read(path, "adapter")
        values = [value.clone() for value in self._values(self._first)]
        with self._in_place(values):
            storage.check(
                tensors, {name: tuple(tensor.shape) for name, tensor in self._state().items()}, path, "adapter"
            )
            set_peft_model_state_dict(self._wrapped, tensors)
        return {INPUT: torch.cat([value.float().cpu().reshape(-1) for value in values])}

    def describe(self) -> dict[str, Any]:
        """Type, layers, targets and number of parameters."""
        targets = {name for parent, name, _, _ in self._grafts}
        return {
            "layers": self._layers,
            "parameters": self.dim(INPUT),
            "type": self._kind,
            "targets": sorted(targets),
        }

    def _state(self) -> dict[str, Tensor]:
        from peft import get_peft_model_state_dict

        found: dict[str, Tensor] = get_peft_model_state_dict(self._wrapped, save_embedding_layers=False)
        return found

    @contextmanager
    def _in_place(self, values: Sequence[Tensor]) -> Iterator[None]:
        """PEFT's layers in the model, these values in the place of their parameters."""
        kept = [module._parameters[name] for module, name, _ in self._holders]
        try:
            for parent, name, _, grafted in self._grafts:
                parent._modules[name] = grafted
            for module, name, index in self._holders:
                module._parameters[name] = values[index]
            yield
        finally:
            for (module, name, _), parameter in zip(self._holders, kept, strict=True):
                module._parameters[name] = parameter
            for parent, name, child, _ in self._grafts:
                parent._modules[name] = child

    def _values(self, vector: Tensor) -> list[Tensor]:
        """A value for each parameter, in its place and format; those of `vector` are differentiated through.

        Args:
            vector: [dim] or [1, dim].
        """
        if vector.ndim == 2 and len(vector) != 1:
            raise ModelError(f"an adapter of PEFT holds one candidate, got {len(vector)} candidates at once")
        pieces = torch.split(vector.reshape(-1), self._counts)
        return [
            piece.view(parameter.shape).to(parameter.device, parameter.dtype)
            for piece, parameter in zip(pieces, self._trained, strict=True)
        ]

    def _try(self) -> None:
        """Find out whether the model runs with PEFT's layers in it, before a search begins."""
        model = self._home.model
        one = torch.zeros(1, 1, dtype=torch.long, device=self._home.device)
        given = {"input_ids": one, **({"decoder_input_ids": one} if self._home.kind == "seq2seq" else {})}
        try:
            with torch.inference_mode(), self.applied(self.initial()):
                model(**given)
        except Exception as error:  # whatever a type of PEFT needs that only PEFT's own model gives it
            raise ModelError(
                f"[method] config: {self._home.name} does not run with {self._kind} in it: {_line(error)}"
            ) from error

    def _refuse_what_is_entered(self) -> None:
        """Layers and output embedding are entered by the engine, so nothing may take their place."""
        model: Any = self._home.model
        fixed = {*self._home.layers, model.get_output_embeddings(), model.base_model}
        for _, name, child, _ in self._grafts:
            if fixed & set(child.modules()):
                raise ModelError(
                    f"[method] config: {self._kind} would replace {name!r} of {self._home.name}, which holds whole layers or "
                    "the output embedding: name modules inside the layers in target_modules and modules_to_save"
                )


def types() -> list[str]:
    """Names of PEFT's types that can be tuned here.

    Raises:
        UsageError: PEFT is missing.
    """
    return [name for name in _classes() if name not in NEEDS_MORE]


def make_config(kind: str, options: Mapping[str, Any], targets: Sequence[str], task_type: str | None) -> Any:
    """PEFT's own configuration.

    Args:
        kind: PEFT's name of the type, in any case.
        options: PEFT's options.
        targets: `target_modules` where the options name none.
        task_type: PEFT's name of the kind of model.

    Raises:
        UsageError: PEFT is missing, or has no such type or options.
    """
    name, known = kind.upper(), _classes()
    if name in NEEDS_MORE:
        raise UsageError(f"[method] type: {name} {NEEDS_MORE[name]}, so it cannot be searched as one adapter")
    if name not in known:
        raise UsageError(
            f"[method] type: PEFT has no {kind!r}{near(name, known)}, expected one of {', '.join(types())}"
        )
    owner = known[name]
    from peft import PromptLearningConfig

    if issubclass(owner, PromptLearningConfig):
        raise UsageError(
            f"[method] type: {name} puts vectors before the text: use the tunable prompt, deep-prompt or lora+prompt for that"
        )
    own = [field.name for field in fields(owner) if field.init]
    for key in options:
        if key not in own:
            raise UsageError(
                f"[method] config: {name} has no option {key!r}{near(key, own)}, expected {', '.join(own)}"
            )
    given = dict(options)
    if "target_modules" in own and name not in OWN_TARGETS and not given.get("target_parameters"):
        given.setdefault("target_modules", list(targets))
    if "feedforward_modules" in own:
        given.setdefault("feedforward_modules", [])
    try:
        return owner(**{"task_type": task_type, **given})
    except (TypeError, ValueError, ImportError) as error:
        raise UsageError(f"[method] config: {name} cannot be made of {dict(options)}: {_line(error)}") from None


def targets_of(backbone: Backbone) -> list[str]:
    """Query and key, as PEFT names modules: by the end of their path."""
    every = range(len(backbone.layers))
    return list(dict.fromkeys(p.module for index in every for p in backbone.projections(index)))


def _classes() -> dict[str, Any]:
    try:
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    except ImportError as error:
        raise UsageError(INSTALL) from error
    return {kind.value: owner for kind, owner in PEFT_TYPE_TO_CONFIG_MAPPING.items()}


def _wrapped(backbone: Backbone, config: Any, seed: int) -> Any:
    """The model with an adapter in it, drawn from a seed of its own."""
    from peft import get_peft_model

    devices = [backbone.device] if backbone.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")  # PEFT corrects it by itself
        torch.manual_seed(seed)
        try:
            return get_peft_model(backbone.model, config)
        except Exception as error:  # PEFT raises whatever its many types raise
            raise ModelError(
                f"[method] config: PEFT cannot put {config.peft_type.value} on {backbone.name}: {_line(error)}"
            ) from error


@contextmanager
def _as_it_was(backbone: Backbone, kind: str) -> Iterator[Mapping[nn.Module, Mapping[str, nn.Module | None]]]:
    """Take back everything that is done to a model, when the context ends.

    Yields:
        The children of every module as they are now.

    Raises:
        ModelError: pretrained weights were written to.
    """
    model = backbone.model
    owners = [*model.modules(), model.config]
    before = [(owner, vars(owner).copy()) for owner in owners]
    tables = [(table, copy(table)) for _, kept in before for table in kept.values() if isinstance(table, dict | set)]
    weights = [(name, p, p.data, p.requires_grad, _sum(p)) for name, p in model.named_parameters()]
    try:
        yield {module: dict(module._modules) for module in model.modules()}
    finally:
        changed = [name for name, p, data, _, total in weights if p.data_ptr() != data.data_ptr() or _sum(p) != total]
        for owner, kept in before:
            vars(owner).clear()
            vars(owner).update(kept)
        for table, content in tables:
            table.clear()
            table.update(content)
        for _, parameter, data, wanted, _ in weights:
            parameter.data = data
            parameter.requires_grad_(wanted)
    if changed:
        raise ModelError(
            f"[method] config: with these options {kind} writes to pretrained weights ({changed[0]}), which stay as they are "
            "here: choose a start that does not (PEFT's default)"
        )


def _sum(parameter: Tensor) -> int:
    """What tells the values of a weight from others: the sum of its bits."""
    whole = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[parameter.element_size()]
    with suppress(RuntimeError, NotImplementedError):  # packed weights are not looked into
        return int(parameter.detach().contiguous().view(whole).sum(dtype=torch.int64))
    return 0


def _layers_of(backbone: Backbone, holders: set[int]) -> tuple[list[int], int]:
    """Layers that hold some of these modules, and the lowest one; `INPUT` where a module lies outside of all."""
    inside = [{id(module) for module in layer.modules()} & holders for layer in backbone.layers]
    layers = [index for index, found in enumerate(inside) if found]
    return layers, min(layers) if set().union(*inside) == holders else INPUT


def _by_token(grafted: nn.Module) -> bool:
    """Whether a layer of PEFT does the same to every token, wherever that stands: those around a map of single vectors do."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    if not isinstance(grafted, BaseTunerLayer):
        return False
    base = grafted.get_base_layer()
    weight = getattr(base, "weight", None)
    return is_linear(base) or isinstance(base, nn.Embedding) or (isinstance(weight, Tensor) and weight.ndim == 1)


def _line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


@register
class PEFT(Tunable):
    """Any adapter of the PEFT library."""

    kind: ClassVar[str] = "peft"
    summary: ClassVar[str] = (
        "any adapter of the PEFT library (IA3, DoRA, VeRA, LoKr, LoHa, OFT, BOFT, ...), scored one by one"
    )
    source: ClassVar[str] = "github.com/huggingface/peft"
    card: ClassVar[str] = "A PEFT adapter"
    shares_beginnings: ClassVar[bool] = False  # it depends on the type

    type: str = Field(description="PEFT's name for it: IA3, VERA, LOKR, LOHA, OFT, BOFT, LORA (with use_dora), ...")
    config: dict[str, Any] = Field(
        default={},
        description="PEFT's own options of that type; target_modules are query and key (or [model] target) where none are named",
    )

    def make(self, given: Given) -> PEFTAdapter:
        """Where PEFT begins."""
        return PEFTAdapter(given.backbone, self.type, self.config, seed_for(given.seed, 12))

    def problems(self, recipe: Any) -> Iterator[str]:
        """A package that is missing, a type or an option that PEFT does not have."""
        yield from super().problems(recipe)
        try:
            make_config(self.type, self.config, ["q"], None)
        except UsageError as error:
            yield str(error)

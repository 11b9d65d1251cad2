"""Low-rank terms beside frozen projections: ``q = W x + (x A) B`` (Hu et al., arXiv 2106.09685), scaling 1.

Where both factors are searched from zero, f(A, B) = f(-A, -B): differences of losses say nothing there. With A drawn once and B
searched alone, the first steps of a search are those of a linear map.

Nothing is written into the model: hooks add the terms to what the projections return, for one setting or for a whole
population at once.
"""

from __future__ import annotations

import json
import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from tandemtune.errors import ModelError, RunError
from tandemtune.models.architectures import Target
from tandemtune.models.backbone import Backbone
from tandemtune.models.linear import device_of, is_transposed, sizes
from tandemtune.plugins import register
from tandemtune.subspace import LayerStatistics, Rule
from tandemtune.tunables.base import LAST_THIRD, Given, Layers, Layerwise, Point, Tunable
from tandemtune.types import seed_for

ALIGNED, SHARED = 8, 16
"""Ranks of terms are filled up to a multiple of this on a GPU; modules with at most so many columns of A together share them."""
TASK_TYPES = {"causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM"}
"""PEFT's names for kinds of models; it has none for a masked one."""


class LoRATerms(Layerwise):
    """LoRA on the projections of some layers; one block is one layer.

    A block's vector holds, projection by projection (query, key), the factors A [n_in, r] and B [r, n_out], row by row.

    Args:
        backbone: the model to tune.
        rank: rank r of each projection's term.
        layers: layer indices that may change; those that have no such projections are left out, and a layer that has some of them
            has terms on these.
        start_seed: draws A at the start, for gradients, which cannot leave the point where both factors are zero; B is
            zero, so the first point is the pretrained model all the same.
        fixed_seed: draws A once and for all, so that a block's vector holds the factors B alone (arXiv 2308.03303).
        seed: draws A where a later optimizer finds both factors zero.
    """

    token_wise = True

    def __init__(
        self,
        backbone: Backbone,
        rank: int,
        layers: Sequence[int],
        start_seed: int | None = None,
        fixed_seed: int | None = None,
        seed: int = 0,
    ) -> None:
        self.rank = rank
        self._seed = seed
        self._start_seed = start_seed
        self.blocks = tuple(block for block in sorted(layers) if backbone.projections(block))
        if not self.blocks:
            raise ModelError(f"none of the layers {list(layers)} has a map that LoRA is put on: choose other layers")
        _check_targets(backbone, self.blocks)
        self._kind = backbone.kind
        self._paths = {block: backbone.layer_path(block) for block in self.blocks}
        self._projections = {block: backbone.projections(block) for block in self.blocks}
        self._modules: dict[int, dict[str, nn.Module]] = {}
        self._columns: dict[int, dict[str, Tensor]] = {}
        self._terms: dict[int, _Kept] = {}
        every = backbone.layers
        for block in self.blocks:
            self._modules[block] = {p.module: every[block].get_submodule(p.module) for p in self._projections[block]}
            self._columns[block] = {p.name: p.outputs(self._modules[block][p.module]) for p in self._projections[block]}
        self.names = tuple(dict.fromkeys(p.name for block in self.blocks for p in self._projections[block]))
        self.side_by_side = backbone.side_by_side(m for found in self._modules.values() for m in found.values())
        self._fixed: dict[int, dict[str, Tensor]] = {}
        if fixed_seed is not None:
            generator = torch.Generator().manual_seed(fixed_seed)
            for block in self.blocks:
                inputs = {p.name: sizes(self._modules[block][p.module])[0] for p in self._projections[block]}
                self._fixed[block] = {name: _drawn(torch.empty(n, rank), generator) for name, n in inputs.items()}

    @property
    def fixes_a(self) -> bool:
        """Whether A is drawn once and B is all that moves."""
        return bool(self._fixed)

    def names_of(self, block: int) -> tuple[str, ...]:
        """The projections that a layer has."""
        return tuple(projection.name for projection in self._projections[block])

    def shapes(self, block: int) -> list[tuple[int, int]]:
        """Shapes of A and B of each projection, in order; of B alone where A is drawn once."""
        shapes: list[tuple[int, int]] = []
        for projection in self._projections[block]:
            n_in, _ = sizes(self._modules[block][projection.module])
            b = (self.rank, len(self._columns[block][projection.name]))
            shapes += [b] if self._fixed else [(n_in, self.rank), b]
        return shapes

    def dim(self, block: int) -> int:
        """Number of parameters of one layer's terms."""
        return sum(math.prod(shape) for shape in self.shapes(block))

    def initial(self) -> dict[int, Tensor]:
        """The pretrained model: all factors zero, or B alone where A is drawn (uniform, within ``1 / sqrt(n_in)``)."""
        point = {block: torch.zeros(self.dim(block)) for block in self.blocks}
        if self._start_seed is not None:
            generator = torch.Generator().manual_seed(self._start_seed)
            for block, vector in point.items():
                for a, _ in self.factors(block, vector).values():  # views
                    _drawn(a, generator)
        return point

    def movable(self, point: Point) -> dict[int, Tensor]:
        """The same terms, with A drawn where a projection's factors are both zero: B alone says that they add nothing, and nothing moves
        away from zero but both at once."""
        found = {block: vector.clone() for block, vector in point.items()}
        for block in self.blocks if not self._fixed else ():
            generator = torch.Generator().manual_seed(seed_for(self._seed, block))
            for a, b in self.factors(block, found[block]).values():  # views
                drawn = _drawn(torch.empty_like(a), generator)
                if not a.any() and not b.any():
                    a.copy_(drawn)
        return found

    @contextmanager
    def applied(self, point: Point) -> Iterator[None]:
        """Add the terms of `point` to what the projections return, until the context ends."""
        handles: list[Any] = []
        try:
            for block, given in point.items():
                vector = (
                    given[0] if given.ndim == 2 and len(given) == 1 else given
                )  # one candidate is an ordinary setting
                for module, term in self._terms_of(block, vector).items():
                    handles.append(module.register_forward_hook(term))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def seen_from(self, layer: int, point: Point) -> Point:
        """The terms of that layer and of those above it."""
        return {block: vector for block, vector in point.items() if block >= layer}

    def _terms_of(self, block: int, vector: Tensor) -> Mapping[nn.Module, _Term]:
        """The terms of each module of a block; none where they are zero. Those of a point that many candidates share are kept."""
        if vector.ndim > 1 or vector.requires_grad or vector.is_inference():
            return self._made(block, vector)
        kept = self._terms.get(block)
        if kept is None or kept.vector is not vector or kept.version != vector._version:
            made = {} if vector.device.type == "cpu" and not vector.any() else self._made(block, vector)
            kept = self._terms[block] = _Kept(vector, vector._version, made)
        return kept.terms

    def _made(self, block: int, vector: Tensor) -> Mapping[nn.Module, _Term]:
        factors, modules = self.factors(block, vector), self._modules[block]
        parts: dict[str, tuple[Tensor, Tensor]] = {}
        for name, module in modules.items():
            device = device_of(module)
            a, b = self._assemble(block, factors, name)
            parts[name] = a.to(device), b.to(device)
        groups = [[name] for name in modules]
        if not vector.requires_grad and _aligns(device):
            groups = _grouped({name: a for name, (a, _) in parts.items()})
            parts = {name: part for group in groups for name, part in _aligned({n: parts[n] for n in group}).items()}
        made: dict[nn.Module, _Term] = {}
        for group in groups:
            entering = _Entering(parts[group[0]][0], len(group))
            made.update({modules[name]: _Term(entering, parts[name][1]) for name in group})
        return made

    def factors(self, block: int, vector: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Cut a block's vector into its factors.

        Args:
            block: layer index.
            vector: [dim] or [P, dim].

        Returns:
            Projection name -> (A [..., n_in, r], B [..., r, n_out]); A [n_in, r] where it is drawn once.
        """
        shapes = self.shapes(block)
        pieces = torch.split(vector, [math.prod(shape) for shape in shapes], dim=-1)
        matrices = [piece.reshape(*piece.shape[:-1], *shape) for piece, shape in zip(pieces, shapes, strict=True)]
        names = self.names_of(block)
        if self._fixed:
            return {name: (self._fixed[block][name], b) for name, b in zip(names, matrices, strict=True)}
        return {name: (matrices[2 * i], matrices[2 * i + 1]) for i, name in enumerate(names)}

    def save(self, point: Point, folder: Path, base_model: str) -> None:
        """Write an ordinary PEFT LoRA adapter.

        A module that holds query, key and value in one matrix gets one term of rank ``r * (number of projections)``
        whose B is zero in the columns that are not tuned.

        Args:
            point: the factors to keep.
            folder: where `adapter_config.json` and `adapter_model.safetensors` go.
            base_model: name of the base model, for the record.
        """
        folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Tensor] = {}
        targets: list[str] = []
        width = 0
        for block in self.blocks:
            for name in self._modules[block]:
                path = f"{self._paths[block]}.{name}"
                a, b = self._assemble(block, self.factors(block, point[block]), name)
                targets.append(path)
                width = a.shape[-1]
                a_key, b_key = self._keys(block, name)
                tensors[a_key], tensors[b_key] = a.T.contiguous(), b.T.contiguous()
        transposed = any(is_transposed(m) for m in self._modules[self.blocks[0]].values())
        config = {
            "peft_type": "LORA",
            "task_type": TASK_TYPES.get(self._kind),
            "base_model_name_or_path": base_model,
            "inference_mode": True,
            "r": width,
            "lora_alpha": width,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": transposed,
            "target_modules": targets,
        }
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def load(self, folder: Path) -> dict[int, Tensor]:
        """Read the factors back from an adapter that `save` wrote.

        Raises:
            RunError: the adapter is missing, damaged or made for other layers.
        """
        path = folder / "adapter_model.safetensors"
        try:
            tensors = load_file(path)
        except Exception as error:  # safetensors raises its own, undocumented types
            raise RunError(f"adapter {path} cannot be read: {error}") from error
        expected = self._tensor_shapes()
        for key, shape in expected.items():
            if key not in tensors:
                raise RunError(f"adapter {path} has no {key}: it was made for another model")
            if tuple(tensors[key].shape) != shape:
                found = tuple(tensors[key].shape)
                raise RunError(f"adapter {path}: {key} has the shape {found}, expected {shape}: another rank or model")
        for key in sorted(tensors.keys() - expected.keys()):
            raise RunError(f"adapter {path} also changes {key}, which is not among layers {list(self.blocks)}")
        point = self.initial()
        for block in self.blocks:
            pieces: list[Tensor] = []
            used: dict[str, int] = {}
            for projection in self._projections[block]:
                a_key, b_key = self._keys(block, projection.module)
                a, b = tensors[a_key].T.float(), tensors[b_key].T.float()
                first = used.get(projection.module, 0)
                used[projection.module] = first + self.rank
                ranks = slice(first, first + self.rank)
                if self._fixed:
                    self._fixed[block][projection.name] = a[:, ranks].contiguous()
                else:
                    pieces.append(a[:, ranks].reshape(-1))
                pieces.append(b[ranks][:, self._columns[block][projection.name]].reshape(-1))
            point[block] = torch.cat(pieces)
        return point

    def describe(self) -> dict[str, Any]:
        """Rank, layers and number of parameters."""
        return {
            "rank": self.rank,
            **({"factors": "b"} if self._fixed else {}),
            "layers": list(self.blocks),
            "parameters": sum(self.dim(block) for block in self.blocks),
            "projections": list(
                dict.fromkeys(f"{p.name}: {p.module}" for b in self.blocks for p in self._projections[b])
            ),
        }

    def _keys(self, block: int, module_name: str) -> tuple[str, str]:
        """Names of one module's A and B in an adapter file."""
        path = f"base_model.model.{self._paths[block]}.{module_name}"
        return f"{path}.lora_A.weight", f"{path}.lora_B.weight"

    def _tensor_shapes(self) -> dict[str, tuple[int, int]]:
        """Shape of every tensor in an adapter file, transposed as PEFT keeps them."""
        shapes: dict[str, tuple[int, int]] = {}
        for block in self.blocks:
            for name, module in self._modules[block].items():
                n_in, n_out = sizes(module)
                width = self.rank * sum(projection.module == name for projection in self._projections[block])
                a_key, b_key = self._keys(block, name)
                shapes[a_key], shapes[b_key] = (width, n_in), (n_out, width)
        return shapes

    def _assemble(
        self, block: int, factors: Mapping[str, tuple[Tensor, Tensor]], module_name: str
    ) -> tuple[Tensor, Tensor]:
        """A [..., n_in, R] and B [..., R, n_out of the whole module] of all terms inside one module."""
        module = self._modules[block][module_name]
        inside = [p for p in self._projections[block] if p.module == module_name]
        if len(inside) == 1 and inside[0].columns is None:
            return factors[inside[0].name]
        a = torch.cat([factors[p.name][0] for p in inside], dim=-1)
        b = torch.cat([self._spread(self._columns[block][p.name], module, factors[p.name][1]) for p in inside], dim=-2)
        return a, b

    def _spread(self, columns: Tensor, module: nn.Module, b: Tensor) -> Tensor:
        whole = b.new_zeros((*b.shape[:-1], sizes(module)[1]))
        first = int(columns[0])
        if torch.equal(columns, torch.arange(first, first + len(columns))):
            whole[..., first : first + len(columns)] = b  # nothing is sent to an accelerator
        else:
            whole[..., columns.to(b.device)] = b
        return whole


class _Entering:
    """``x A`` of modules that one tensor may enter: made once for all of them.

    Args:
        a: A [..., n_in, R] of all of them.
        modules: how many there are.
    """

    def __init__(self, a: Tensor, modules: int) -> None:
        self._a, self._shared = a, modules > 1
        self._cast: dict[torch.dtype, Tensor] = {}
        self._seen: weakref.ref[Tensor] | None = None
        self._product = a

    def times(self, hidden: Tensor, parts: int | None) -> Tensor:
        """``x A``, rows in order [n, R], or in equal parts [parts, n / parts, R]."""
        if self._seen is not None and self._seen() is hidden:
            return self._product
        a = _in_format(self._a, hidden.dtype, self._cast)
        product = hidden.reshape(*(() if parts is None else (parts,)), -1, a.shape[-2]) @ a
        if self._shared and not product.requires_grad:
            self._seen, self._product = weakref.ref(hidden), product
        return product


class _Term:
    """A forward hook that adds ``(x A) B`` in place to a projection's fresh output.

    With B [P, R, n_out] the rows are P equal parts, one for each candidate: two batched products beside the shared one.

    Args:
        entering: makes ``x A``.
        b: B [..., R, n_out].
    """

    def __init__(self, entering: _Entering, b: Tensor) -> None:
        self._entering, self._b = entering, b
        self._cast: dict[torch.dtype, Tensor] = {}

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """The output, with the term in it."""
        hidden = args[0]
        b = _in_format(self._b, output.dtype, self._cast)
        if b.ndim == 2:
            output.view(-1, b.shape[-1]).addmm_(self._entering.times(hidden, None), b)
            return output
        if len(hidden) % len(b):
            raise ModelError(
                f"a {type(module).__name__} that LoRA is put on also maps something that all rows share (shape "
                f"{tuple(hidden.shape)}), so {len(b)} candidates cannot stand side by side: "
                "this architecture is not supported"
            )
        output.view(len(b), -1, b.shape[-1]).baddbmm_(self._entering.times(hidden, len(b)), b)
        return output


def _in_format(factor: Tensor, dtype: torch.dtype, kept: dict[torch.dtype, Tensor]) -> Tensor:
    """A factor in a number format; made once, but where a gradient flows."""
    if factor.requires_grad:
        return factor.to(dtype)
    if dtype not in kept:
        with torch.inference_mode(False):  # kept for later calls, whatever their mode
            kept[dtype] = factor.to(dtype)
    return kept[dtype]


def _aligns(device: torch.device) -> bool:
    """Whether a device multiplies matrices faster whose inner size is a multiple of `ALIGNED`."""
    return device.type == "cuda"


def _grouped(factors: Mapping[str, Tensor]) -> list[list[str]]:
    """Modules that one tensor may enter: those of one parent whose A [..., n_in, R] are few columns together.

    Args:
        factors: A of each module, by the module's path.
    """
    groups: dict[tuple[str, int], list[str]] = {}
    for name, a in factors.items():
        groups.setdefault((name.rpartition(".")[0], a.shape[-2]), []).append(name)
    found: list[list[str]] = []
    for group in groups.values():
        together = sum(factors[name].shape[-1] for name in group) <= SHARED
        found += [group] if together else [[name] for name in group]
    return found


def _aligned(parts: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
    """The same terms with one A [..., n_in, R'] for all modules, where R' is a multiple of `ALIGNED`: columns of A and rows of B are
    zero that are another module's, or nobody's.

    Args:
        parts: A and B of each module.
    """
    columns = sum(a.shape[-1] for a, _ in parts.values())
    rest = -columns % ALIGNED
    whole = functional.pad(torch.cat([a for a, _ in parts.values()], dim=-1), (0, rest))
    found: dict[str, tuple[Tensor, Tensor]] = {}
    first = 0
    for name, (a, b) in parts.items():
        behind = first + a.shape[-1]
        found[name] = whole, functional.pad(b, (0, 0, first, columns + rest - behind))
        first = behind
    return found


@dataclass(frozen=True)
class _Kept:
    """Terms of one block, and the vector that they were made of, as it was then."""

    vector: Tensor
    version: int
    terms: Mapping[nn.Module, _Term]


def _check_targets(backbone: Backbone, blocks: Sequence[int]) -> None:
    """Refuse a module that LoRA is to be put on and that none of the tuned layers has."""
    tuned = {one.asked or one.name for block in blocks for one in backbone.projections(block)}
    for index in range(len(backbone.layers)):
        for projection in backbone.projections(index):
            asked = projection.asked or projection.name
            if asked not in tuned:
                raise ModelError(
                    f"target {asked!r} is in none of the tuned layers {list(blocks)}, but in layer {index}: choose other "
                    "[method] layers, or leave it out of [model] target"
                )


def _drawn(a: Tensor, generator: torch.Generator) -> Tensor:
    """A factor A [n_in, r], filled in place: uniform within ``1 / sqrt(n_in)``."""
    bound = 1 / math.sqrt(len(a))
    return a.uniform_(-bound, bound, generator=generator)


Rank = Annotated[int, Field(ge=1, le=1024)]
Factors = Literal["both", "b"]
WHAT_MOVES = 'what moves: both factors, or with "b" B alone beside an A that is drawn once'


@register
class LoRA(Tunable):
    """LoRA on the projections of some layers."""

    kind: ClassVar[str] = "lora"
    summary: ClassVar[str] = "low-rank terms beside query and key (or the modules that [model] target names)"
    source: ClassVar[str] = "arXiv 2106.09685"
    card: ClassVar[str] = "A LoRA adapter"

    r: Rank = Field(default=2, description="LoRA rank")
    factors: Factors = Field(default="both", description=WHAT_MOVES)
    layers: Layers = LAST_THIRD

    def make(self, given: Given) -> LoRATerms:
        """Both factors zero for samplers in a subspace; A drawn for all others, since nothing moves away from zero but both at once."""
        layers = given.layers(self.layers)
        if self.factors == "b":
            return LoRATerms(given.backbone, self.r, layers, fixed_seed=seed_for(given.seed, 6))
        return LoRATerms(given.backbone, self.r, layers, given.start_seed(), seed=seed_for(given.seed, 6))

    @property
    def even(self) -> bool:
        """With both factors zero, the signs of both cancel."""
        return self.factors == "both"

    def parts(self, target: Target | None) -> int:
        """The moving factors of each projection."""
        maps = 2 if target is None else 1 if isinstance(target, str) else len(target)
        return (2 if self.factors == "both" else 1) * maps

    def matrices(self, parameters: LoRATerms, block: int) -> tuple[tuple[int, int], ...]:
        """The moving factors of each projection."""
        return tuple(parameters.shapes(block))

    def statistics(self, parameters: Any, problem: Any, wanted: Rule) -> tuple[Rule, dict[int, LayerStatistics]]:
        """What enters and leaves the projections of each layer on the training rows."""
        return wanted, problem.layer_statistics(self.searched(parameters))

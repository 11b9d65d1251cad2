"""All weights of a model, tuned along seeded directions: ``W(c) = W0 + sum_s c_s Z_s``, where Z_s is made out of (seed, s)
whenever it is needed (MeZO: Malladi et al., arXiv 2305.17333; with low-rank noise EGGROLL, arXiv 2511.16652).

Unlike every other tunable this one writes into the model. What a search has settled is added to the weights once and for all;
what it tries is put in a module's way while that module runs, and is never taken back out of anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tandemtune.errors import ModelError, RunError
from tandemtune.models.backbone import Backbone
from tandemtune.models.layers import replaced_forward
from tandemtune.models.linear import sizes
from tandemtune.tunables.base import INPUT, Parameters, Point
from tandemtune.tunables.noise import Noise, NoiseKind
from tandemtune.tunables.weights import Owner, Reload, Weight, from_disk, from_memory, owners
from tandemtune.types import Encoded

_Tail = tuple[list[int], Tensor]
"""Directions [S] that are applied while the model runs, and how much of each [P, S]."""


class SeededDirections(Parameters):
    """The weights of all transformer layers and of the norms behind them; embeddings and the head stay.

    A point is one coefficient for each direction. The weights W(c) are a function of c alone, to the bit: coefficients are
    added in order, each once, and a point that does not go on from what is written is reached from the pretrained weights
    anew, at the price of making all its directions again. So a search that opens group after group never goes back, and a
    look at an early point is dear. Extra memory: the largest single weight.

    The model keeps what was written when `applied` ends. ``with applied({}): ...`` makes it pretrained again, which has to be
    done before anybody else uses the backbone.

    Args:
        backbone: the model to tune, in float32, as it was loaded.
        seed: of all directions.
        groups: planned number of groups of directions (generations of a search).
        group: directions in one group.
        noise: "gaussian", or "low-rank" for U V^T / sqrt(rank) on the matrices of linear maps; all else gets full noise.
        rank: r of low-rank noise.
        lazy: groups over which one factor of low-rank noise stays the same (LOZO, arXiv 2410.07698).
        reload: yields (name, pretrained weight); by default they are read from the model's own local folder, and where
            there is none a copy is kept, which doubles the memory that the weights take.

    Raises:
        ModelError: a weight is not held in plain float32.
        ValueError: a number is out of its range.
    """

    blocks = (INPUT,)
    names = ("directions",)
    token_wise = True

    def __init__(
        self,
        backbone: Backbone,
        seed: int,
        groups: int,
        group: int = 1,
        noise: NoiseKind = "gaussian",
        rank: int = 1,
        lazy: int = 1,
        reload: Reload | None = None,
    ) -> None:
        if min(groups, group, rank, lazy) < 1 or seed < 0:
            raise ValueError(
                f"expected groups, group, rank and lazy of at least 1 and a seed of at least 0, got {groups}, {group}, {rank}, {lazy} "
                f"and {seed}"
            )
        self.groups, self.group = groups, group
        self.directions = groups, group
        self._low_rank = noise == "low-rank"
        self._noise = Noise(seed, rank, lazy, group)
        self._backbone = backbone
        self._owners = owners(backbone)
        self.side_by_side = noise == "low-rank" and backbone.side_by_side(owner.module for owner in self._owners)
        self._weights = list({w.index: w for owner in self._owners for w in owner.weights.values()}.values())
        disk = None if reload else from_disk(backbone, self._weights)
        self._reload = reload or disk or from_memory(self._weights)
        self._source = "given" if reload else "disk" if disk else "memory"
        self._written: Tensor | None = torch.zeros(groups * group)  # None: nobody knows
        self._settings = {
            "seed": seed,
            "groups": groups,
            "group": group,
            "noise": noise,
            "rank": rank if self._low_rank else None,
            **({"lazy": lazy} if lazy > 1 else {}),
            "weights": sum(weight.tensor.numel() for weight in self._weights),
        }

    def shapes(self, block: int) -> list[tuple[int, int]]:
        """One matrix [groups, group] of coefficients."""
        return [(self.groups, self.group)]

    def dim(self, block: int) -> int:
        """Planned number of directions."""
        return self.groups * self.group

    def initial(self) -> dict[int, Tensor]:
        """The pretrained model: all coefficients zero."""
        return {INPUT: torch.zeros(self.groups * self.group)}

    def reserve(self, prompt: Encoded) -> Encoded:
        """The prompt as it is."""
        return prompt

    def first_layer(self, blocks: Sequence[int]) -> int:
        """Every layer changes, and nothing below them is worth keeping."""
        return INPUT

    def same_below(self, layer: int, one: Point, other: Point) -> bool:
        """Whether the points are the same, since every layer depends on all coefficients."""
        return torch.equal(one[INPUT], other[INPUT])

    def direction(self, number: int) -> Iterator[tuple[str, Tensor]]:
        """One direction Z_s as it is added to the weights.

        Args:
            number: s, from 0.

        Yields:
            Name of a weight in the model, and its noise, a fresh float32 tensor of the same shape.
        """
        for weight in self._weights:
            yield weight.name, self._noise.whole(weight.tensor.shape, number, weight.index, self._factored(weight))

    @contextmanager
    def applied(self, point: Point) -> Iterator[None]:
        """Make the model behave as `point` says until the context ends; an empty point is the pretrained model.

        Of one setting [dim] all groups but the last are written into the weights; of candidates [P, dim] all groups before the
        first in which they differ. The rest is applied while the model runs.

        Raises:
            ModelError: gradients or several settings at once are wanted where there are none, or a coefficient is NaN or infinite.
            RunError: the pretrained weights could not be read again.
        """
        given = point.get(INPUT, self.initial()[INPUT])
        if given.requires_grad:
            raise ModelError("seeded directions have no gradients: choose an optimizer that needs losses only")
        rows = given.detach().float().cpu().reshape(-1, self.groups * self.group)
        if len(rows) > 1 and not self.side_by_side:
            raise ModelError(
                f"expected one setting at a time, got {len(rows)}: these directions cannot stand side by side"
            )
        if not rows.isfinite().all():
            raise ModelError("a coefficient of the directions is NaN or infinite: lower the learning rate")
        first = self._first_open(rows)
        self._write(torch.cat([rows[0, :first], torch.zeros(rows.shape[1] - first)]))
        directions = [first + int(s) for s in rows[:, first:].any(dim=0).nonzero()]
        tail = directions, rows[:, directions]
        with ExitStack() as stack:
            for owner in self._owners if directions else []:
                if given.ndim == 1 or not self._low_rank:
                    forward = self._changed_forward(owner, tail)
                elif any(weight.matrix for weight in owner.weights.values()):
                    forward = self._side_by_side(owner, tail)
                else:
                    forward = self._in_parts(owner, tail)
                stack.enter_context(replaced_forward(owner.module, forward))
            yield

    def save(self, point: Point, folder: Path, base_model: str) -> None:
        """Write the coefficients (``directions.safetensors`` with ``directions.json``) and, for all other tools, the tuned
        model with its tokenizer, as `transformers` saves it.

        Args:
            point: the coefficients to keep.
            folder: where the files go.
            base_model: name of the base model, for the record.

        Raises:
            RunError: the folder is the one that the base model lies in.
        """
        model: Any = self._backbone.model
        own = str(getattr(model, "name_or_path", ""))
        if own and Path(own).is_dir() and Path(own).resolve() == folder.resolve():
            raise RunError(f"{folder} is the folder of the base model, which would be overwritten: choose another")
        folder.mkdir(parents=True, exist_ok=True)
        vector = point[INPUT].detach().float().cpu()
        used = vector.nonzero().squeeze(1)
        tensors = {"direction": used, "coefficient": vector[used]}
        save_file(tensors, folder / "directions.safetensors", metadata={"format": "pt"})
        content = {"base_model": base_model, **self._settings}
        (folder / "directions.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        self._write(vector)
        model.save_pretrained(folder)
        self._backbone.tokenizer.save_pretrained(folder)

    def load(self, folder: Path) -> dict[int, Tensor]:
        """Read the coefficients back.

        Raises:
            RunError: a file is missing or damaged, or was written for other directions or another model.
        """
        path, told = folder / "directions.safetensors", folder / "directions.json"
        try:
            tensors = load_file(path)
        except Exception as error:  # safetensors raises its own, undocumented types
            raise RunError(f"directions {path} cannot be read: {error}") from error
        try:
            content = json.loads(told.read_bytes())
            found = {key: content[key] for key in self._settings}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"directions {told} cannot be read: {error!r}") from error
        for key, expected in self._settings.items():
            if found[key] != expected:
                raise RunError(
                    f"directions {told}: {key} is {found[key]}, expected {expected}: another model or recipe"
                )
        point = self.initial()
        used, values = tensors.get("direction"), tensors.get("coefficient")
        if used is None or values is None or used.shape != values.shape or not _fit(used, len(point[INPUT])):
            raise RunError(
                f"directions {path}: expected direction and coefficient of one length, each direction between 0 and "
                f"{len(point[INPUT]) - 1}: it was written by something else"
            )
        point[INPUT][used] = values.float()
        return point

    def describe(self) -> dict[str, Any]:
        """Sizes, the number of coefficients ("parameters") and of the weights that they move, and where pretrained weights
        are read again: from "disk", from a copy in "memory", or as "given"."""
        return {
            **self._settings,
            "layers": list(self.blocks),
            "parameters": self.groups * self.group,
            "reload": self._source,
        }

    def _factored(self, weight: Weight) -> bool:
        return self._low_rank and weight.matrix

    def _first_open(self, rows: Tensor) -> int:
        """The first direction that is not to be written: the begin of a group, or the number of all."""
        differ = (rows != rows[0]).any(dim=0).nonzero()
        used = rows[0].nonzero()
        if len(differ):
            return int(differ[0]) // self.group * self.group
        if not len(used) or (self._written is not None and torch.equal(rows[0], self._written)):
            return rows.shape[1]
        return int(used[-1]) // self.group * self.group

    @torch.no_grad()
    def _write(self, wanted: Tensor) -> None:
        """Bring the weights to W(wanted): onwards from what is written where that is its beginning, else from the start."""
        begin = 0 if self._written is None or not self._written.any() else int(self._written.nonzero()[-1]) + 1
        if self._written is None or not torch.equal(self._written[:begin], wanted[:begin]):
            self._restore()
            begin = 0
        missing = [int(s) for s in wanted.nonzero() if s >= begin]
        self._written = None  # a half-written model is nothing to go on from
        for weight in self._weights:
            self._add(weight, weight.tensor, missing, wanted[missing])
        self._written = wanted.clone()

    def _restore(self) -> None:
        self._written = None
        missing = {weight.name: weight.tensor for weight in self._weights}
        for name, tensor in self._reload():
            if name in missing:
                missing.pop(name).copy_(tensor)
        if missing:
            raise RunError(f"the pretrained weights were read again without {', '.join(sorted(missing)[:3])}")

    def _add(self, weight: Weight, target: Tensor, directions: Sequence[int], coefficients: Tensor) -> None:
        for direction, coefficient in zip(directions, coefficients.tolist(), strict=True):
            if coefficient:
                self._noise.add(target, coefficient, direction, weight.index, self._factored(weight))

    @torch.no_grad()
    def _changed(self, owner: Owner, directions: Sequence[int], coefficients: Tensor) -> dict[str, Tensor]:
        """New tensors for one module."""
        result: dict[str, Tensor] = {}
        for name, weight in owner.weights.items():
            result[name] = weight.tensor.detach().clone()
            self._add(weight, result[name], directions, coefficients)
        return result

    def _changed_forward(self, owner: Owner, tail: _Tail) -> Callable[..., Any]:
        """The module's forward with other weights, which are made for each call and then let go."""
        own, (directions, coefficients) = owner.module.forward, tail

        def forward(*args: Any, **kwargs: Any) -> Any:
            with _holding(owner.module, self._changed(owner, directions, coefficients[0])):
                return own(*args, **kwargs)

        return forward

    def _in_parts(self, owner: Owner, tail: _Tail) -> Callable[..., Tensor]:
        """The same for P equal parts of the rows, each with its own weights."""
        own, (directions, coefficients) = owner.module.forward, tail

        def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            outputs: list[Tensor] = []
            _check_parts(owner.module, hidden, len(coefficients))
            for part, row in zip(hidden.chunk(len(coefficients)), coefficients, strict=True):
                with _holding(owner.module, self._changed(owner, directions, row)):
                    outputs.append(own(part, *args, **kwargs))
            return torch.cat(outputs)

        return forward

    def _side_by_side(self, owner: Owner, tail: _Tail) -> Callable[..., Tensor]:
        """A linear map of P equal parts of the rows, with the low-rank terms added to what it returns."""
        own, (directions, coefficients) = owner.module.forward, tail
        n_in, n_out = sizes(owner.module)

        def forward(hidden: Tensor) -> Tensor:
            output: Tensor = own(hidden)
            count, device = len(coefficients), output.device
            _check_parts(owner.module, hidden, count)
            parts, added = hidden.reshape(count, -1, n_in), output.view(count, -1, n_out)
            for weight in owner.weights.values():
                if weight.matrix:
                    a, b = self._factors(owner.module, weight, directions)
                    each = coefficients.repeat_interleave(self._noise.rank, dim=1).unsqueeze(1).to(device)
                    added += (parts @ a.to(device) * each) @ b.to(device)
                else:
                    for direction, column in zip(directions, coefficients.T, strict=True):
                        noise = self._noise.whole((n_out,), direction, weight.index, False)
                        added += (column.view(-1, 1, 1) * noise).to(device)
            return output

        return forward

    def _factors(self, module: nn.Module, weight: Weight, directions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """A [n_in, S r] and B [S r, n_out] of the map ``x A B`` that S directions add to a linear map."""
        pairs = [self._noise.factors(weight.tensor.shape, direction, weight.index) for direction in directions]
        u, v = (torch.cat(factors, dim=1) for factors in zip(*pairs, strict=True))
        return (v, u.T) if isinstance(module, nn.Linear) else (u, v.T)


@contextmanager
def _holding(module: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Let a module have other weights until the context ends."""
    kept = {name: getattr(module, name) for name in tensors}
    try:
        for name, tensor in tensors.items():
            setattr(module, name, nn.Parameter(tensor, requires_grad=False))
        yield
    finally:
        for name, own in kept.items():
            setattr(module, name, own)


def _check_parts(module: nn.Module, hidden: Tensor, count: int) -> None:
    if len(hidden) % count:
        raise ModelError(
            f"a {type(module).__name__} also maps something that all rows share (shape {tuple(hidden.shape)}), so {count} "
            "candidates cannot stand side by side: this architecture is not supported"
        )


def _fit(numbers: Tensor, count: int) -> bool:
    """Whether these are indices of that many things."""
    whole = not numbers.is_floating_point() and numbers.ndim == 1
    return whole and bool(((numbers >= 0) & (numbers < count)).all())

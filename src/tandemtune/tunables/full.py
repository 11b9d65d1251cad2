"""All weights of a model: what the others are measured against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tandemtune.errors import ModelError
from tandemtune.models.backbone import Backbone
from tandemtune.optimizers.base import Optimizer, Uses
from tandemtune.plugins import register
from tandemtune.tunables import storage
from tandemtune.tunables.base import INPUT, Given, Parameters, Point, Tunable
from tandemtune.tunables.seeded import SeededDirections
from tandemtune.tunables.vocabulary import Vocabulary
from tandemtune.types import Encoded, seed_for

MOST_GENERATIONS = 20_000
"""Generations of a search among all weights: its points have a number for each direction."""


class Full(Parameters):
    """The values of all weights in one block, `INPUT`, since the embeddings change with everything else.

    The vector holds every parameter once, in the model's own order; one that several modules share (an input and an output
    embedding) is changed in all of them. The model's own parameters are put aside while a point is applied and never written to.

    Args:
        backbone: the model to tune.

    Raises:
        ModelError: the model keeps weights that are no plain floating-point numbers.
    """

    names = ("weights",)
    blocks = (INPUT,)
    side_by_side = False
    token_wise = True

    def __init__(self, backbone: Backbone) -> None:
        self._model: Any = backbone.model
        self._tokenizer = backbone.tokenizer
        self._layers = len(backbone.layers)
        self._parameters: dict[str, nn.Parameter] = dict(backbone.model.named_parameters())
        for name, parameter in self._parameters.items():
            if not parameter.is_floating_point() or type(parameter.data) is not Tensor:
                raise ModelError(
                    f"{name} of {backbone.name} is kept as {parameter.dtype} ({type(parameter.data).__name__}): full tuning "
                    "needs float weights; leave [model] quantize out"
                )
        place = {id(parameter): index for index, parameter in enumerate(self._parameters.values())}
        self._holders = [
            (module, name, place[id(parameter)])
            for module in backbone.model.modules()
            for name, parameter in module._parameters.items()
            if parameter is not None
        ]
        self._counts = [parameter.numel() for parameter in self._parameters.values()]

    def shapes(self, block: int) -> list[tuple[int, int]]:
        """One matrix for each parameter; a vector is a row."""
        return [
            (parameter.numel() // parameter.shape[-1], parameter.shape[-1]) if parameter.ndim else (1, 1)
            for parameter in self._parameters.values()
        ]

    def dim(self, block: int) -> int:
        """Number of weights."""
        return sum(self._counts)

    def initial(self) -> dict[int, Tensor]:
        """The pretrained weights."""
        values = [parameter.detach().float().cpu().reshape(-1) for parameter in self._parameters.values()]
        return {INPUT: torch.cat(values)}

    def reserve(self, prompt: Encoded) -> Encoded:
        """The prompt as it is."""
        return prompt

    def first_layer(self, blocks: Sequence[int]) -> int:
        """`INPUT`: the input embeddings change."""
        return min(blocks)

    def same_below(self, layer: int, one: Point, other: Point) -> bool:
        """Hidden states entering any layer depend on the weights as a whole."""
        return torch.equal(one[INPUT], other[INPUT])

    @contextmanager
    def applied(self, point: Point) -> Iterator[None]:
        """Put the values of `point` in the place of the model's parameters, until the context ends.

        Raises:
            ModelError: more than one candidate at once.
        """
        if INPUT not in point:
            yield
            return
        values = self._values(point[INPUT])
        kept = [module._parameters[name] for module, name, _ in self._holders]
        try:
            for module, name, index in self._holders:
                module._parameters[name] = values[index]  # type: ignore[assignment]
            yield
        finally:
            for (module, name, _), parameter in zip(self._holders, kept, strict=True):
                module._parameters[name] = parameter

    def save(self, point: Point, folder: Path, base_model: str) -> None:
        """Write an ordinary model folder with its tokenizer, in the number formats that the model has here.

        Args:
            point: the weights to keep.
            folder: where the files go.
            base_model: not needed, the folder stands for itself.
        """
        own = {
            id(parameter): value.detach().clone()
            for parameter, value in zip(self._parameters.values(), self._values(point[INPUT]), strict=True)
        }
        state = {name: own.get(id(value), value) for name, value in self._model.state_dict(keep_vars=True).items()}
        folder.mkdir(parents=True, exist_ok=True)
        with _no_progress_bar():
            self._model.save_pretrained(folder, state_dict=state, save_original_format=False, max_shard_size=2**62)
        self._tokenizer.save_pretrained(folder)

    def load(self, folder: Path) -> dict[int, Tensor]:
        """Read the weights back; of a shared parameter one name is enough.

        Raises:
            RunError: the file is missing, damaged or of another model.
        """
        path = folder / "model.safetensors"
        tensors = storage.read(path, "model")
        called: dict[int, str] = {}
        others: set[str] = set()
        owned = {id(parameter) for parameter in self._parameters.values()}
        for name, value in self._model.state_dict(keep_vars=True).items():
            if id(value) not in owned:
                others.add(name)
            elif id(value) not in called or (name in tensors and called[id(value)] not in tensors):
                called[id(value)] = name
        names = [called[id(parameter)] for parameter in self._parameters.values()]
        expected = {name: tuple(value.shape) for name, value in zip(names, self._parameters.values(), strict=True)}
        storage.check({name: tensors[name] for name in tensors.keys() - others}, expected, path, "model")
        return {INPUT: torch.cat([tensors[name].float().reshape(-1) for name in names])}

    def describe(self) -> dict[str, Any]:
        """That all layers change, and number of parameters."""
        return {"layers": list(range(self._layers)), "parameters": self.dim(INPUT)}

    def _values(self, given: Tensor) -> list[Tensor]:
        """A vector [dim] or [1, dim] cut into what stands for each parameter, in its number format and place."""
        if given.ndim == 2 and len(given) > 1:
            raise ModelError(f"{len(given)} candidates cannot stand side by side where all weights are tuned")
        pieces = torch.split(given.reshape(-1), self._counts)
        return [
            piece.view(parameter.shape).to(parameter.device, parameter.dtype)
            for piece, parameter in zip(pieces, self._parameters.values(), strict=True)
        ]


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keep `transformers` from drawing over what a run shows."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@register
class FullWeights(Tunable):
    """All weights: trained, or searched as coefficients of seeded directions in the memory of inference."""

    kind: ClassVar[str] = "full"
    summary: ClassVar[str] = "all weights"
    source: ClassVar[str] = "arXiv 1810.04805; arXiv 2305.17333 without gradients"
    card: ClassVar[str] = "All weights"
    searched_by: ClassVar[frozenset[Uses]] = frozenset({"estimator", "gradient"})
    all_weights: ClassVar[bool] = True

    def make(self, given: Given) -> Parameters:
        """The weights themselves for gradients, coefficients of seeded directions for a search."""
        if not given.optimizer.searches:
            return Full(given.backbone)
        rank = getattr(given.optimizer, "noise_rank", None)
        return SeededDirections(
            given.backbone,
            seed_for(given.seed, 11),
            min(MOST_GENERATIONS, given.generations),
            given.optimizer.candidates // 2,
            "gaussian" if rank is None else "low-rank",
            rank or 1,
            getattr(given.optimizer, "lazy", 1),
        )

    def lr(self, optimizer: Optimizer, vocabulary: Vocabulary) -> float:
        """The optimizer's for all weights."""
        return optimizer.lr_weights

    def how_to_load(self, folder: Path) -> str:
        """An ordinary model folder."""
        return "Load it with `transformers`, as any model: the folder holds weights and tokenizer."

    def problems(self, recipe: Any) -> Iterator[str]:
        """Steps that 16 bits round away, more of them than a search can have."""
        yield from super().problems(recipe)
        method, run = recipe.method, recipe.run
        optimizer = method.optimizer
        count = max(1, optimizer.candidates)
        wanted = min(method.budget // count, method.steps or method.budget)
        ends = (run.max_forward_tokens, run.max_seconds)  # otherwise the budget is what ends it
        if optimizer.searches and wanted > MOST_GENERATIONS and not any(ends):
            yield (
                f"[method] budget: {wanted:,} generations of {count} candidates, and a search among all weights has {MOST_GENERATIONS:,} at most: set "
                f"budget to {MOST_GENERATIONS * count:,} or less"
            )
        if optimizer.searches and recipe.model.dtype not in ("auto", "float32"):
            yield (
                f"[model] dtype: {recipe.model.dtype} rounds away the small steps of {optimizer.kind} on full weights: "
                "choose float32"
            )

    def hand_over_problems(self, recipes: Sequence[Any]) -> Iterator[str]:
        """A search holds coefficients of directions that are its own."""
        if any(recipe.method.optimizer.searches for recipe in recipes):
            yield (
                f"[method] then: a search among all weights keeps steps along directions of its own, which no other optimizer goes on from: "
                f"let gradients follow gradients, or set tunable to lora in place of {self.kind}"
            )

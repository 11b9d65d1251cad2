"""Measures what enters and leaves each layer's projections on the training batch, with the pretrained weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from tandemtune.evaluators.batch import Batch
from tandemtune.evaluators.engine import Engine
from tandemtune.models.backbone import Backbone
from tandemtune.models.layers import hooked
from tandemtune.subspace import LayerStatistics
from tandemtune.tunables.base import Point

CLIP_ROUNDS, CLIP_WIDTH = 5, 3.0


def measure(
    engine: Engine, backbone: Backbone, batch: Batch, point: Point, blocks: Sequence[int]
) -> dict[int, LayerStatistics]:
    """Statistics of some layers.

    Args:
        engine: gives the hidden states that enter a layer.
        backbone: the model, for its projections.
        batch: the training prompts; they hold no padding.
        point: the point to measure at, usually the pretrained model.
        blocks: the layers.

    Returns:
        Block -> statistics.
    """
    return {block: _layer(engine, backbone, batch, point, block) for block in blocks}


def clipped_sd(values: Tensor) -> float:
    """Standard deviation after 5 rounds of clipping to mean +- 3 standard deviations (arXiv 2403.01754)."""
    values = values.float().flatten()
    for _ in range(CLIP_ROUNDS):
        mean, sd = values.mean(), values.std()
        values = values.clamp(mean - CLIP_WIDTH * sd, mean + CLIP_WIDTH * sd)
    return float(values.std())


def _layer(engine: Engine, backbone: Backbone, batch: Batch, point: Point, block: int) -> LayerStatistics:
    layer, projections = backbone.layers[block], backbone.projections(block)
    inputs: dict[str, list[Tensor]] = {p.name: [] for p in projections}
    outputs: dict[str, list[Tensor]] = {p.name: [] for p in projections}

    def watch(name: str, chosen: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            inputs[name].append(args[0].float().square().mean(dim=-1).flatten())
            outputs[name].append(output[..., chosen].float().flatten())

        return hook

    states = engine.states(batch, point, block)
    with ExitStack() as stack:
        stack.enter_context(engine.tunable.applied(point))
        for projection in projections:
            module = layer.get_submodule(projection.module)
            chosen = projection.outputs(module)
            stack.enter_context(hooked(module.register_forward_hook(watch(projection.name, chosen))))
        for group, hidden in zip(batch.groups, states, strict=True):
            engine.run_layer(group, block, hidden)
    return LayerStatistics(
        hidden_sd=clipped_sd(torch.cat([s.flatten() for s in states])),
        x_rms={name: float(torch.cat(pieces).mean().sqrt()) for name, pieces in inputs.items()},
        y_sd={name: float(torch.cat(pieces).std()) for name, pieces in outputs.items()},
    )

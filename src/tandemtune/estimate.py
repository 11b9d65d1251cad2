"""What a run will cost at most, told before it: tokens from the recipe and the rows, memory from the model's files.

Nothing is loaded, so nothing is said of minutes: a run tells them when it has begun, from what its first candidates take.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from tandemtune import wiring
from tandemtune.config import RunConfig
from tandemtune.system import peak_rss_mb
from tandemtune.types import Example

BYTES: dict[str, tuple[float, float]] = {
    "auto": (2, 4),
    "float32": (4, 4),
    "mixed": (2, 2),
    "bfloat16": (2, 2),
    "float16": (2, 2),
}
"""Bytes of a weight, at least and at most, by number format."""
SAMPLE = 500
"""Rows whose tokens are counted; of more, the first ones stand for the others."""


@dataclass(frozen=True)
class Estimate:
    """What a run will cost at most.

    Args:
        forward: tokens through the whole model in the search; None where nothing but time ends it.
        backward: the same backwards.
        scored: tokens of the scores before and after it.
        weights: megabytes that the model takes, from and to; None where nothing is known of its size.
        activations: megabytes for the activations of scored candidates at most.
        programs: megabytes that Python and its packages take.
        proposed: somebody proposes, and scoring that comes on top.
    """

    forward: float | None
    backward: float
    scored: float
    weights: tuple[float, float] | None
    activations: float
    programs: float
    proposed: bool = False

    def lines(self) -> list[str]:
        """The estimate as lines of text."""
        if self.forward is None:
            work = "tokens: as many as the time allows"
        elif self.forward:
            back = f" and {_rough(self.backward)} backwards" if self.backward else ""
            work = f"tokens: at most about {_rough(self.forward)} forwards{back} in the search"
            work += ", what is proposed aside" if self.proposed else ""
        else:
            work = "tokens: nothing is searched"
        lines = [f"{work}; about {_rough(self.scored)} for the scores before and after"]
        if self.weights is not None:
            low, high = (sum((size, self.activations, self.programs)) for size in self.weights)
            sizes = " to ".join(dict.fromkeys(_rough(size) for size in self.weights))
            total = " to ".join(dict.fromkeys((_rough(low), _rough(high))))
            lines.append(
                f"memory: about {total} MB (weights {sizes}, activations at most {_rough(self.activations)}, "
                f"Python and its packages {_rough(self.programs)})" + (", gradients aside" if self.backward else "")
            )
        return lines


def estimate(
    config: RunConfig, rows: dict[str, Sequence[Example]], count: Callable[[Example], int], place: str
) -> Estimate:
    """What a run will cost at most.

    Args:
        config: the recipe.
        rows: that it uses, by part ("train", "dev", "test").
        count: tokens of a row's prompt as the model will see it.
        place: where the model lies; of a hub id nothing is known but its tokens.
    """
    tokens = {name: _tokens(part, count) for name, part in rows.items()}
    forward, backward = _searched(config, tokens, len(rows["train"]))
    scored = 2 * sum(tokens.values())
    whole = _size(Path(place))
    low, high = (1.0, 4.0) if config.model.quantize else BYTES[config.model.dtype]
    activations = config.run.max_memory or wiring.default_memory(wiring.find_device(config.model.device))
    weights = (whole * low / 1e6, whole * high / 1e6) if whole else None
    return Estimate(forward, backward, scored, weights, activations, peak_rss_mb(), config.alternates)


def _searched(config: RunConfig, tokens: dict[str, float], rows: int) -> tuple[float | None, float]:
    """Tokens of a search at most, forwards and backwards."""
    method, planned = config.method, wiring.planned(config)
    if method.optimizer.uses == "none" and not config.alternates:
        return 0.0, 0.0
    limit = config.run.max_forward_tokens
    if not planned.total:
        return limit, 0.0
    turns = planned.total / (method.turn_candidates if planned.unit == "candidates" else 1)
    backward = 0.0
    if config.follows_gradient:
        options: Any = method.optimizer
        seen = min(rows, options.batch_size * options.accumulate)
        each = backward = tokens["train"] * seen / rows
    else:
        seen = min(rows, method.subsample or rows, config.task.scored_rows or rows)
        each = method.turn_candidates * tokens["train"] * seen / rows
    forward = turns * (each + tokens["dev"] / method.dev_every)
    share = 1.0 if limit is None else min(1.0, limit / forward)
    return share * forward, share * turns * backward


def _tokens(rows: Sequence[Example], count: Callable[[Example], int]) -> float:
    some = rows[:SAMPLE]
    return sum(map(count, some)) * len(rows) / len(some) if some else 0.0


def _size(place: Path) -> int:
    """How many weights a model has; 0 where they do not lie in safetensors, or cannot be read, which a run will say."""
    whole = 0
    for file in sorted(place.glob("*.safetensors")) if place.is_dir() else ():
        try:
            with safe_open(file, framework="pt") as weights:
                whole += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
        except Exception:  # safetensors raises its own, undocumented types
            return 0
    return whole


def _rough(value: float) -> str:
    """A number with two digits."""
    if value >= 1e6:
        return f"{value / 1e6:,.1f} M" if value < 1e7 else f"{value / 1e6:,.0f} M"
    if value >= 1000:
        return f"{round(value, -2):,.0f}"
    return f"{value:.2g}" if value < 100 else f"{round(value, -1):.0f}"

"""What a run will cost at most, told before it: tokens from the recipe and the rows, memory from the model's files, minutes
from what products of its matrices take here and now. Nothing is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import tandemtune.assets as assets
from tandemtune import devices, wiring
from tandemtune.assets.entries import Asset
from tandemtune.config import RunConfig
from tandemtune.errors import DataError
from tandemtune.evaluators.engine import CHUNKS, WORTH_SHARING
from tandemtune.models import quantized
from tandemtune.models.pace import Matrices, seconds_for_token
from tandemtune.system import default_threads, peak_rss_mb
from tandemtune.tunables.base import parse_layers
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
FORMATS: dict[str, tuple[torch.dtype, ...]] = {
    "auto": (torch.bfloat16, torch.float32),
    "float32": (torch.float32,),
    "mixed": (torch.bfloat16,),
    "bfloat16": (torch.bfloat16,),
    "float16": (torch.float16,),
}
"""Number formats that products may be taken in, the one that a run hopes for first."""
PROPOSED = ("flan-t5-small", "smollm2-135m-instruct", "splade-tiny")
"""Models for a first try, the better one first: on most tasks the larger ones that need no hub do no better with a readout
(docs/experiments/readouts.md), and each of their tokens takes several times as long. The second is for answers that the first one's
tokenizer does not know (braces, most scripts): its own knows all."""
ANSWERED = 2.0
"""Tokens that a decoder of its own reads of an answer."""
SPREAD = (1.0, 3.0)
"""What runs took at least and at most, as a multiple of the products alone (`benchmarks/minutes.py`)."""


Count = Callable[[Example], float]
"""Tokens of a row."""


@dataclass(frozen=True)
class RowCosts:
    """What rows cost.

    Args:
        whole: tokens that are read to say how likely a row's answers are, each behind the whole prompt.
        own: of these, what is no other's: without what all prompts begin with, and the prompt once for all of its answers.
        shared: tokens that all prompts begin with.
        prompt: tokens of the prompt that a text is written behind.
        room: tokens that are written at most; 0 where nothing is.
        judged: candidates are scored by what they write.
    """

    whole: Count
    own: Count
    shared: int = 0
    prompt: Count = lambda row: 0
    room: int = 0
    judged: bool = False

    def searched(self, rows: Sequence[Example], *, apart: bool) -> float:
        """Tokens of a pass that scores a candidate; `apart` where prompts share nothing, as for gradients."""
        if self.judged:
            return self._written(rows)
        return _counted(rows, self.whole) if apart else self._read(rows)

    def measured(self, rows: Sequence[Example]) -> float:
        """Tokens of passes that measure a point."""
        return (self._written(rows) if self.room else 0.0) + (0.0 if self.judged else self._read(rows))

    def _written(self, rows: Sequence[Example]) -> float:
        return _counted(rows, self.prompt) + len(rows) * self.room

    def _read(self, rows: Sequence[Example]) -> float:
        """Tokens of all rows; what is shared stands once in each row of tokens, where that saves enough to be done."""
        whole, own = _counted(rows, self.whole), _counted(rows, self.own)
        least = own + self.shared * max(1, math.ceil(own / max(1, max(CHUNKS) - self.shared)))
        return least if least <= (1 - WORTH_SHARING) * whole else whole


@dataclass(frozen=True)
class Estimate:
    """What a run will cost at most.

    Args:
        forward: tokens through the whole model in the search; None where nothing but time ends it.
        backward: the same backwards.
        scored: tokens of the scores before and after it.
        ranked: tokens of the passes that choose a template, in float32.
        weights: megabytes that the model takes, from and to; None where nothing is known of its size.
        activations: megabytes for the activations of scored candidates at most.
        programs: megabytes that Python and its packages take.
        free: megabytes that are free where the model will lie; None where nobody says.
        seconds: of all this computing, from and to, loading aside; None where the model's files do not tell its matrices.
        ends: seconds after which the recipe ends the search.
        generated: tokens that are written at most, in the search and by the scores before and after it; None where that is not
            known.
    """

    forward: float | None
    backward: float
    scored: float
    ranked: float
    weights: tuple[float, float] | None
    activations: float
    programs: float
    free: float | None
    seconds: tuple[float, float] | None = None
    ends: float | None = None
    generated: tuple[float | None, float] = (0.0, 0.0)

    def lines(self) -> list[str]:
        """The estimate as lines of text."""
        return [self._tokens(), *self._written(), *self._time(), *self._memory()]

    def notes(self) -> list[str]:
        """What speaks against running it here."""
        least = 0.0 if self.weights is None else self.weights[0] + self.activations
        if self.free is None or least <= self.free:
            return []
        return [
            f"the run takes {_rough(least)} MB or more beside Python, and {_rough(self.free)} MB are free: close other programs, or "
            "take a smaller model"
        ]

    def _tokens(self) -> str:
        if self.forward is None:
            work = "tokens: as many as the time allows"
        elif self.forward:
            back = f" and {_rough(self.backward)} backwards" if self.backward else ""
            work = f"tokens: at most about {_rough(self.forward)} forwards{back} in the search"
        else:
            work = "tokens: nothing is searched"
        templates = f", {_rough(self.ranked)} to choose a template" if self.ranked else ""
        return f"{work}; about {_rough(self.scored)} for the scores before and after{templates}"

    def _written(self) -> list[str]:
        if not any(self.generated):
            return []
        searched, scored = self.generated
        said = "as many as the time allows" if searched is None else f"at most about {_rough(searched)}"
        place = "in the search" if self.forward != 0 else "to look at train and dev first"
        return [f"written, among these: {said} {place}; about {_rough(scored)} for the scores at most"]

    def _time(self) -> list[str]:
        if self.seconds is None:
            return []
        span = " to ".join(dict.fromkeys(map(_span, self.seconds)))
        until = f"; the search ends after {_span(self.ends)}" if self.ends is not None else ""
        return [
            f"time: about {span} of computing on this machine, as busy as it is now (from its layers' products, timed just now); "
            f"loading comes on top{until}"
        ]

    def _memory(self) -> list[str]:
        if self.weights is None:
            return []
        low, high = (sum((size, self.activations, self.programs)) for size in self.weights)
        sizes = " to ".join(dict.fromkeys(_rough(size) for size in self.weights))
        total = " to ".join(dict.fromkeys((_rough(low), _rough(high))))
        free = f"; {_rough(self.free)} MB are free" if self.free is not None else ""
        most = devices.BACKWARD * self.weights[1] + self.activations + self.programs
        gradients = f", with gradients up to about {_rough(most)}" if self.backward else ""
        return [
            f"memory: about {total} MB (weights {sizes}, activations at most {_rough(self.activations)}, "
            f"Python and its packages {_rough(self.programs)}){gradients}{free}"
        ]


def estimate(
    config: RunConfig,
    rows: dict[str, Sequence[Example]],
    costs: Sequence[RowCosts],
    model: Matrices,
    templates: int = 1,
    judged: int = 0,
) -> Estimate:
    """What a run will cost at most.

    Args:
        config: the recipe.
        rows: that it uses, by part ("train", "dev", "test").
        costs: what a row costs as the model will see it, in each of the recipe's stretches.
        model: what its files tell of it.
        templates: how many there are to choose from.
        judged: labelled rows that they are judged by, at most.
    """
    several = config.stretches
    measured = [{name: one.measured(part) for name, part in rows.items()} for one in costs]
    tokens, labelled = measured[-1], len(rows["train"]) + len(rows["dev"])
    each = [
        _searched(
            one,
            {**seen, "scored": cost.searched(rows["train"], apart=one.follows_gradient)},
            len(rows["train"]),
            model,
            writes=cost.room > 0,
        )
        for one, seen, cost in zip(several, measured, costs, strict=True)
    ]
    again = [seen for seen, cost in zip(measured[1:], costs[1:], strict=True) if not cost.room]  # else it counts anyway
    handed = float(sum(seen["train"] + seen["dev"] for seen in again))
    forward, backward = _sum([found for found, _ in each], handed), sum(back for _, back in each)
    written = _sum([_written(one, rows, cost) for one, cost in zip(several, costs, strict=True)])
    scored = 2 * sum(tokens.values()) * min(config.task.most_together, templates)
    ranked = templates * (tokens["train"] + tokens["dev"]) * min(1.0, judged / labelled) if templates > 1 else 0.0
    low, high = BYTES[config.model.dtype]
    if config.model.quantize:
        low, high = quantized.FORMATS[config.model.quantize].bytes, 4.0
    device = devices.find_device(config.model.device)
    return Estimate(
        forward,
        backward,
        scored,
        ranked,
        weights=(_megabytes(model, low), _megabytes(model, high)) if model.weights else None,
        activations=config.run.max_memory or devices.default_memory(device),
        programs=peak_rss_mb(),
        free=devices.free_memory(device),
        seconds=_seconds(config, model, device, (forward or 0.0) + 2 * backward + scored, ranked),
        ends=config.run.max_seconds,
        generated=(written, 2.0 * sum(map(len, rows.values())) * costs[-1].room),
    )


def _sum(each: Sequence[float | None], more: float = 0.0) -> float | None:
    """A sum; None where a part of it is not known."""
    known = [value for value in each if value is not None]
    return sum(known) + more if len(known) == len(each) else None


def _megabytes(model: Matrices, each: float) -> float:
    """Of a model's weights, with so many bytes of each that does not come quantized."""
    return (model.weights * each + model.packed) / 1e6


def _written(config: RunConfig, rows: dict[str, Sequence[Example]], costs: RowCosts) -> float | None:
    """Tokens that a search writes at most; None where nothing but time ends it."""
    method, limit, turns = config.method, config.run.max_generated_tokens, _turns(config)
    if not costs.room:
        return 0.0
    if turns is None:
        return limit
    further, train, dev = _beside_turns(config, writes=True)
    every = min(len(rows["train"]), config.task.scored_rows or len(rows["train"]))
    seen = min(every, method.subsample or every)
    again = method.elites + 1 if method.elites else 0  # these on all rows
    each = (method.turn_candidates - again) * seen + again * every
    judged = (turns + further) * each if costs.judged and not config.follows_gradient else 0
    measured = train * every + (dev + math.ceil(turns / method.dev_every)) * len(rows["dev"])
    sampled = method.objective.kl_rows if method.objective.kl_penalty else 0
    found = (judged + measured + sampled) * costs.room
    return found if limit is None else min(found, limit)


def _turns(config: RunConfig) -> float | None:
    """Turns of an optimizer at most; None where nothing but time ends them."""
    method, planned = config.method, wiring.planned(config)
    if (method.optimizer.uses == "none" and not config.alternates) or (config.alternates and not config.turns):
        return 0.0
    return planned.total / (method.turn_candidates if planned.unit == "candidates" else 1) or None


def _beside_turns(config: RunConfig, *, writes: bool) -> tuple[int, int, int]:
    """What a search does at most beside its own turns and the looks at dev between them: turns of a race's further entrants, and points
    that are measured on the training rows and on the dev rows.

    Args:
        config: the recipe.
        writes: texts are written, so that the first look counts, too.
    """
    section, tunable, rounds = config.alternate, config.method.tunable, config.alternate.rounds
    reads = (1 if tunable.words_only else 2) if rounds and tunable.takes_words else 0
    train, dev = (1 + reads, 1) if writes else (0, 0)
    if not rounds or not section.proposer.proposes:
        return 0, train, dev
    legs = config.race_legs
    drafts = sum(legs) if legs else section.proposals * tunable.takes_words
    shown = min(section.snapshots, section.round_steps) * reads + section.snapshots * tunable.words_only
    looked = bool(section.proposer.asks_mentor and (config.mentor.show_rows or not writes))
    raced = (sum(legs) - len(legs)) * section.race_steps
    return rounds * raced, train + rounds * (drafts + shown + looked), dev + rounds * (drafts + 1)


def _seconds(
    config: RunConfig, model: Matrices, device: str, tokens: float, in_float32: float
) -> tuple[float, float] | None:
    """Seconds that a run computes, from and to; a step backwards counts as two forwards."""
    if config.model.quantize or model.packed or not model.layers:
        return None
    before = torch.get_num_threads()
    torch.set_num_threads(config.model.threads or default_threads())
    try:
        formats = dict.fromkeys((*FORMATS[config.model.dtype], *((torch.float32,) if in_float32 else ())))
        paces = {dtype: seconds_for_token(model, dtype, device) for dtype in formats}
    finally:
        torch.set_num_threads(before)
    known = {dtype: pace for dtype, pace in paces.items() if pace is not None}
    found = [known[dtype] for dtype in FORMATS[config.model.dtype] if dtype in known]
    if not found or (in_float32 and torch.float32 not in known):
        return None
    ranked = in_float32 * known.get(torch.float32, 0.0)
    return SPREAD[0] * (ranked + tokens * min(found)), SPREAD[1] * (ranked + tokens * max(found))


@dataclass(frozen=True)
class ProposedModel:
    """A model to begin with.

    Args:
        name: its ``pypi:`` key.
        why: the reason, and what does not fit, one sentence each.
    """

    name: str
    why: tuple[str, ...]


def proposed_model(*, writes: bool = False, unfit: Callable[[str], str] | None = None) -> ProposedModel:
    """The best of the models that need no model hub, among those that fit the memory that is free now; else the smallest.

    Args:
        writes: it has to write texts, which a masked model cannot.
        unfit: says why a model cannot be used, asked of none before its turn comes; "" where it can.

    Raises:
        DataError: none of them can be used.
    """
    models = [assets.lookup(key) for key in PROPOSED]
    models = [asset for asset in models if not (writes and "MaskedLM" in asset.architecture)]
    passed: list[str] = []
    while models:
        found = _that_fits(models)
        reason = unfit(found.name) if unfit else ""
        if not reason:
            return ProposedModel(found.name, (*passed, *found.why))
        passed.append(f"model: {found.name} is passed over: {reason}")
        models = [asset for asset in models if assets.PREFIX + asset.key != found.name]
    raise DataError(f"{'; '.join(passed)}: name one with --model")


def _that_fits(models: Sequence[Asset]) -> ProposedModel:
    """The first of some models that fits the free memory; else the smallest."""
    device = devices.find_device("auto")
    free, activations = devices.free_memory(device), devices.default_memory(device)
    needed = {
        asset: asset.millions * BYTES["float32"][1] + (activations if device != "cuda" else 0.0) for asset in models
    }
    chosen = next((asset for asset in models if free is None or needed[asset] <= free), None)
    best, smallest = models[0], min(models, key=needed.__getitem__)
    there = "" if free is None else f", and {_rough(free)} MB are free"
    if chosen is None:
        return ProposedModel(
            assets.PREFIX + smallest.key,
            (
                f"model: no known model fits: the smallest, {assets.PREFIX}{smallest.key}, takes about "
                f"{_rough(needed[smallest])} MB beside Python{there}: close other programs before you run it",
            ),
        )
    why = f"model: {assets.PREFIX}{chosen.key}, {chosen.millions:g} million weights: about {_rough(needed[chosen])} MB beside Python{there}"
    if chosen is not best:
        why += f"; {assets.PREFIX}{best.key}, which is better, would take {_rough(needed[best])}"
    return ProposedModel(assets.PREFIX + chosen.key, (why,))


def _searched(
    config: RunConfig, tokens: dict[str, float], rows: int, model: Matrices, *, writes: bool
) -> tuple[float | None, float]:
    """Tokens of a search at most, forwards and backwards."""
    method, turns, limit = config.method, _turns(config), config.run.max_forward_tokens
    if method.optimizer.uses == "none" and not config.alternates:
        return 0.0, 0.0
    if turns is None:
        return limit, 0.0
    further, train, dev = _beside_turns(config, writes=writes)
    turned = turns + further
    backward = 0.0
    if config.follows_gradient:
        options: Any = method.optimizer
        seen = min(rows, options.batch_size)  # a turn is one batch, whatever a step takes
        each = backward = tokens["scored"] * seen / rows
    else:
        every = min(rows, config.task.scored_rows or rows)
        seen = min(every, method.subsample or every)
        again = method.elites + 1 if method.elites else 0  # these on all rows
        share = _share(config, model, tokens["scored"] / rows)
        below = 1.0 if share < 1 else 0.0  # what all candidates share is computed once
        near = (
            method.objective.kl_rows if method.objective.kl_penalty and not writes else 0
        )  # rows that candidates are held near to
        passes = (method.turn_candidates - again) * (seen + near) + again * (every + near)
        each = (passes * share + below * (seen + near)) * tokens["scored"] / rows
    looks = dev + math.ceil(turns / method.dev_every)
    looked = tokens["dev"] + (tokens["train"] if method.judge == "readout" else 0.0)
    forward = turned * each + train * tokens["train"] + looks * looked
    share = 1.0 if limit is None or not forward else min(1.0, limit / forward)
    return share * forward, share * turned * backward


def _share(config: RunConfig, model: Matrices, length: float) -> float:
    """The share of the model that a candidate passes through: from the layer on in which it differs from others.

    Args:
        config: the recipe.
        model: what its files tell of it.
        length: tokens of a row.
    """
    wanted = getattr(config.method.tunable, "layers", None)
    if wanted is None or not model.reading:
        return 1.0
    try:
        blocks = parse_layers(wanted, model.reading + model.answering)
    except ValueError:  # more layers than there are, which the run will say
        return 1.0
    answer = min(1.0, ANSWERED / length) if length else 1.0
    shares = [max(1 - block / model.reading, answer if model.answering else 0.0) for block in blocks]
    return max(shares) if config.method.order == "together" else sum(shares) / len(shares)


def _counted(rows: Sequence[Example], count: Count) -> float:
    some = rows[:SAMPLE]
    return sum(map(count, some)) * len(rows) / len(some) if some else 0.0


def _rough(value: float) -> str:
    """A number with two digits."""
    if value >= 1e6:
        return f"{value / 1e6:,.1f} M" if value < 1e7 else f"{value / 1e6:,.0f} M"
    if value >= 1000:
        return f"{round(value, -2):,.0f}"
    return f"{value:.2g}" if value < 100 else f"{round(value, -1):.0f}"


def _span(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s" if seconds < 10 else f"{round(seconds, -1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.0f} h"

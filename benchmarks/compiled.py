"""Does torch.compile pay for itself within a run? Seconds to compile what the layers do between their matrix products (norms,
gates, rotary positions), and what a generation gains.

python benchmarks/compiled.py [MODEL] [--dtype float32] [--repeats 3]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from statistics import median

import torch
from torch import nn

from tandemtune.bench import Plan, candidates, contenders
from tandemtune.models.layers import replaced_forward

ROTATION = "apply_rotary_pos_emb"


def compile_small_steps(layers: Sequence[nn.Module], changes: ExitStack) -> int:
    """Have norms, products of gates and rotary positions compiled until `changes` are undone; says how many parts."""
    count = 0
    shared: dict[object, object] = {}
    for module in (part for layer in layers for part in layer.modules()):
        kind = type(module)
        if kind.__name__.endswith("Norm") and not isinstance(module, nn.LayerNorm):
            norm = shared.setdefault(kind, torch.compile(kind.forward, dynamic=True))
            changes.enter_context(replaced_forward(module, partial(norm, module)))
        elif all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")):
            product = torch.compile(lambda gate, up, a=module.act_fn: a(gate) * up, dynamic=True)
            product = shared.setdefault(type(module.act_fn), product)
            changes.enter_context(
                replaced_forward(module, lambda x, m=module, p=product: m.down_proj(p(m.gate_proj(x), m.up_proj(x))))
            )
        else:
            continue
        count += 1
    for home in {type(part).__module__ for layer in layers for part in layer.modules()}:
        function = getattr(sys.modules[home], ROTATION, None)
        if function is not None:
            changes.callback(setattr, sys.modules[home], ROTATION, function)
            setattr(sys.modules[home], ROTATION, torch.compile(function, dynamic=True))
            count += 1
    return count


def main() -> None:
    """Time generations before and after."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="pypi:smollm2-135m-instruct")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    bench, point = contenders(Plan(options.model, dtype=options.dtype), options.dtype)
    layers = bench.scorer.engine.stack.layers
    block = len(layers) // 2
    vectors = candidates(bench, block, 20)

    def generation() -> float:
        begin = time.perf_counter()
        bench.objective.evaluate(point, {block: vectors})
        return time.perf_counter() - begin

    generation()
    plain = [generation() for _ in range(options.repeats)]
    with ExitStack() as stack_of_changes:
        count = compile_small_steps(layers, stack_of_changes)
        if not count:
            raise SystemExit(f"{options.model}: its layers have no part that could be compiled")
        first = generation()
        after = [generation() for _ in range(options.repeats)]
    gain = median(plain) - median(after)
    print(f"{options.model}, {options.dtype}, candidates of layer {block} of {len(layers)}, {count} parts compiled:")
    print(
        f"plain {median(plain):.2f} s a generation, compiled {median(after):.2f} s, ratio {median(after) / median(plain):.2f}"
    )
    print(f"the first generation took {first:.1f} s", end="; ")
    print(f"it pays after {(first - median(after)) / gain:.0f} generations" if gain > 0 else "it never pays")


if __name__ == "__main__":
    main()

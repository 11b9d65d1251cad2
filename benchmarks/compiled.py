"""Does torch.compile pay for itself within a run? Seconds to compile the layers' feed-forward parts, and what a generation gains.

python benchmarks/compiled.py [MODEL] [--dtype float32] [--repeats 3]
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch

from tandemtune.bench import Plan, candidates, contenders


def main() -> None:
    """Time generations before and after."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="pypi:smollm2-135m-instruct")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    bench, point = contenders(Plan(options.model, dtype=options.dtype), options.dtype)
    stack = bench.scorer.engine.stack
    block = 3 * len(stack) // 4
    vectors = candidates(bench, block, 20)

    def generation() -> float:
        begin = time.perf_counter()
        bench.objective.evaluate(point, {block: vectors})
        return time.perf_counter() - begin

    generation()
    plain = [generation() for _ in range(options.repeats)]
    parts = [module for layer in stack.layers for name, module in layer.named_children() if name == "mlp"]
    if not parts:
        raise SystemExit(f"{options.model}: its layers have no part called mlp")
    torch._dynamo.config.cache_size_limit = 512
    for part in parts:
        part.compile(dynamic=True)
    first = generation()
    after = [generation() for _ in range(options.repeats)]
    gain = median(plain) - median(after)
    print(f"{options.model}, {options.dtype}, candidates of layer {block} of {len(stack)}:")
    print(
        f"plain {median(plain):.2f} s a generation, compiled {median(after):.2f} s, ratio {median(after) / median(plain):.2f}"
    )
    print(f"the first generation took {first:.1f} s", end="; ")
    print(f"it pays after {(first - median(after)) / gain:.0f} generations" if gain > 0 else "it never pays")


if __name__ == "__main__":
    main()

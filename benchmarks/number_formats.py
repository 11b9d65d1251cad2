"""How well 16-bit formats rank the candidates of one generation, against float32.

python benchmarks/number_formats.py --data FOLDER [--alphas 0.1 0.5] [--threads N]
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from contenders import processor
from tandemtune import devices, wiring
from tandemtune.autotune import build
from tandemtune.config import load_config
from tandemtune.evaluators.label_words import rank_correlation
from tandemtune.search.schedule import Stage

FORMATS = ("float32", "mixed", "bfloat16")


def main() -> int:
    """Print one row for each alpha, layer and format."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with the files of sst2")
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--model", default="pypi:smollm2-135m-instruct")
    parser.add_argument("--alphas", type=float, nargs="+", default=[0.1, 0.5])
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    print(f"on {processor(devices.find_device('auto'))}")
    print(
        "| alpha | layer | format | rank correlation | noise / spread of the candidates | seconds, as a ratio to float32 |"
    )
    print("|---|---|---|---|---|---|")
    for alpha in options.alphas:
        trial: dict[int, Any] = {}
        losses: dict[tuple[str, int], Any] = {}
        seconds: dict[tuple[str, int], float] = {}
        for name in FORMATS:
            model: dict[str, Any] = {"name": options.model, "dtype": name}
            if options.threads:
                model["threads"] = options.threads
            task = {"name": "sst2", "data": options.data, "shots": options.shots}
            problem = build(load_config({"model": model, "task": task, "method": {"alpha": alpha}}))
            origin = problem.scorer.parameters.initial()
            for block in problem.searched[:: max(1, len(problem.searched) // 2)]:
                if name == "float32":
                    phase = wiring.make_phase(problem, origin, Stage("tune"))
                    trial[block] = phase.up((block,), phase.optimizer((block,)).ask())[block]
                problem.evaluator.evaluate(origin, {block: trial[block][:1]})
                begin = time.perf_counter()
                losses[name, block] = problem.evaluator.evaluate(origin, {block: trial[block]})
                seconds[name, block] = time.perf_counter() - begin
        for block in trial:
            exact = losses["float32", block]
            for name in FORMATS[1:]:
                found = losses[name, block]
                noise = np.std((found - found.mean()) - (exact - exact.mean())) / np.std(exact)
                ratio = seconds[name, block] / seconds["float32", block]
                print(
                    f"| {alpha} | {block} | {name} | {rank_correlation(found, exact):.3f} | {noise:.2f} | {ratio:.2f} |"
                )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

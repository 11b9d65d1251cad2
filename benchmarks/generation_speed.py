"""How fast a population writes: beside `generate` with PEFT one candidate after another, and beside as many plain rows through the
bare model at once. Each way in a process of its own, one after another in one run: time as ratios, peak memory of each. Of PEFT
a few candidates are timed, and the others reckoned from them: one takes as long as another.

python benchmarks/generation_speed.py --model pypi:smollm2-135m-instruct --rows 8       # about 10 minutes of one core
python benchmarks/generation_speed.py --model pypi:flan-t5-small --repeats 2
python benchmarks/generation_speed.py --model pypi:smollm2-135m-instruct --rows 16 --device cuda
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tandemtune.evaluators.engine import Engine
from tandemtune.evaluators.writing import Writer
from tandemtune.models.answers import AnswerCoder
from tandemtune.models.backbone import Backbone
from tandemtune.models.load import load
from tandemtune.tasks.templates import Template
from tandemtune.tasks.verbalizers import Verbalizer
from tandemtune.tunables.lora import LoRATerms
from tandemtune.types import Encoded

RANK = 4
WAYS = ("population", "peft", "bare")
TEMPLATE = Template.parse("{text} {mask}")


class Clock:
    """Seconds of work on a device, and the most memory that it took above what lay there: processor time of a processor."""

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith("cuda")

    def measure(self, work: Callable[[], Any]) -> tuple[float, float]:
        """Seconds, and megabytes (NaN where nobody counts them)."""
        before = self._begin_memory()
        begin = self._now()
        work()
        took = self._now() - begin
        return took, self._peak() - before

    def _now(self) -> float:
        if not self.cuda:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def _begin_memory(self) -> float:
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated() / 1e6
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        return self._status("VmRSS")

    def _peak(self) -> float:
        return torch.cuda.max_memory_allocated() / 1e6 if self.cuda else self._status("VmHWM")

    def _status(self, name: str) -> float:
        with suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith(name):
                    return int(line.split()[1]) / 1e3
        return float("nan")


class House:
    """One model, prompts of one length, and candidates of the last half of its layers.

    Args:
        given: what the command line says.
    """

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.backbone: Backbone = load(given.model, device=given.device)
        stack = self.backbone.passages(Verbalizer((), (5, 6), ()))
        layers = range(len(stack))
        self.tunable = LoRATerms(self.backbone, RANK, layers)
        self.engine = Engine(stack, self.tunable, torch.zeros(2, 0), max_memory=given.memory)
        generator = torch.Generator().manual_seed(0)
        words = torch.randint(10, 1000, (given.rows, given.length), generator=generator)
        self.ids = words.to(self.backbone.device)
        self.prompts = [Encoded(tuple(row.tolist()), given.length - 1) for row in words]
        self.block = layers[len(layers) // 2]
        size = given.candidates, self.tunable.dim(self.block)
        self.candidates = {self.block: 0.01 * torch.randn(*size, generator=generator).to(self.backbone.device)}
        self.point = self.tunable.initial()

    def population(self, tokens: int, rows: int, candidates: int) -> None:
        """So many candidates in one batch."""
        coder = AnswerCoder(self.backbone, TEMPLATE, tokens)
        coder.ends, coder.forced_end = (), None
        chosen = {block: vectors[:candidates] for block, vectors in self.candidates.items()}
        texts = Writer(self.engine, coder).write(self.prompts[:rows], self.point, chosen)
        assert all(len(text.ids) == tokens for row in texts for text in row)

    def peft(self, tokens: int, rows: int, candidates: int) -> None:
        """`generate` of a PEFT model, one candidate after another: the weights of each are put into it."""
        model = self._peft
        for number in range(candidates):
            changed = {**self.point, self.block: self.candidates[self.block][number]}
            with torch.no_grad():
                for name, tensor in self._tensors(changed).items():
                    model.get_parameter(name).copy_(tensor)
            self._generate(model, self.ids[:rows], tokens)

    def bare(self, tokens: int, rows: int, candidates: int) -> None:
        """As many rows as a population has, through the model without adapters."""
        self._generate(self.backbone.model, self.ids[:rows].repeat(candidates, 1), tokens)

    @cached_property
    def _peft(self) -> Any:
        from peft import PeftModel

        with tempfile.TemporaryDirectory() as place:
            self.tunable.save(self.point, Path(place), self.given.model)
            return PeftModel.from_pretrained(self.backbone.model, place).eval()

    def _tensors(self, point: dict[int, Tensor]) -> dict[str, Tensor]:
        """A point's matrices by the names of the PEFT model's parameters."""
        with tempfile.TemporaryDirectory() as place:
            self.tunable.save(point, Path(place), self.given.model)
            found = load_file(Path(place) / "adapter_model.safetensors")
        return {name.replace(".weight", ".default.weight"): tensor for name, tensor in found.items()}

    def _generate(self, model: Any, ids: Tensor, tokens: int) -> None:
        with torch.inference_mode():
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                pad_token_id=0,
            )


def measured(given: argparse.Namespace, way: str, tokens: int) -> tuple[float, float]:
    """Seconds of all candidates and peak megabytes of one way, in a process of its own: the best of some tries."""
    house, clock = House(given), Clock(given.device)
    work = getattr(house, way)
    count = min(given.candidates, given.one_by_one) if way == "peft" else given.candidates
    work(2, 1, 1)  # what is slow the first time
    tries = [clock.measure(lambda: work(tokens, given.rows, count)) for _ in range(given.repeats)]
    return min(seconds for seconds, _ in tries) * given.candidates / count, max(size for _, size in tries)


def alone(way: str, tokens: int) -> tuple[float, float]:
    """The same, asked of another process."""
    command = [sys.executable, *sys.argv, "--one", way, "--tokens", str(tokens)]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    seconds, size = json.loads(found)
    return seconds, size


def main() -> None:
    """Print a row for each number of new tokens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pypi:flan-t5-small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=16, help="prompts")
    parser.add_argument("--length", type=int, default=48, help="tokens of a prompt")
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--one-by-one", type=int, default=2, help="candidates that PEFT is timed with")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 32, 128], help="new tokens of each row")
    parser.add_argument("--repeats", type=int, default=1, help="the best of so many tries counts")
    parser.add_argument(
        "--memory", type=float, default=2000, help="megabytes for activations; keys and values may take 4 times that"
    )
    parser.add_argument("--one", choices=WAYS, help="measure this way alone, and print seconds and megabytes")
    given = parser.parse_args()
    if given.device == "cpu":
        torch.set_num_threads(1)
    if given.one:
        print(json.dumps(measured(given, given.one, given.tokens[-1])))
        return
    where = torch.cuda.get_device_name() if given.device.startswith("cuda") else "one thread, processor time"
    print(
        f"{given.model}, {given.candidates} candidates, {given.rows} rows of {given.length} tokens, float32, {where}; PEFT from "
        f"{min(given.candidates, given.one_by_one)} candidates\n"
    )
    print(
        "| new tokens | population: tokens/s | PEFT one by one / population | bare rows / population | MB: population, PEFT, bare |"
    )
    print("|---|---|---|---|---|")
    for tokens in given.tokens:
        found = {way: alone(way, tokens) for way in WAYS}
        took = {way: seconds for way, (seconds, _) in found.items()}
        rate = given.candidates * given.rows * tokens / took["population"]
        ratios = took["peft"] / took["population"], took["bare"] / took["population"]
        sizes = ", ".join(f"{size:,.0f}" for _, size in found.values())
        print(f"| {tokens} | {rate:,.0f} | {ratios[0]:.2f} | {ratios[1]:.2f} | {sizes} |", flush=True)


if __name__ == "__main__":
    main()

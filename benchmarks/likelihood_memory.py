"""What it saves to let answers' tokens reach the head in chunks: memory above the model, and time, of a population's likelihoods and
of a gradient, for a model with the shape of Gemma 3 270M (262,144 words) and random weights. Each in a process of its own.

python benchmarks/likelihood_memory.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

import torch

from generation_speed import RANK, Clock
from tandemtune.evaluators.engine import Engine
from tandemtune.evaluators.likelihood import Likelihood
from tandemtune.evaluators.passages import Passage, collate_passages
from tandemtune.models import architectures
from tandemtune.models.backbone import Backbone
from tandemtune.tasks.verbalizers import Verbalizer
from tandemtune.testing.tiny import word_tokenizer
from tandemtune.tunables.lora import LoRATerms
from tandemtune.types import Encoded

WORK, HEADS = ("population", "gradient"), ("at once", "in chunks")


def backbone_of(words: int, layers: int) -> Backbone:
    """Gemma 3 270M's shape with random weights."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(
        vocab_size=words,
        hidden_size=640,
        intermediate_size=2048,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        pad_token_id=0,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    model: Any = Gemma3ForCausalLM(config).eval().requires_grad_(False)
    return Backbone("gemma-3-270m, random", model, word_tokenizer("causal"), "causal", architectures.find(model))


class House:
    """The model, prompts with answers, and candidates of a middle layer.

    Args:
        given: what the command line says.
        head: one of `HEADS`.
    """

    def __init__(self, given: argparse.Namespace, head: str) -> None:
        backbone = backbone_of(given.words, given.layers)
        stack = backbone.passages(Verbalizer((), (5, 6), ()))
        if head == "at once":
            stack.trunk = None  # then all that a pass reads goes through the head in one piece
        self.tunable = LoRATerms(backbone, RANK, range(len(stack)))
        self.likelihood = Likelihood(Engine(stack, self.tunable, torch.zeros(2, 0), max_memory=given.memory))
        drawn = torch.randint(10, given.words, (given.rows, given.length + given.answer)).tolist()
        prompts = [(Encoded(tuple(row[: given.length]), given.length - 1), tuple(row[given.length :])) for row in drawn]
        self.batch = collate_passages([Passage(*each) for each in prompts], stack)
        self.point = {block: 0.01 * torch.randn(self.tunable.dim(block)) for block in self.tunable.blocks}
        block = len(stack) // 2
        self.candidates = {block: 0.01 * torch.randn(given.candidates, self.tunable.dim(block))}

    def population(self) -> float:
        """Likelihoods of all candidates."""
        return float(self.likelihood.of_population(self.batch, self.point, self.candidates).sum())

    def gradient(self) -> float:
        """Of all rows' mean likelihood, by the vectors of all layers."""
        leaves = {block: vector.clone().requires_grad_() for block, vector in self.point.items()}
        for _, found in self.likelihood.gradients(self.batch, leaves):
            found.sum().backward()  # type: ignore[no-untyped-call]
        return float(sum(float(leaf.grad.abs().sum()) for leaf in leaves.values() if leaf.grad is not None))


def main() -> None:
    """Print a row for each kind of work and way to the head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=int, default=262_144)
    parser.add_argument("--layers", type=int, default=18)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=48, help="tokens of a prompt")
    parser.add_argument("--answer", type=int, default=32, help="tokens of an answer")
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--memory", type=float, default=256, help="megabytes for activations, and for logits")
    parser.add_argument("--one", nargs=2, help="measure this work with this head alone")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.one:
        work, head = given.one
        house = House(given, head)
        value: list[float] = []
        seconds, size = Clock("cpu").measure(lambda: value.append(getattr(house, work)()))
        print(json.dumps([seconds, size, value[0]]))
        return
    print(
        f"{given.words:,} words, {given.layers} layers, {given.rows} rows of {given.length} + {given.answer} tokens, "
        f"{given.candidates} candidates, bound {given.memory:,.0f} MB, float32, one thread\n"
    )
    print("| work | tokens at the head | MB above the model | processor seconds | what comes out |")
    print("|---|---|---|---|---|")
    for work in WORK:
        for head in HEADS:
            command = [sys.executable, *sys.argv, "--one", work, head]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            seconds, size, found = json.loads(said)
            print(f"| {work} | {head} | {size:,.0f} | {seconds:.1f} | {found:.6g} |", flush=True)


if __name__ == "__main__":
    main()

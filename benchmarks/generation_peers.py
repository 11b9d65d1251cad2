"""Other people's tools beside ours where nothing but a reward says what is right: JSON out of free text, with the rows, the template and
the rewards of a plan, and the same limit on seconds. Each tool in a process of its own; a line of JSON for each: the reward on the
same test rows before and after, generated tokens, seconds, peak memory.

    python benchmarks/generation_peers.py --data FOLDER --seconds 1800
    python benchmarks/generation_peers.py --data FOLDER --tools grpo es-lora --seed 21

FOLDER holds the plan's files. trl and eggroll-es belong into an environment of their own, for example

    python -m venv PEERS && PEERS/bin/pip install tandemtune[generation,peft] trl==1.16.0 eggroll-es==0.2.0

- All: SmolLM2-135M-Instruct, float32, one thread, the seed's training rows, prompts as the plan's template makes them, answers that end
  with their line. Rewards are those of the plan's method "c-lora, reward".
- grpo: trl's GRPOTrainer with LoRA of rank 8 on all projections of attention by peft, 8 samples of each of 2 prompts a step at temperature
  1, no KL term, constant learning rate (1e-5 is usual for whole weights, ten times that for LoRA); its last weights count.
- eggroll-es: whole weights of query and key in the last half of the layers, 20 candidates a generation (10 and their mirror images),
  its default rank, sigma and learning rate; each candidate writes by `generate`, greedily; its last weights count.
- es-lora, c-lora: this package's, greedily; the point with the lowest loss on dev rows counts, looking at which is part of the time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

PLAN = Path(__file__).with_name("generation_json_few.toml")
LIKE = "c-lora, reward"
OURS: dict[str, dict[str, Any]] = {
    "es-lora": {"method.name": "es-lora", "method.readout": "none", "method.judge": "words"},
    "c-lora": {"method.name": "c-lora", "method.layers": "last:50%", "method.dev_every": 2},
}
GROUP, PROMPTS, POPULATION = 8, 2, 20
NEVER = 10**6


class Desk:
    """Rows, prompts and rewards of the plan, and the model.

    Args:
        given: what the command line says.
    """

    def __init__(self, given: argparse.Namespace) -> None:
        from tandemtune import autotune
        from tandemtune.answers.text_rows import text_rows
        from tandemtune.config import load_config

        os.chdir(given.data)
        self.given, self.config = given, load_config({}, list(settings(given, "c-lora").items()))
        problem = autotune.build(self.config)
        self.scorer = problem.scorer
        task: Any = self.scorer.task
        self.judge: Any = self.config.method.objective.judge(task)
        self.train = text_rows(self.scorer, problem.split.train, plain=True, references=False)
        examples = task.test(self.config.task.test_rows, self.config.task.seed)
        self.test = text_rows(self.scorer, examples, plain=True, references=False)
        self.most = self.config.task.max_new_tokens
        self.tokens = 0

    def rewards(self, rows: Sequence[int], texts: Sequence[str]) -> list[float]:
        """The reward of each text for its training row; what lies behind the first line is not read."""
        written = self.train.ask(rows, [text.split("\n")[0].strip() for text in texts])
        return [-self.judge(written.of([index])) for index in range(len(rows))]

    def score(self) -> dict[str, float]:
        """Reward and metric on the test rows, of what the model writes as it is now."""
        from tandemtune.answers.text_rows import writer_of
        from tandemtune.evaluators.text import judged

        writer = writer_of(self.scorer)
        written = judged(self.test, writer.coder, writer.write(self.test.prompts, {})[0])
        task: Any = self.scorer.task
        return {"reward": round(0.0 - self.judge(written), 4), task.reward.name: round(task.reward.score(written), 4)}

    def padded(self) -> tuple[Any, Any]:
        """Training prompts filled up on their left, and the mask of that."""
        import torch

        ids = [prompt.ids for prompt in self.train.prompts]
        width = max(map(len, ids))
        whole = torch.tensor([[0] * (width - len(each)) + list(each) for each in ids])
        return whole, torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in ids])


def settings(given: argparse.Namespace, tool: str) -> dict[str, Any]:
    """The plan's settings of all runs and of the method that is searched on rewards, with those of a tool of ours."""
    plan = tomllib.loads(PLAN.read_text(encoding="utf-8"))
    objective = {"method.objective": plan["methods"][LIKE]["method.objective"]}
    rows = {"task.test_rows": given.test_rows} if given.test_rows else {}
    return {**plan["all"], **OURS[tool], **objective, **rows, "task.seed": given.seed}


def with_grpo(given: argparse.Namespace) -> dict[str, Any]:
    """trl's GRPO, LoRA by peft."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    desk = Desk(given)
    before, begin = desk.score(), time.perf_counter()
    tokenizer = desk.scorer.backbone.tokenizer
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(tokenizer("\n")["input_ids"][-1])
    tokenizer.pad_token_id = 0
    model: Any = desk.scorer.backbone.model
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    prompts = list(desk.train.ask(range(len(desk.train)), [""] * len(desk.train)).prompts)

    def reward(completions: Sequence[str], completion_ids: Sequence[Any], row: Sequence[int], **_: Any) -> list[float]:
        desk.tokens += sum(map(len, completion_ids))
        return desk.rewards(row, completions)

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = time.perf_counter() - begin > given.seconds

    with tempfile.TemporaryDirectory() as folder:
        options = GRPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            per_device_train_batch_size=GROUP,
            gradient_accumulation_steps=PROMPTS,
            num_generations=GROUP,
            max_completion_length=desk.most,
            learning_rate=given.lr,
            lr_scheduler_type="constant",
            max_steps=NEVER,
            gradient_checkpointing=False,
            beta=0.0,
            seed=given.seed,
            save_strategy="no",
            report_to="none",
            logging_steps=NEVER,
            disable_tqdm=True,
        )
        trainer = GRPOTrainer(
            model,
            reward,
            options,
            Dataset.from_dict({"prompt": prompts, "row": list(range(len(prompts)))}),
            processing_class=tokenizer,
            callbacks=[Clock()],
            peft_config=LoraConfig(
                r=8, lora_alpha=16, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM"
            ),
        )
        trainer.train()
    took = time.perf_counter() - begin
    trainer.model.merge_and_unload()
    desk.scorer.backbone.model.eval()
    return told(before, desk.score(), took, desk.tokens, turns=trainer.state.global_step)


def with_eggroll(given: argparse.Namespace) -> dict[str, Any]:
    """eggroll-es with its defaults."""
    import torch
    from eggroll import EggrollConfig, EggrollTrainer

    class OutOfTimeError(Exception):
        """The time is over."""

    desk = Desk(given)
    before, begin = desk.score(), time.perf_counter()
    ids, mask = desk.padded()
    model: Any = desk.scorer.backbone.model
    layers = desk.scorer.backbone.layers
    half = range(len(layers) // 2, len(layers))
    names = [
        f"{desk.scorer.backbone.layer_path(layer)}.self_attn.{part}.weight"
        for layer in half
        for part in ("q_proj", "k_proj")
    ]
    for name in names:
        model.get_parameter(name).requires_grad_(True)
    end = desk.scorer.backbone.tokenizer("\n")["input_ids"][-1]

    @torch.no_grad()
    def reward(model: Any, batch: Any) -> float:
        found = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=desk.most,
            eos_token_id=end,
            pad_token_id=0,
        )[:, ids.shape[1] :]
        desk.tokens += int((found != 0).sum())
        texts = desk.scorer.backbone.tokenizer.batch_decode(found, skip_special_tokens=True)
        each = desk.rewards(range(len(texts)), texts)
        return sum(each) / len(each)

    def clock(stats: Any) -> None:
        if time.perf_counter() - begin > given.seconds:
            raise OutOfTimeError

    options = EggrollConfig(
        population_size=POPULATION // 2, generations=NEVER, target_modules=names, device="cpu", seed=given.seed
    )
    trainer = EggrollTrainer(model, options, reward)
    with suppress(OutOfTimeError):
        trainer.evolve([ids], clock)
    took = time.perf_counter() - begin
    return told(before, desk.score(), took, desk.tokens, turns=len(trainer.history))


def with_ours(given: argparse.Namespace) -> dict[str, Any]:
    """A search of this package."""
    import tandemtune
    from tandemtune.runs.store import RunFolder

    desk = Desk(given)
    before = desk.score()
    chosen = {**settings(given, given.one), "run.max_seconds": given.seconds, "method.budget": NEVER}
    with tempfile.TemporaryDirectory() as folder:
        run = tandemtune.tune({}, out=Path(folder) / "run", progress="none", overrides=list(chosen.items()))
        result = run.result
        assert result is not None
        rows = RunFolder.open(Path(folder) / "run").read_predictions()
        written = desk.test.ask(range(len(rows)), [row.label for row in rows])
    task: Any = desk.scorer.task
    after = {"reward": round(0.0 - desk.judge(written), 4), task.reward.name: round(task.reward.score(written), 4)}
    return told(before, after, result.cost.seconds, result.cost.generated_tokens, turns=result.steps)


def told(before: Any, after: Any, seconds: float, tokens: int, turns: int) -> dict[str, Any]:
    """What a process says."""
    return {
        "before": before,
        "after": after,
        "seconds": round(seconds),
        "turns": turns,
        "generated_tokens": tokens,
        "peak_mb": round(peak()),
    }


def peak() -> float:
    """The most memory of this process in megabytes."""
    from tandemtune.system import peak_rss_mb

    return float(peak_rss_mb())


TOOLS = {"grpo": with_grpo, "eggroll-es": with_eggroll, **dict.fromkeys(OURS, with_ours)}


def main() -> None:
    """Print a line for each tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the plan's files")
    parser.add_argument("--seconds", type=float, default=1800, help="of the search or training of each tool")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--seed", type=int, default=13)
    parser.add_argument("--test-rows", type=int, help="in place of the plan's")
    parser.add_argument("--lr", type=float, default=1e-4, help="of GRPO")
    parser.add_argument("--one", choices=TOOLS, help="this tool alone, in this process")
    given = parser.parse_args()
    given.data = given.data.resolve()
    if given.one:
        import torch

        torch.set_num_threads(1)
        print("\n" + json.dumps(TOOLS[given.one](given)))
        return
    for tool in given.tools:
        done = subprocess.run(
            [sys.executable, *sys.argv, "--one", tool],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        said = done.stdout.strip().splitlines()
        found = (
            json.loads(said[-1]) if not done.returncode else {"failed": (done.stderr.strip().splitlines() or [""])[-1]}
        )
        print(json.dumps({"tool": tool, "seed": given.seed, **found}), flush=True)


if __name__ == "__main__":
    main()

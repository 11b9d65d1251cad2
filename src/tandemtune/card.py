"""The task card beside an adapter: how to ask it, how well it does, what it cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tandemtune.parts import Bench

WHAT = {
    "lora": "A LoRA adapter",
    "prompt": "A soft prompt",
    "deep-prompt": "A deep soft prompt",
    "text": "A prompt of words",
    "lora+prompt": "A LoRA adapter and a prompt of words",
    "bias": "Biases",
    "adapter": "Bottleneck adapters",
    "full": "All weights",
    "demonstrations": "Demonstrations",
    "none": "A template",
}


def task_card(bench: Bench, result: dict[str, Any]) -> dict[str, Any]:
    """Everything that is needed to use the adapter without the recipe, with its scores and costs.

    Args:
        bench: what the run worked with.
        result: what the run found.
    """
    scorer = bench.scorer
    return {
        "base_model": scorer.config.model.name,
        "revision": scorer.config.model.revision,
        "kind": scorer.backbone.kind,
        "task": scorer.task.name,
        "template": str(scorer.task.template),
        "label_words": {label: list(words) for label, words in scorer.task.words.items()},
        "pieces": bench.facts["label_pieces"],
        "shots": result["shots"],
        "seed": result["seed"],
        "dtype": bench.facts["dtype"],
        "max_tokens": scorer.config.task.max_tokens,
        "method": scorer.config.method.model_dump(mode="json"),
        "calibrated": scorer.calibrates,
        "prior": dict(zip(scorer.task.labels, result["tuned"]["prior"], strict=True)),
        "scores": {"metric": scorer.task.metric, "zero_shot": result["zero_shot"], "tuned": result["tuned"]},
        "cost": result["cost"],
    }


def write_readme(folder: Path, bench: Bench, result: dict[str, Any]) -> None:
    """Write the adapter's README in the form that model hubs read."""
    scorer = bench.scorer
    tuned, zero = result["tuned"], result["zero_shot"]
    words = ", ".join(f"{label}: {' / '.join(w)}" for label, w in scorer.task.words.items())
    made = f"{result['cost']['candidates']} candidates"
    if result["cost"]["gradient_steps"]:
        made = f"{result['cost']['gradient_steps']} gradient steps, {made}"
    tunable = scorer.config.method.tunable
    in_peft = (folder / "adapter_config.json").is_file()
    lines = [
        "---",
        f"base_model: {json.dumps(scorer.config.model.name)}",
        f"library_name: {'peft' if in_peft else 'tandemtune'}",
        f"tags: [{tunable}, tandemtune]",
        "---",
        f"# {scorer.task.name} on {scorer.config.model.name}",
        "",
        f"{WHAT[tunable]} found by `{result['method']}`: {made}, {result['shots']} rows of each class, seed {result['seed']}.",
        "",
        f"- template: `{json.dumps(str(scorer.task.template), ensure_ascii=False)}`",
        f"- label words: {words}",
        f"- {result['metric']}: zero-shot dev {zero['dev']}, test {zero['test']}; tuned dev {tuned['dev']}, "
        f"test {tuned['test']}",
        *_calibration(bench, tuned),
        "",
        _how_to_load(tunable, in_peft, folder),
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _calibration(bench: Bench, tuned: dict[str, Any]) -> list[str]:
    """What has to be done to the label probabilities, if anything."""
    if not bench.scorer.calibrates:
        return []
    prior = ", ".join(f"{label} {p}" for label, p in zip(bench.scorer.task.labels, tuned["prior"], strict=True))
    return [
        f"- calibrated: divide the probabilities of the labels by those of empty inputs ({prior}), as the scores here do"
    ]


def _how_to_load(tunable: str, in_peft: bool, folder: Path) -> str:
    ours = "Load it with `tandemtune.load` on the run folder that it lies in"
    if tunable == "lora+prompt":
        return (
            "Load it with `peft.PeftModel.from_pretrained(base_model, folder)` and write the words of the prompt before the "
            f"text. {ours} for both."
        )
    if in_peft:
        return "Load it with `peft.PeftModel.from_pretrained(base_model, folder)`."
    if tunable == "full":
        return "Load it with `transformers`, as any model: the folder holds weights and tokenizer."
    says = ", ".join(f"`{path.name}`" for path in sorted(folder.glob("*.json")))
    return f"{ours}; {says} says what goes where."

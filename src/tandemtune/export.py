"""A finished run as a folder that `transformers` and PEFT load by themselves: adapters or whole weights, and how to ask them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import tandemtune.assets as assets
from tandemtune.answers import answers_of
from tandemtune.card import AUTO, conversation, messages
from tandemtune.devices import exact
from tandemtune.errors import UsageError
from tandemtune.models import load as loading
from tandemtune.models.naming import BaseName, base_name
from tandemtune.models.quantized import method_of
from tandemtune.models.quiet import quiet
from tandemtune.models.survey import text_config
from tandemtune.predict import TunedModel, load
from tandemtune.problem import Progress, content_free
from tandemtune.readout.as_adapter import changes_weights
from tandemtune.readout.members import FOLDER as READOUT
from tandemtune.runs.store import RunFolder
from tandemtune.runs.writing import write_json
from tandemtune.serving import for_vllm
from tandemtune.tasks.base import Task
from tandemtune.tasks.chat import asked_words
from tandemtune.tasks.texts import TextTask
from tandemtune.types import Encoded

ADAPTER, MODEL, BASE = "adapter", "model", "base"
"""Folders of an export: what was tuned, whole weights, and the base model where no hub holds the very weights."""


@dataclass(frozen=True)
class Parts:
    """What a run left that others can load.

    Args:
        adapter: the PEFT adapter of what was tuned, if it is one.
        readout: the PEFT adapter on the output embedding, if there is one.
        model: whole tuned weights, if the run left some.
        bias: what is added to the logit of each label.
    """

    adapter: Path | None
    readout: Path | None
    model: Path | None
    bias: dict[str, float]

    @property
    def adapters(self) -> dict[str, Path]:
        """The adapters by name."""
        return {name: place for name, place in ((ADAPTER, self.adapter), (READOUT, self.readout)) if place is not None}


def export(
    run: str | Path,
    to: str | Path,
    *,
    merged: bool = False,
    rank: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a finished run as a folder that does not need this library.

    Args:
        run: the run folder.
        to: the folder to make.
        merged: write whole weights in place of adapters.
        rank: make sure that vLLM can serve the adapter, filled up with zeros to this rank (0 leaves it as it is); None asks nothing
            of it.
        progress: called with a short line when something slow begins.

    Returns:
        The folder.

    Raises:
        UsageError: `to` is there already, or what the run tuned has no form that others can load; says what to do.
        RunError: no finished run lies there.
    """
    to = Path(to)
    if to.exists():
        raise UsageError(f"{to} exists already: choose another folder")
    if not to.absolute().parent.is_dir():
        raise UsageError(f"folder {to.absolute().parent} does not exist: make it first")
    model = load(run, progress=progress)
    if model.scorer.snippet(""):
        if merged or rank is not None:
            what = "--merged" if merged else "--for vllm"
            raise UsageError(f"{what}: the run's vectors of classes are exported, and no adapter: leave it out")
        return _export_beside(model, to, progress)
    parts = _parts(model, RunFolder.open(Path(run)))
    if merged and parts.readout is not None and _tied(model):
        raise UsageError(
            "the run's readout changes the output embedding, which is the input embedding of "
            f"{model.scorer.backbone.name}, too: merged weights would read other words. Leave --merged out"
        )
    if rank is not None and (merged or parts.readout is not None or parts.adapter is None):
        what = "a readout" if parts.readout is not None else "no LoRA adapter"
        raise UsageError(
            "vLLM serves merged weights as any model: leave --for vllm out"
            if merged
            else f"vLLM serves one LoRA adapter, and this run left {what}: merge it (--merged), where that can be"
        )
    base = base_name(model.scorer.config.model.name)
    temporary = to.absolute().with_name(f".{to.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        _write_parts(model, parts, base, temporary, merged, progress)
        served: list[str] = []
        if rank is not None:
            task = model.scorer.task
            place, revision = _base_place(model, base, temporary)
            place = f"./{place}" if place == BASE else place
            served = for_vllm(
                temporary / ADAPTER,
                model.scorer.backbone,
                task.name,
                rank,
                progress,
                base=place,
                revision=revision,
            )
            served += _asked_with(messages(task), task, answers_of(task).told(model.scorer, parts.bias))
        write_json(temporary / answers_of(model.scorer.task).told_in, _told(model, parts, base))
        (temporary / "README.md").write_text(_readme(model, parts, base, temporary, served), encoding="utf-8")
        temporary.rename(to)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return to


def _export_beside(model: TunedModel, to: Path, progress: Progress | None) -> Path:
    """What a scorer says in files of its own, with the base model where no hub holds it."""
    scorer, base = model.scorer, base_name(model.scorer.config.model.name)
    temporary = to.absolute().with_name(f".{to.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        scorer.save_beside(model.point, temporary)
        if not any(temporary.iterdir()):
            raise UsageError(
                "the run's readout is not linear in what it reads: make the run with readout ridge, or use it with `tandemtune predict`"
            )
        place = base.name
        if base.note and scorer.config.model.name.startswith(assets.PREFIX):
            if progress:
                progress(f"copying {scorer.config.model.name}, since no model hub holds the very weights")
            shutil.copytree(loading.locate(scorer.config.model.name, progress), temporary / BASE)
            place = BASE
        words = ", ".join(f"{label}: {' / '.join(found)}" for label, found in scorer.task.words.items())
        lines = [
            f"# {scorer.task.name} on {Path(base.name).name}",
            "",
            f"- classes: {words}",
            "",
            "Run in this folder:",
            "",
        ]
        text = "\n".join([*lines, "```python", *scorer.snippet(place), "```", ""])
        (temporary / "README.md").write_text(text, encoding="utf-8")
        temporary.rename(to)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return to


# ---- what there is -----------------------------------------------------------------------------------------------


def _parts(model: TunedModel, folder: RunFolder) -> Parts:
    """What of a run others can load.

    Raises:
        UsageError: a part of it has no such form.
    """
    scorer, tuned = model.scorer, folder.adapter
    tunable = scorer.config.method.tunable
    readout, bias = _readout(model, tuned)
    if (tuned / "config.json").is_file():
        return Parts(None, readout, tuned, bias)
    if (tuned / "adapter_config.json").is_file():
        told = json.loads((tuned / "adapter_config.json").read_text(encoding="utf-8"))
        if told["peft_type"] == "LORA" and len(scorer.parameters.reserve(Encoded((0,), 0)).ids) > 1:
            raise UsageError(
                "the run tuned a LoRA adapter beside a prompt, and PEFT does not load both at once: use it with `tandemtune predict`"
            )
        if told["peft_type"] != "LORA" and readout is not None:
            raise UsageError(
                f"the run tuned {tunable.kind} and solved a readout: PEFT cannot load both at once. Make the run without "
                "readout, or use it with `tandemtune predict`"
            )
        return Parts(tuned, readout, None, bias)
    if scorer.parameters.blocks or tunable.kind != "none":
        raise UsageError(
            f"the run tuned {tunable.kind!r}, which neither transformers nor PEFT has in this form: use it with `tandemtune "
            "predict`, or tune lora, full or (for a model that reads from left to right) prompt"
        )
    return Parts(None, readout, None, bias)


def _readout(model: TunedModel, tuned: Path) -> tuple[Path | None, dict[str, float]]:
    """The readout's adapter and what it, or calibration, adds to each label's logit."""
    scorer = model.scorer
    labels = scorer.task.labels
    if scorer.readout is None:
        if not scorer.calibrates:
            return None, dict.fromkeys(labels, 0.0)
        empty = scorer.engine.logits(content_free(scorer), model.point)
        shift = -torch.softmax(exact(empty), dim=-1).mean(dim=0).log()
        return None, dict(zip(labels, shift.tolist(), strict=True))
    told = json.loads((tuned / READOUT / "readout.json").read_text(encoding="utf-8"))
    if "no_adapter" in told:
        raise UsageError(f"the run's readout cannot be exported: {told['no_adapter']}")
    bias = {label: float(told["label_bias"][label]) for label in labels}
    return (
        tuned / READOUT if changes_weights(tuned / READOUT) else None
    ), bias  # what shifts labels alone changes no weights


def _tied(model: TunedModel) -> bool:
    """Whether input and output embedding are one."""
    whole: Any = model.scorer.backbone.model
    head = whole.get_output_embeddings()
    return head is not None and head.weight.data_ptr() == model.scorer.backbone.embedding_weight.data_ptr()


def _asked_with(messages: Sequence[dict[str, str]], task: Task, told: dict[str, Any]) -> list[str]:
    """What a server is sent that puts messages into the model's form itself, or that goes on with a prompt as it is; nothing where no text is
    written behind one."""
    body: dict[str, Any] = {"model": task.name}
    if messages:
        place, body["messages"] = "/v1/chat/completions", [*messages]
    elif isinstance(task, TextTask):
        place, body["prompt"] = "/v1/completions", asked_words(task.template).rstrip(" ")
    else:
        return []
    body["temperature"] = 0
    names = {"max_tokens": "max_new_tokens", "stop": "stop", "stop_token_ids": "ends"}
    body |= {name: told[key] for name, key in names.items() if told.get(key)}
    if task.chat is not None and task.chat.arguments and messages:
        body["chat_template_kwargs"] = dict(task.chat.arguments)
    doubled = " (doubled braces are single ones)" if "{{" in str(body.get("prompt")) else ""
    blanks = "" if messages else "; an answer is what comes, without the blanks around it"
    shown = json.dumps(body, ensure_ascii=False)
    return [f"To `{place}`, with a row's columns in place of braces{doubled}{blanks}:", "", "```json", shown, "```", ""]


# ---- files -------------------------------------------------------------------------------------------------------


def _write_parts(
    model: TunedModel, parts: Parts, base: BaseName, folder: Path, merged: bool, progress: Progress | None
) -> None:
    """Adapters as they are, or whole weights; the base model where no hub holds it."""
    section = model.scorer.config.model
    if merged and (parts.adapter is not None or parts.readout is not None):
        _merge(model, parts, folder / MODEL, progress)
        return
    for name, place in parts.adapters.items():
        shutil.copytree(place, folder / name, ignore=shutil.ignore_patterns(READOUT, "README.md", "readout.*"))
    if parts.model is not None:
        skipped = shutil.ignore_patterns(READOUT, "README.md", "directions.*")
        shutil.copytree(parts.model, folder / MODEL, ignore=skipped)
    elif base.note and section.name.startswith(assets.PREFIX):
        if progress:
            progress(f"copying {section.name}, since no model hub holds the very weights")
        shutil.copytree(loading.locate(section.name, progress), folder / BASE)


def _merge(model: TunedModel, parts: Parts, to: Path, progress: Progress | None) -> None:
    """Whole weights with the adapters in them.

    Raises:
        UsageError: an adapter is no change of weights, or PEFT is missing.
    """
    section = model.scorer.config.model
    for path in parts.adapters.values():
        kind = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))["peft_type"]
        if kind != "LORA":
            raise UsageError(f"the run tuned a {kind} adapter, which is no change of weights: leave --merged out")
    method = method_of(model.scorer.backbone.model.config)
    if method is not None:
        raise UsageError(
            f"--merged would round the adapter to the few bits of the base, which comes quantized ({method}): leave --merged out"
        )
    try:
        import peft
    except ImportError:
        raise UsageError("--merged needs peft: pip install 'tandemtune[peft]'") from None
    import transformers

    if progress:
        progress(f"merging {' and '.join(parts.adapters)} into the weights of {section.name}")
    place = str(parts.model or loading.locate(section.name, progress))
    auto = getattr(transformers, AUTO[model.scorer.backbone.kind])
    with quiet():
        whole = auto.from_pretrained(place, revision=section.revision, dtype=torch.float32)
        for path in parts.adapters.values():
            whole = peft.PeftModel.from_pretrained(whole, str(path)).merge_and_unload()
        whole.save_pretrained(to)
    model.scorer.backbone.tokenizer.save_pretrained(to)


def _told(model: TunedModel, parts: Parts, base: BaseName) -> dict[str, Any]:
    """What has to be known to ask the model."""
    scorer = model.scorer
    backbone, section = scorer.backbone, scorer.config.task
    return {
        "base_model": base.name,
        "revision": scorer.config.model.revision or base.revision,
        "kind": backbone.kind,
        "template": str(scorer.task.template),
        **answers_of(scorer.task).told(scorer, parts.bias),
        "marks_behind": len(backbone.around.behind) if backbone.kind == "causal" else 0,
        "decoder_begins_with": list(backbone.prefix),
        "max_tokens": section.max_tokens,
        "truncate": section.truncate,
    }


# ---- how to use it -----------------------------------------------------------------------------------------------


def _readme(model: TunedModel, parts: Parts, base: BaseName, folder: Path, served: Sequence[str]) -> str:
    scorer = model.scorer
    whole = (folder / MODEL).is_dir()
    lines = [
        f"# {scorer.task.name} on {Path(base.name).name if Path(base.name).is_absolute() else base.name}",
        "",
        f"- template: `{json.dumps(str(scorer.task.template), ensure_ascii=False)}`",
        *conversation(scorer),
        *answers_of(scorer.task).how_to_ask(scorer),
        f"- in the run, texts were cut ({scorer.config.task.truncate}) where a prompt had more than "
        f"{scorer.config.task.max_tokens} tokens",
        *([f"- {base.note}"] if base.note and not whole and not (folder / BASE).is_dir() else []),
        *_softcap(model, parts),
        "",
        "Run in this folder:",
        "",
        "```python",
        *_snippet(model, parts, base, folder),
        "```",
        "",
        *served,
    ]
    return "\n".join(lines)


def _softcap(model: TunedModel, parts: Parts) -> list[str]:
    whole: Any = model.scorer.backbone.model
    if parts.readout is None or not getattr(text_config(whole), "final_logit_softcapping", None):
        return []
    return ["- the model bends its logits, so label probabilities differ a little from those of the run"]


def _snippet(model: TunedModel, parts: Parts, base: BaseName, folder: Path) -> list[str]:
    """Code that labels a text with `transformers` (and PEFT) alone."""
    kind = model.scorer.backbone.kind
    adapters = [name for name in (ADAPTER, READOUT) if (folder / name).is_dir()]
    place, revision = _base_place(model, base, folder)
    given = f"{json.dumps(place)}" + (f", revision={json.dumps(revision)}" if revision else "")
    answers = answers_of(model.scorer.task)
    return [
        "import json",
        "import re",
        "",
        "import torch",
        *(["from peft import PeftModel"] if adapters else []),
        f"from transformers import {AUTO[kind]}, AutoTokenizer",
        "",
        f'told = json.load(open("{answers.told_in}", encoding="utf-8"))',
        f"tokenizer = AutoTokenizer.from_pretrained({given})",
        f"model = {AUTO[kind]}.from_pretrained({given}, dtype=torch.float32)",
        *_loading(adapters),
        "model.eval()",
        "",
        "",
        *answers.code(kind, dict.fromkeys(model.fields, "it was a good day")),
    ]


def _base_place(model: TunedModel, base: BaseName, folder: Path) -> tuple[str, str | None]:
    """Where the weights are that adapters lie beside, as seen from an export's folder, and their revision on the hub."""
    lying = next((name for name in (MODEL, BASE) if (folder / name).is_dir()), None)
    return (lying, None) if lying else (base.name, model.scorer.config.model.revision or base.revision)


def _loading(adapters: Sequence[str]) -> list[str]:
    if not adapters:
        return []
    lines = [f'model = PeftModel.from_pretrained(model, "{adapters[0]}")']
    if len(adapters) > 1:
        lines += [
            f'model.load_adapter("{adapters[1]}", adapter_name="{adapters[1]}")',
            f'model.base_model.set_adapter(["default", "{adapters[1]}"])',
        ]
    return lines

"""The task card beside an adapter: how to ask it, how well it does, what it cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import tandemtune.assets as assets
from tandemtune.answers import answers_of
from tandemtune.models.naming import base_name
from tandemtune.models.quantized import FORMATS, method_of
from tandemtune.problem import Problem, Scorer
from tandemtune.readout.as_adapter import changes_weights
from tandemtune.readout.members import FOLDER
from tandemtune.runs.records import DIGITS, FurtherTemplate, Result, Scores, TaskCard
from tandemtune.tasks.base import Task
from tandemtune.tasks.chat import asked_words


def task_card(problem: Problem, result: Result, label_bias: Mapping[str, float]) -> TaskCard:
    """Everything that is needed to use the adapter without the recipe, with its scores and costs.

    Args:
        problem: what the run worked with.
        result: what the run found.
        label_bias: what the readout's adapter leaves to be added to the logit of each label.
    """
    scorer = problem.scorer
    config = scorer.config
    base = base_name(config.model.name)
    return TaskCard(
        base_model=base.name,
        revision=config.model.revision or base.revision,
        kind=scorer.backbone.kind,
        task=scorer.task.name,
        template=str(scorer.task.template),
        label_words={label: tuple(words) for label, words in scorer.task.words.items()},
        pieces=problem.facts.label_pieces,
        shots=result.shots,
        rows=result.rows,
        seed=result.seed,
        dtype=problem.facts.dtype,
        max_tokens=config.task.max_tokens,
        method=config.method.model_dump(mode="json"),
        calibrated=scorer.calibrates and scorer.readout is None,
        readout=config.method.readout.kind,
        prior=dict(zip(scorer.task.words, result.tuned.prior, strict=True)) if result.tuned.prior else {},
        label_bias=dict(label_bias),
        assumed_prior=_assumed(problem),
        temperature=round(scorer.temperature, DIGITS),
        together=tuple(
            FurtherTemplate(template=str(task.template), label_words=dict(task.words))
            for task in scorer.task.wordings[1:]
        ),
        metric=scorer.task.metric,
        zero_shot=result.zero_shot,
        tuned=result.tuned,
        cost=result.cost,
    )


def _assumed(problem: Problem) -> dict[str, float]:
    """How often the readout assumes each label to come up; nothing without one."""
    member, split = problem.scorer.config.method.readout, problem.split
    if member.form is None:
        return {}
    return member.shares(problem.scorer.task.labels, [row.label for row in (*split.train, *split.dev)])


def write_readme(folder: Path, problem: Problem, result: Result) -> None:
    """Write the adapter's README in the form that model hubs read."""
    scorer = problem.scorer
    tuned, zero = result.tuned, result.zero_shot
    made = f"{result.cost.candidates} candidates"
    if result.cost.gradient_steps:
        made = f"{result.cost.gradient_steps} gradient steps, {made}"
    used = f"{result.rows.train:,} train and {result.rows.dev:,} dev rows"
    tunable, labelled, warmth = scorer.config.method.tunable, bool(scorer.task.words), round(scorer.temperature, DIGITS)
    in_peft = (folder / "adapter_config.json").is_file()
    base = base_name(scorer.config.model.name)
    shown = Path(base.name).name if Path(base.name).is_absolute() else base.name
    lines = [
        "---",
        f"base_model: {json.dumps(shown)}",
        f"library_name: {'peft' if in_peft else 'tandemtune'}",
        f"tags: [{tunable.kind}, tandemtune]",
        "---",
        f"# {scorer.task.name} on {shown}",
        "",
        f"{tunable.card} found by `{result.method}`: {made}, {used}, seed {result.seed}."
        if result.searched
        else f"{tunable.card} of `{result.method}`: nothing was searched, seed {result.seed}.",
        *([f"The readout was solved on all labelled rows, {used}."] if scorer.readout is not None else []),
        "",
        f"- template: `{json.dumps(str(scorer.task.template), ensure_ascii=False)}`",
        *conversation(scorer),
        *answers_of(scorer.task).card_lines(problem, result),
        f"- {result.metric}: zero-shot dev {zero.dev}, test {zero.test}; tuned dev {tuned.dev}, test {tuned.test}",
        *([f"- the point that is kept was found by {result.found_by}"] if result.found_by else []),
        *_calibration(problem, tuned),
        *_prior(problem),
        *_held_in(problem),
        *(
            [
                f"- probabilities: softmax of the label logits divided by the temperature {warmth}, chosen on labelled rows"
            ]
            if labelled
            else []
        ),
        "",
        tunable.how_to_load(folder),
        *_loading(scorer, folder, base.name),
        *(["", f"The scores above are {not_in_peft(scorer.only_here)}."] if scorer.only_here else []),
        *_used_alone([] if scorer.only_here else scorer.snippet(base.name)),
        *(["", base.note] if base.note else []),
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def conversation(scorer: Scorer) -> list[str]:
    """The messages that a task is asked with in a model's own form of conversation, as list entries; none where it is not asked so."""
    told = messages(scorer.task)
    if not told:
        return []
    shown = json.dumps(told, ensure_ascii=False)
    arguments = (
        "" if scorer.task.chat is None else "".join(f", {k}={v!r}" for k, v in scorer.task.chat.arguments.items())
    )
    said = scorer.parameters.said()
    return [
        f"- the same as messages: `{shown}` (columns in braces; double ones are braces)"
        + (f", and {said}" if said else "")
        + f"; `apply_chat_template(messages, add_generation_prompt=True{arguments})` makes the prompt of them"
    ]


def messages(task: Task) -> list[dict[str, str]]:
    """What system and user say in a task's conversation, with columns in braces; empty where it is none."""
    if task.chat is None or task.question is None:
        return []
    system = [] if task.chat.system is None else [{"role": "system", "content": task.chat.system}]
    return [*system, {"role": "user", "content": asked_words(task.question).strip()}]


def _calibration(problem: Problem, tuned: Scores) -> list[str]:
    """What has to be done to the label probabilities, if anything."""
    if not problem.scorer.calibrates or problem.scorer.readout is not None:
        return []
    prior = ", ".join(f"{label} {p}" for label, p in zip(problem.scorer.task.labels, tuned.prior, strict=True))
    return [
        f"- calibrated: divide the probabilities of the labels by those of empty inputs ({prior}), as the scores here do"
    ]


def _prior(problem: Problem) -> list[str]:
    """How often a readout assumes that each label comes up."""
    member, split = problem.scorer.config.method.readout, problem.split
    if member.form is None:
        return []
    labels = [row.label for row in (*split.train, *split.dev)]
    return [f"- the readout assumes that {member.assumed(problem.scorer.task.labels, labels)}"]


def _held_in(problem: Problem) -> list[str]:
    """In how many bits the base's layers were when all this was measured."""
    backbone, form = problem.scorer.backbone, FORMATS.get(problem.scorer.config.model.quantize or "")
    if form is not None:
        return [
            f"- measured over the base with its layers in {form.name} ({form.package}), products in {problem.scorer.facts.dtype}: over "
            "the plain weights numbers differ a little"
        ]
    method = method_of(getattr(backbone.model, "config", None))
    return [f"- measured over the base as it comes, quantized ({method})"] if method else []


AUTO = {
    "causal": "AutoModelForCausalLM",
    "masked": "AutoModelForMaskedLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "image-text": "AutoModelForZeroShotImageClassification",
}


def _used_alone(code: list[str]) -> list[str]:
    return (
        ["", "The classes' vectors label images by themselves (run in this folder):", "", "```python", *code, "```"]
        if code
        else []
    )


def _loading(scorer: Scorer, folder: Path, base: str) -> list[str]:
    """Code that loads with PEFT what of a run it can load, and what is to be known of a readout beside that.

    Args:
        scorer: the run's.
        folder: the adapter's, with all that was saved there.
        base: the base's name for others.
    """
    kind = _peft_type(folder)
    whole = (folder / "config.json").is_file()
    solved = (folder / FOLDER / "adapter_config.json").is_file()
    moves = solved and changes_weights(folder / FOLDER)
    reason = ""
    if solved and not (kind or whole or scorer.is_pretrained):
        reason = f"nor what it was solved at, {scorer.config.method.tunable.kind}"
    elif moves and kind not in ("", "LORA"):
        reason = f"beside an adapter of the type {kind}"
    adapters = [*(["adapter"] if kind else []), *([f"adapter/{FOLDER}"] if moves and not reason else [])]
    place = "adapter" if whole else base
    code = _snippet(scorer.config.model.name, place, scorer.backbone.kind, adapters) if adapters else []
    if reason:
        return [*code, "", f"The scores above are {not_in_peft(reason)}."]
    return [*code, *(_about_readout(moves) if solved else [])]


def _peft_type(folder: Path) -> str:
    """PEFT's name of the type of an adapter that lies in a folder; empty where none does."""
    path = folder / "adapter_config.json"
    return str(json.loads(path.read_text(encoding="utf-8"))["peft_type"]) if path.is_file() else ""


def _about_readout(moves: bool) -> list[str]:
    """What has to be done with a readout beside the adapter, which changes weights or shifts labels alone."""
    added = f"dd its `label_bias` (`{FOLDER}/readout.json`) to the label words' logits"
    if not moves:
        return ["", f"The scores above are those of a readout that shifts labels and changes no weights: a{added}."]
    return [
        "",
        f"The scores above are those of the readout in `{FOLDER}/`: rows of the output embedding, solved on the labelled rows. A{added}, "
        "and do not merge it into a model whose input and output embeddings are one.",
    ]


def not_in_peft(reason: str) -> str:
    """Whose the scores are where a readout is no adapter, and what to do.

    Args:
        reason: why it is none.
    """
    return f"those of a readout that PEFT cannot load ({reason}): ask the run with `tandemtune predict` or `tandemtune.load`"


def _snippet(given: str, place: str, kind: str, adapters: Sequence[str]) -> list[str]:
    """Lines of code that load adapters with PEFT alone; the very weights where the base came out of a package.

    Args:
        given: the recipe's model.
        place: what the adapters are put on: the base's name for others, or a folder of the run.
        kind: of the model.
        adapters: folders inside the run's, one or more.
    """
    first, *others = adapters
    packaged = given.startswith(assets.PREFIX) and place != "adapter"
    found = f'tandemtune.assets.fetch("{given}")' if packaged else json.dumps(place)
    named = [*(["default"] if others else []), *(Path(other).name for other in others)]
    return [
        "",
        "```python",
        *(["import tandemtune.assets"] if packaged else []),
        "import torch",
        "from peft import PeftModel",
        f"from transformers import {AUTO[kind]}, AutoTokenizer",
        "",
        f"base = {found}",
        f"model = {AUTO[kind]}.from_pretrained(base, dtype=torch.float32)  # in 16 bits, which may be its own, numbers differ",
        f'model = PeftModel.from_pretrained(model, "{first}")  # in the run folder',
        *(f'model.load_adapter("{other}", adapter_name="{Path(other).name}")' for other in others),
        *([f"model.base_model.set_adapter({json.dumps(named)})"] if named else []),
        "tokenizer = AutoTokenizer.from_pretrained(base)",
        "```",
    ]

"""A linear readout as an ordinary adapter: LoRA of one rank for each label on the output embedding."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tandemtune.models.backbone import Backbone
from tandemtune.models.layers import LayerStack
from tandemtune.readout.fitting import Readout
from tandemtune.tasks.verbalizers import Verbalizer
from tandemtune.tunables.lora import TASK_TYPES


def label_rows(stack: LayerStack, verbalizer: Verbalizer, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """The output embedding's row of each label and what is added to its logit, means over its words: [C, h] and [C], float64.

    Args:
        stack: the model.
        verbalizer: which words stand for which label.
        scale: what the model multiplies what its output embedding makes by (`logit_scale`).
    """
    averaging = torch.tensor(verbalizer.weights(), dtype=torch.float64)
    rows = stack.head.weight[stack.token_ids].detach().cpu().double()
    bias = torch.zeros(len(rows), dtype=torch.float64)
    if stack.head.bias is not None:
        bias = bias + scale * stack.head.bias[stack.token_ids].detach().cpu().double()
    extra = getattr(stack.model, "final_logits_bias", None)
    if isinstance(extra, Tensor):  # BART
        bias = bias + extra.flatten()[stack.token_ids].detach().cpu().double()
    return averaging.T @ rows, averaging.T @ bias


def factors(change: Tensor, verbalizer: Verbalizer, vocabulary: int) -> tuple[Tensor, Tensor]:
    """A correction of label rows as LoRA factors, as PEFT keeps them.

    Args:
        change: what is added to the rows of each label's words [C, h].
        verbalizer: which words stand for which label.
        vocabulary: rows of the output embedding.

    Returns:
        A [C, h] and B [vocabulary, C], float32; their product is what is added to the output embedding.
    """
    b = torch.zeros(vocabulary, len(change))
    for label, positions in enumerate(verbalizer.members):
        b[[verbalizer.token_ids[position] for position in positions], label] = 1.0
    return change.float().contiguous(), b


def save(
    readout: Readout,
    backbone: Backbone,
    stack: LayerStack,
    verbalizer: Verbalizer,
    folder: Path,
    scale: float,
    base: str | None = None,
) -> Tensor:
    """Write a PEFT LoRA adapter on the output embedding as it is now: with a point applied that changes it, what is added to that one.

    It is to be loaded beside the model, not merged: where input and output embeddings are one, a merge changes both. A model that
    bends its logits (Gemma 2) bends those that the adapter makes, too, so there the readout's own logits are nearly met.

    Args:
        readout: a linear readout of the answer view.
        backbone: the model.
        stack: its layers, which end in the label words.
        verbalizer: the label words.
        folder: where `adapter_config.json` and `adapter_model.safetensors` go.
        scale: what the model multiplies what its output embedding makes by (`logit_scale`, of the model without a point applied: a
            prompt may be longer than the text that it is measured on).
        base: name of the base model; the backbone's own if left out.

    Returns:
        What is left to be added to the label logits [C]: output embeddings of most models have no bias.

    Raises:
        DataError: the readout is no change of the output embedding.
    """
    rows, bias = label_rows(stack, verbalizer, scale)
    change, shift = readout.correction(rows, bias, scale)
    path = next(name for name, module in backbone.model.named_modules() if module is stack.head)
    a, b = factors(change, verbalizer, len(stack.head.weight))
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"base_model.model.{path}.lora_A.weight": a, f"base_model.model.{path}.lora_B.weight": b}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": TASK_TYPES.get(backbone.kind),
        "base_model_name_or_path": base or backbone.name,
        "inference_mode": True,
        "r": len(a),
        "lora_alpha": len(a),
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": [path],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return shift


def changes_weights(folder: Path) -> bool:
    """Whether an adapter that `save` wrote changes any weight; one of a readout that shifts labels alone does not."""
    tensors = load_file(folder / "adapter_model.safetensors")
    return any(bool(factor.any()) for name, factor in tensors.items() if name.endswith("lora_A.weight"))

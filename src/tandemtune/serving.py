"""Whether vLLM can serve an adapter, by the rules that its loader publishes (docs.vllm.ai: `vllm.lora.peft_helper`, `vllm.config.lora`)."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tandemtune.errors import UsageError
from tandemtune.models.backbone import Backbone
from tandemtune.models.linear import is_linear, sizes

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as max_lora_rank."""
_FAMILIES = (
    *("Cohere", "Cohere2", "Cwm", "DeepseekV2", "DeepseekV3", "Ernie4_5", "Exaone4", "FalconH1", "Gemma"),
    *("Gemma2", "Gemma3", "Glm", "Glm4", "Glm4Moe", "GPTBigCode", "GptOss", "Granite", "GraniteMoe"),
    *("GraniteMoeHybrid", "GraniteMoeShared", "HunYuanDenseV1", "Jamba", "Lfm2", "Llama", "MiniCPM3"),
    *("Mistral", "Mixtral", "Nemotron", "NemotronH", "Olmo", "Olmo2", "Olmo3", "OPT", "Phi", "Phi3", "Qwen2"),
    *("Qwen2Moe", "Qwen3", "Qwen3Moe", "Qwen3Next", "SeedOss", "SmolLM3", "Starcoder2"),
)
SERVED = frozenset(f"{name}ForCausalLM" for name in _FAMILIES)
"""Architectures whose adapters vLLM serves, as its list of supported models says (docs.vllm.ai: `models/supported_models`); others are not in this table."""
_UNKNOWN = (
    "Where its list of supported models has no adapters for it, it refuses to start; whole weights (`tandemtune export --merged`) are then "
    "served as any model."
)
_BEFORE, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


def for_vllm(
    adapter: Path,
    backbone: Backbone,
    name: str,
    rank: int = 0,
    tell: Callable[[str], None] | None = None,
    *,
    base: str = "BASE",
    revision: str | None = None,
) -> list[str]:
    """Make sure that vLLM can serve an adapter.

    Args:
        adapter: folder of a PEFT adapter; it is written anew where it is filled up.
        backbone: the model that it was made for.
        name: what it will be called.
        rank: fill it up with zeros to this rank, so that adapters of one server have one; 0 leaves it as it is.
        tell: told what could not be checked.
        base: the model as the server finds it: its name on the hub, or a folder as seen from the one that holds the adapter.
        revision: of the model on the hub, where it is known.

    Returns:
        Lines of Markdown on how to serve it.

    Raises:
        UsageError: vLLM would refuse it; names every reason.
    """
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    tensors = load_file(adapter / "adapter_model.safetensors") if config["peft_type"] == "LORA" else {}
    problems = [*_settings(config, backbone.kind, rank), *_names(tensors, backbone.model, int(config.get("r") or 0))]
    if problems:
        raise UsageError("vLLM would refuse the adapter: " + "; ".join(problems))
    if rank > config["r"]:
        tensors = {key: _filled(key, tensor, rank) for key, tensor in tensors.items()}
        config = {**config, "r": rank, "lora_alpha": config["lora_alpha"] / config["r"] * rank}
        save_file(tensors, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
        (adapter / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    named = getattr(backbone.model.config, "architectures", None) or [type(backbone.model).__name__]
    known = SERVED.intersection(named)
    unsure = f"Not checked: whether vLLM serves adapters of {named[0]} at all."
    if tell is not None and not known:
        tell(f"{unsure} {_UNKNOWN}")
    least = next(size for size in RANKS if size >= config["r"])
    command = ["vllm", "serve", base, *(["--revision", revision] if revision else []), "--generation-config", "vllm"]
    command += ["--enable-lora", "--max-lora-rank", str(least), "--lora-modules", f"{name}={adapter.name}"]
    return [
        f"With vLLM (checked against the rules of its loader: rank {config['r']}, {len(tensors) // 2} modules that the model has, no "
        f"biases, no whole modules{f'; its documentation lists {named[0]} with adapters' if known else ''}):",
        "",
        *([] if known else [f"**{unsure}** {_UNKNOWN}", ""]),
        "In this folder (`--generation-config vllm` leaves out what the model's generation_config.json says of writing, as the run did):",
        "",
        "```sh",
        shlex.join(command),
        "```",
        "",
    ]


def _settings(config: dict[str, Any], kind: str, rank: int) -> list[str]:
    """What is wrong with an adapter's settings."""
    if config["peft_type"] != "LORA":
        return [f"it is {config['peft_type']}, expected LORA (a tuned prompt: `tandemtune embeds`)"]
    found = []
    if kind != "causal":
        found.append(f"its model is {kind}; adapters are served for causal models only")
    if config.get("bias", "none") != "none":
        found.append(f"bias is {config['bias']}, expected none")
    if config.get("modules_to_save"):
        found.append(f"modules_to_save holds {', '.join(config['modules_to_save'])}, expected none")
    if config.get("use_rslora") and rank > config["r"]:
        found.append(f"its scale goes by the root of its rank (use_rslora), so it cannot be filled up to rank {rank}")
    patterns = [key for key in ("rank_pattern", "alpha_pattern") if config.get(key)]
    if patterns:
        found.append(f"{' and '.join(patterns)} give modules ranks or scales of their own, expected none")
    if config.get("use_dora"):
        found.append("DoRA is not served")
    if config["r"] > RANKS[-1]:
        found.append(f"its rank is {config['r']}, at most {RANKS[-1]} is served")
    if rank and (rank not in RANKS or rank < config["r"]):
        served = ", ".join(str(size) for size in RANKS if size >= config["r"])
        found.append(f"rank {rank}: expected one of {served}")
    return found


def _names(tensors: dict[str, Tensor], model: nn.Module, rank: int) -> list[str]:
    """What is wrong with names and shapes of an adapter's tensors."""
    modules, found = dict(model.named_modules()), []
    for key, tensor in tensors.items():
        ending = next((one for one in (_A, _B) if key.endswith(one)), None)
        module = modules.get(key.removeprefix(_BEFORE).removesuffix(ending or ""))
        if ending is None or module is None or not is_linear(module):
            found.append(f"{key} is no factor of a module that the model has")
            continue
        inner, outer = sizes(module)
        expected = (rank, inner) if ending == _A else (outer, rank)
        if tuple(tensor.shape) != expected:
            found.append(f"{key} is {tuple(tensor.shape)}, expected {expected}")
    lonely = {key.removesuffix(_A) for key in tensors if key.endswith(_A)} ^ {
        key.removesuffix(_B) for key in tensors if key.endswith(_B)
    }
    return [*found, *(f"{name} has one factor of two" for name in sorted(lonely))]


def _filled(key: str, tensor: Tensor, rank: int) -> Tensor:
    """A factor with zeros up to a rank."""
    wider = torch.zeros(rank, tensor.shape[1]) if key.endswith(_A) else torch.zeros(tensor.shape[0], rank)
    wider[: tensor.shape[0], : tensor.shape[1]] = tensor
    return wider.to(tensor.dtype).contiguous()

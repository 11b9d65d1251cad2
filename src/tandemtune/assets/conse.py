"""An image classifier, its class names and a sentence encoder to one folder: CLIP-like (ConSE).

The work runs in a child process, like the conversion of GGUF files: its memory goes away with it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tandemtune.errors import AssetError

TEMPLATE = "a photo of a {}"
"""What the sentence encoder is given for each class of the classifier."""
SCALE, TOP = 20.0, 20
"""What cosines are multiplied by, since towers that were not trained together do not say it; classes that make an image's vector."""
TOWER, CLASSES = "efficientnet-lite0.pth", "classes.json"
TEXT = ("text_config.json", "text.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_CHILD = "import sys; from pathlib import Path; from tandemtune.assets.conse import write_folder; write_folder(*map(Path, sys.argv[1:]))"


def join(raw: Path, made: Path) -> None:
    """Make the folder of the joined model out of its parts, in a child process and offline.

    Args:
        raw: folder of the members: `TOWER`, `CLASSES` and `TEXT`.
        made: an existing folder to write to.

    Raises:
        AssetError: a part is damaged or does not fit the others.
    """
    root = str(Path(__file__).resolve().parents[2])
    search = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    child = subprocess.run(
        [sys.executable, "-P", "-c", _CHILD, str(raw), str(made)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONPATH": search},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if child.returncode:
        tail = "\n".join(child.stderr.strip().splitlines()[-4:])
        raise AssetError(f"the two towers could not be joined; the converter said:\n{tail}")


def write_folder(raw: Path, out: Path) -> None:
    """Join the towers and write them as the folder of a `tandemtune.models.conse.ConSEModel` (in this process).

    Args:
        raw: folder of the members.
        out: folder to write to.
    """
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    names = json.loads((raw / CLASSES).read_text(encoding="utf-8"))
    settings = json.loads((raw / TEXT[0]).read_text(encoding="utf-8"))
    reader = BertModel(BertConfig(**settings), add_pooling_layer=False).eval()
    lost = reader.load_state_dict(load_file(raw / TEXT[1]), strict=False).missing_keys
    seer = torch.load(raw / TOWER, weights_only=True)
    if lost or len(names) != len(seer["_fc.bias"]):
        raise AssetError(
            f"{len(names)} class names for {len(seer['_fc.bias'])} classes, no weights for {lost}: they do not fit"
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(raw / TEXT[2]),
        **{f"{what}_token": f"[{what.upper()}]" for what in ("unk", "sep", "pad", "cls", "mask")},
        model_max_length=settings["max_position_embeddings"],
    )
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    tensors = {
        **{f"vision_model.{name}": tensor for name, tensor in seer.items()},
        **{f"text_model.{name}": tensor for name, tensor in reader.state_dict().items()},
        "logit_scale": torch.tensor(SCALE).log(),
        "anchors": _embedded(reader, tokenizer, [TEMPLATE.format(name) for name in names]),
    }
    save_file({k: v.contiguous() for k, v in tensors.items()}, out / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(out)
    text = {**settings, "dtype": "float32"}
    _write(
        out / "config.json",
        {"architectures": ["ConSEModel"], "model_type": "conse", "top": TOP, "text_config": text, "dtype": "float32"},
    )
    _write(
        out / "preprocessor_config.json",
        {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": 224},
            "resample": 3,
            "do_center_crop": True,
            "crop_size": {"height": 224, "width": 224},
            "do_rescale": False,
            "do_normalize": True,
            "image_mean": [127.0] * 3,
            "image_std": [128.0] * 3,
            "do_convert_rgb": True,
        },
    )


def _embedded(reader: Any, tokenizer: Any, texts: Sequence[str]) -> Any:
    """Sentence embeddings [n, h] of length one: the mean of a text's hidden states."""
    import torch
    from torch.nn import functional

    found = []
    with torch.inference_mode():
        for first in range(0, len(texts), 50):
            given = tokenizer(list(texts[first : first + 50]), padding=True, return_tensors="pt")
            weights = given["attention_mask"].unsqueeze(2).float()
            hidden = reader(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).last_hidden_state
            found.append(functional.normalize((hidden * weights).sum(dim=1) / weights.sum(dim=1), dim=-1))
    return torch.cat(found).clone()


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

"""What the zero-shot accuracy of CLIP-like (ConSE) owes to how the 1,000 classes of its image classifier are called, and to the template.

    python benchmarks/image_names.py FOLDER [--names NAMES.json]

FOLDER has `test` with a folder for each class; NAMES.json is a list of 1,000 names in ImageNet's order (torchvision's, say).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from tandemtune.assets.conse import TEMPLATE
from tandemtune.models.feature_store import FeatureStore
from tandemtune.models.image_text import ImageTextBackbone
from tandemtune.models.load import load
from tandemtune.tasks.images import class_names, folder_rows

TEMPLATES = ("a photo of a {}.", "a photo of a {}", "a picture of a {}.", "a {}", "{}")
AT_ONCE = 50


def embedded(backbone: ImageTextBackbone, texts: Sequence[str]) -> Tensor:
    """Vectors [n, h] of texts, of length one."""
    found = []
    for first in range(0, len(texts), AT_ONCE):
        given = backbone.tokenizer(list(texts[first : first + AT_ONCE]), padding=True, return_tensors="pt")
        told = {key: given[key] for key in ("input_ids", "attention_mask")}
        found.append(functional.normalize(backbone.whole.get_text_features(**told).pooler_output, dim=-1))
    return torch.cat(found)


@torch.inference_mode()
def main() -> None:
    """Print a row for each template."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--names", type=Path, help="other names of the 1,000 classes")
    given = parser.parse_args()
    torch.set_num_threads(1)
    backbone = cast(ImageTextBackbone, load("pypi:clip-like-conse"))
    names = class_names(given.folder / "test")
    rows = folder_rows(given.folder / "test", "image", list(names))
    gold = torch.tensor([list(names).index(str(row.label)) for row in rows])
    whole: Any = backbone.whole
    both = FeatureStore(backbone, print).of([row.fields["image"] for row in rows], pooled=True)
    likely = torch.softmax(whole.vision_model.classes(both[:, whole.config.text_config.hidden_size :]), dim=-1)
    best = likely.topk(whole.config.top, dim=-1)
    anchors = {"its own names": whole.anchors}
    if given.names:
        other = json.loads(given.names.read_text(encoding="utf-8"))
        anchors[given.names.name] = embedded(backbone, [TEMPLATE.format(name) for name in other])
    print(f"| template | {' | '.join(anchors)} |\n|---|{'---|' * len(anchors)}")
    for template in TEMPLATES:
        classes = embedded(backbone, [template.format(name) for name in names.values()])
        scores = []
        for table in anchors.values():
            vectors = (best.values.unsqueeze(2) * table[best.indices]).sum(dim=1)
            said = (functional.normalize(vectors, dim=-1) @ classes.T).argmax(dim=-1)
            scores.append(f"{float((said == gold).float().mean()):.3f}")
        print(f"| `{template}` | {' | '.join(scores)} |")


if __name__ == "__main__":
    main()

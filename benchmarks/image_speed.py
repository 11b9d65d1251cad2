"""What it is worth that images go through an image-text model once: processor time of a candidate, against the whole model for each.

python benchmarks/image_speed.py                 # CLIP-like (ConSE), and a CLIP ViT-B/32 with random weights
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from tandemtune.evaluators.batch import collate
from tandemtune.evaluators.image_text import ClassTexts, ImageBatch, ImageTextEngine
from tandemtune.models.image_text import ImageTextBackbone, assembled
from tandemtune.models.load import load
from tandemtune.system import peak_rss_mb
from tandemtune.tunables.base import INPUT
from tandemtune.tunables.prompt import Prompt

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TIMED = 8
"""Images whose time is measured; others take as long."""


def clip_b32() -> ImageTextBackbone:
    """A CLIP of that size with random weights, and the tokenizer of CLIP-like (ConSE): only times are of interest."""
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = load("pypi:clip-like-conse").tokenizer
    ends = {"eos_token_id": tokenizer.sep_token_id, "bos_token_id": tokenizer.cls_token_id, "pad_token_id": 0}
    model = CLIPModel(CLIPConfig(text_config=ends)).eval().requires_grad_(False)
    return assembled("CLIP ViT-B/32, random weights", model, tokenizer, CLIPImageProcessorPil())


def seconds(work: Callable[[], Any], repeats: int = 3) -> float:
    """Least processor time of some tries."""
    found = []
    for _ in range(repeats):
        begin = time.process_time()
        work()
        found.append(time.process_time() - begin)
    return min(found)


def measure(backbone: ImageTextBackbone, images: int, popsize: int) -> None:
    """Print a row for one model."""
    length = 8
    start = torch.randn(length, backbone.embedding_weight.shape[1]) * float(backbone.embedding_weight.std())
    prompt = Prompt(backbone, length, start)
    prompts = prompt.reserve_each([backbone.encode_text(f"{name}.", length) for name in CLASSES], range(len(CLASSES)))
    texts = ClassTexts(collate(prompts, range(len(CLASSES)), torch.device("cpu")), len(CLASSES))
    engine = ImageTextEngine(backbone.stack(None), prompt, backbone.scale)  # type: ignore[arg-type]
    pictures = [Image.new("RGB", (224, 224), (9 * n, 120, 200)) for n in range(TIMED)]
    vectors, _ = backbone.image_features(pictures)
    batch = ImageBatch.of(vectors.repeat(images // TIMED, 1), [0] * (images // TIMED * TIMED), texts)
    point = prompt.initial()
    candidates = {INPUT: point[INPUT] + 0.01 * torch.randn(popsize, len(point[INPUT]))}
    looking = seconds(lambda: backbone.image_features(pictures)) / TIMED * images
    alone = seconds(lambda: engine.logits(batch, point))
    together = seconds(lambda: engine.population_logits(batch, point, candidates)) / popsize
    print(
        f"| {backbone.name} | {looking + alone:.2f} | {alone:.3f} | {together:.3f} | {1 / together:.1f} | {(looking + alone) / together:.0f} | "
        f"{peak_rss_mb():,.0f} |"
    )


def main() -> None:
    """Measure both models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=160, help="training images")
    parser.add_argument("--popsize", type=int, default=20, help="candidates of a generation")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(
        f"{given.images} images, {len(CLASSES)} classes, {given.popsize} candidates, float32, one thread; processor seconds\n"
    )
    print(
        "| model | whole model for each | text tower alone | in a population | candidates a second | ratio | peak MB |"
    )
    print("|---|---|---|---|---|---|---|")
    measure(load("pypi:clip-like-conse"), given.images, given.popsize)  # type: ignore[arg-type]
    measure(clip_b32(), given.images, given.popsize)


if __name__ == "__main__":
    main()

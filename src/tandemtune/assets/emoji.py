"""Emoji pictures by what they show: a folder for each class, drawn in one style for training and in another for test."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tandemtune.errors import AssetError

LIST, TRAIN, TEST = "emoji.json", "train-pictures", "test-pictures"
"""The list of all emojis, and folders of their pictures in two styles."""
CLASSES = {
    "bird": ("animal-bird",),
    "building": ("place-building",),
    "clock": ("time",),
    "clothing": ("clothing",),
    "dish": ("food-prepared", "food-asian"),
    "drink": ("drink",),
    "face": (
        "face-affection",
        "face-concerned",
        "face-hand",
        "face-neutral-skeptical",
        "face-sleepy",
        "face-smiling",
        "face-tongue",
        "face-unwell",
    ),
    "fruit": ("food-fruit",),
    "hand": ("hand-fingers-closed", "hand-fingers-open", "hand-fingers-partial", "hand-single-finger", "hands"),
    "heart": ("heart",),
    "mammal": ("animal-mammal",),
    "person": ("person-role",),
    "plant": ("plant-flower", "plant-other"),
    "sport": ("sport",),
    "tool": ("tool",),
    "vehicle": ("transport-air", "transport-ground", "transport-water"),
}
"""Classes, and Unicode's names of the groups of emojis that they are made of: those with 20 pictures and more."""
FEWEST = 20


def build(raw: Path, made: Path) -> None:
    """Write ``train/CLASS/*.png`` and ``test/CLASS/*.png``: the same emojis, those that there are in both styles, by two hands.

    Args:
        raw: folder of the members: `LIST`, `TRAIN` and `TEST`.
        made: an existing folder to write to.

    Raises:
        AssetError: the list is not of the expected form, or a class has too few pictures.
    """
    for name, groups in CLASSES.items():
        pictures = [
            picture
            for picture in _pictures(raw / LIST, groups)
            if (raw / TRAIN / picture).is_file() and (raw / TEST / picture).is_file()
        ]
        if len(pictures) < FEWEST:
            raise AssetError(
                f"expected {FEWEST} pictures of the class {name} in both styles at least, found {len(pictures)}"
            )
        for source, part in ((TRAIN, "train"), (TEST, "test")):
            folder = made / part / name
            folder.mkdir(parents=True)
            for picture in pictures:
                (raw / source / picture).rename(folder / picture)


def _pictures(source: Path, groups: tuple[str, ...]) -> Iterator[str]:
    """Names of the pictures of some groups."""
    try:
        rows = json.loads(source.read_text(encoding="utf-8"))
        for row in rows:
            if row["subcategory"] in groups:
                yield str(row["image"])
    except (ValueError, LookupError, TypeError) as error:
        raise AssetError(
            f"{source.name}: expected a list of emojis with a subcategory and an image each ({error!r})"
        ) from error

"""The scorer of images: rows are vectors that are computed once, prompts are the class texts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor

from tandemtune.assets import PREFIX
from tandemtune.assets.workspace import kept_images
from tandemtune.devices import exact
from tandemtune.errors import DataError, ModelError
from tandemtune.evaluators.batch import Batch, collate
from tandemtune.evaluators.image_text import ClassTexts, ImageBatch, ImageTextEngine, ImageTextEvaluator
from tandemtune.evaluators.label_words import LabelWordEvaluator, calibrate
from tandemtune.evaluators.views import TOWER
from tandemtune.models.feature_store import FeatureStore
from tandemtune.models.image_text import ImageTextBackbone
from tandemtune.models.naming import base_name
from tandemtune.problem import Scorer
from tandemtune.readout.design import centred
from tandemtune.runs.records import DIGITS, UnseenClasses
from tandemtune.tasks import metrics
from tandemtune.tasks.image_files import with_files
from tandemtune.tasks.images import ImageTask, class_text, image_table
from tandemtune.tasks.pictures import flat
from tandemtune.tasks.table import Table, read_table
from tandemtune.tasks.verbalizers import Verbalizer
from tandemtune.tunables.base import INPUT, Parameters, Point
from tandemtune.tunables.vocabulary import Words
from tandemtune.types import Encoded, Example

CLASSES = "classes"
"""Files of the classes' vectors and names beside an adapter."""
CONFUSED = 5
"""Pairs of classes that a mentor is told of."""
SHADES = (0, 127, 255)
"""Images without content: black, grey and white."""


class ImageScorer(Scorer):
    """An image-text model that can be asked: which class text is an image like?"""

    evaluator: ClassVar[type[LabelWordEvaluator]] = ImageTextEvaluator
    _has_texts = False  # whether `save_beside` wrote texts that stand for the classes
    inputs: ClassVar[tuple[type, ...]] = (object,)  # a path, or a picture

    @staticmethod
    def verbalizer_of(backbone: ImageTextBackbone, task: ImageTask) -> Verbalizer:
        """The tokens of the classes' names: a shared prompt of words may not hold them."""
        ids: dict[int, int] = {}
        members = []
        for words in task.words.values():
            pieces = [
                piece for word in words for piece in backbone.tokenizer(word, add_special_tokens=False)["input_ids"]
            ]
            members.append(tuple(dict.fromkeys(ids.setdefault(int(piece), len(ids)) for piece in pieces)))
        return Verbalizer(tuple(task.words), tuple(ids), tuple(members))

    @staticmethod
    def engine_of(
        backbone: ImageTextBackbone, verbalizer: Verbalizer, parameters: Parameters, max_memory: float
    ) -> ImageTextEngine:
        """The text tower, and the likeness to images."""
        return ImageTextEngine(backbone.stack(verbalizer), parameters, backbone.scale, max_memory)

    @cached_property
    def store(self) -> FeatureStore:
        """The images' vectors.

        Raises:
            ModelError: the model has no image tower.
        """
        if not isinstance(self.backbone, ImageTextBackbone):
            raise ModelError(f"{self.backbone.name} has no image tower")
        return FeatureStore(self.backbone, self.tell)

    def texts(self, plain: bool = False) -> ClassTexts:
        """The class prompts: with room for what the parameters put before a class's name, in place of the template's words there;
        whole templates where they put nothing, or for the pretrained model."""
        key = "_plain_texts" if plain else "_own_texts"
        if key not in self.__dict__:
            self.__dict__[key] = self._made_texts(plain, self.task.words)
        made: ClassTexts = self.__dict__[key]
        return made

    def encoded(self, examples: Sequence[Example], plain: bool = False) -> tuple[list[Any], list[int]]:
        """Vectors of images, and labels (-1 where unknown)."""
        labels = [-1 if e.label is None else self.task.label_index(e.label) for e in examples]
        column = self.task.template.fields[0]
        return list(self.store.of([example.fields[column] for example in examples], self._reads_tower)), labels

    def batch(self, examples: Sequence[Example], plain: bool = False) -> Batch:
        """Labelled or unlabelled images beside the class prompts; `plain` beside those of the pretrained model."""
        return self._beside(*self.encoded(examples), self.texts(plain))

    def apart(self, prompts: Sequence[Any], labels: Sequence[int]) -> Batch:
        """Images beside the class prompts."""
        return self._beside(prompts, labels, self.texts())

    def together(self, prompts: Sequence[Any], labels: Sequence[int]) -> Batch:
        """Images beside the class prompts."""
        return self._beside(prompts, labels, self.texts())

    def content_free(self, plain: bool = False, apart: bool = False) -> Batch:
        """Pictures of one shade."""
        return self._beside(list(self._flat), [-1] * len(SHADES), self.texts(plain))

    def unseen(self, point: Point, before: float | None, behind: float | None) -> UnseenClasses | None:
        """Scores among the classes that were left out of the task (base-to-new, arXiv 2203.05557)."""
        task: Any = self.task
        if not task.unseen:
            return None
        rows = task.unseen_rows(self.config.task.test_rows, self.config.task.seed)
        labels = tuple(task.unseen)
        vectors = self.store.of([row.fields[task.template.fields[0]] for row in rows])
        gold = [labels.index(row.label) for row in rows]

        def score(plain: bool, where: Point) -> float:
            texts = self._made_texts(plain, task.unseen)
            logits = self.engine.logits(ImageBatch.of(vectors, gold, texts), where)
            if self.calibrates and not plain:  # as among the classes that it was tuned on
                empty = self._beside(list(self._flat), [-1] * len(SHADES), texts)
                logits = calibrate(logits, self.engine.logits(empty, where))
            said = logits.argmax(dim=-1).tolist()
            metric = metrics.get(task.metric) if task.own_metric is None else task.own_metric
            return round(metric(said, gold, labels, None), DIGITS)

        first, last = score(True, {}), score(self.is_pretrained, point)
        return UnseenClasses(
            labels=labels,
            rows=len(rows),
            zero_shot=first,
            tuned=last,
            harmonic_zero_shot=_harmonic(first, before),
            harmonic=_harmonic(last, behind),
        )

    def table(self, source: Any) -> Table:
        """Images to be labelled: all of a folder, or those that a table names by paths from its folder on or from the root."""
        column = self.task.template.fields[0]
        if not isinstance(source, str | Path):
            return with_files(read_table(source), column, Path(), kept_images())
        root = Path(source)
        if root.is_dir():
            return image_table(root, column)
        return with_files(read_table(source), column, root.parent, kept_images())

    def classifier(self, point: Point) -> dict[str, Tensor]:
        """What labels images, at the run's temperature: an image's logits are its vector times "weight" [C, D], plus "bias" [C] and, where
        a readout reads that, what the image tower pools times "pooled_weight" [C, T]. All float32.

        Raises:
            DataError: the readout is not linear in these.
        """
        engine: Any = self.engine
        weight = self.backbone.scale * exact(engine.classes(self.texts(), point))  # type: ignore[attr-defined]
        bias = torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
        pooled: dict[str, Tensor] = {}
        if self.readout is not None:
            maps = dict(zip(self.readout.views, self.readout.readout.features, strict=True))
            if TOWER in maps:
                pooled["pooled_weight"] = centred(maps.pop(TOWER)).mT
            added, bias = replace(self.readout.readout, features=tuple(maps.values())).correction(weight)
            weight = weight + added
        elif self.calibrates:
            free = exact(engine.logits(self.content_free(), point))
            bias = -torch.softmax(free, dim=-1).mean(dim=0).log()
        found = {"weight": weight, "bias": bias, **pooled}
        return {name: (tensor / self.temperature).float().cpu().contiguous() for name, tensor in found.items()}

    @property
    def only_here(self) -> str:
        """As for texts, but the classes' vectors hold a readout that is linear in what the tower gives."""
        return "" if self.readout is None else replace(self.readout.readout, features=()).no_correction

    def save_beside(self, point: Point, folder: Path) -> None:
        """Write the classes' vectors, so that nothing but the image tower is needed to label images; nothing where a readout is not
        linear in what the tower gives."""
        try:
            tensors = self.classifier(point)
        except DataError:
            return
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / f"{CLASSES}.safetensors", metadata={"format": "pt"})
        told = {
            "base_model": base_name(self.config.model.name).name,
            "labels": list(self.task.labels),
            "templates": [str(template) for template in self.task.templates],  # type: ignore[attr-defined]
            "words": {label: list(words) for label, words in self.task.words.items()},
            "prompt": None if (words := self._words(point)) is None else words.text,
            "scale": self.backbone.scale / self.temperature,  # type: ignore[attr-defined]
            "texts": self._class_texts(words),
        }
        self._has_texts = told["texts"] is not None and self.readout is None
        (folder / f"{CLASSES}.json").write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def snippet(self, base: str) -> list[str]:
        """Code that labels an image with `transformers` and the classes' vectors alone."""
        packaged, place = base.startswith(PREFIX), json.dumps(base)
        revision = self.config.model.revision or base_name(self.config.model.name).revision
        given = f"base, revision={json.dumps(revision)}" if revision else "base"
        pooled = self.readout is not None and TOWER in self.readout.views
        tower = ['    pooled = model.vision_model(pixel_values=given["pixel_values"]).pooler_output'] if pooled else []
        more = ' + pooled @ classes["pooled_weight"].T' if pooled else ""
        own = ["from tandemtune.models import conse"] if self._own_form else []
        return [
            "import json",
            "",
            "import torch",
            "from PIL import Image, ImageOps",
            "from safetensors.torch import load_file",
            *(["from tandemtune import assets"] if packaged else []),
            *own,
            "from transformers import AutoImageProcessor, AutoModelForZeroShotImageClassification",
            "",
            *(["conse.register()"] if own else []),
            f"base = assets.fetch({place})" if packaged else f"base = {place}",
            f'told = json.load(open("{CLASSES}.json", encoding="utf-8"))',
            f'classes = load_file("{CLASSES}.safetensors")',
            f"processor = AutoImageProcessor.from_pretrained({given})",
            f"model = AutoModelForZeroShotImageClassification.from_pretrained({given})",
            "",
            'image = ImageOps.exif_transpose(Image.open("picture.png")).convert("RGB")',
            'given = processor(images=image, return_tensors="pt")',
            "with torch.inference_mode():",
            "    found = model.get_image_features(**given)",
            *tower,
            'vector = torch.nn.functional.normalize(getattr(found, "pooler_output", found), dim=-1)',
            f'logits = vector @ classes["weight"].T{more} + classes["bias"]',
            "probabilities = logits.softmax(dim=-1)[0].tolist()",
            'print(dict(zip(told["labels"], probabilities)))',
            *(self._from_texts(given) if self._has_texts else []),
        ]

    def _from_texts(self, given: str) -> list[str]:
        """Code behind the snippet that makes the classes' vectors out of their texts."""
        filled: Any = self.backbone.filled  # type: ignore[attr-defined]
        more = f', padding="max_length", max_length={filled}' if filled else ""
        return [
            "",
            "# the weights again, from the classes' texts",
            "from transformers import AutoTokenizer",
            "",
            f"tokenizer = AutoTokenizer.from_pretrained({given})",
            "weights = []",
            'for texts in told["texts"].values():',
            "    with torch.inference_mode():",
            f'        ids = [tokenizer(text, return_tensors="pt"{more})["input_ids"] for text in texts]',
            "        found = [model.get_text_features(input_ids=each) for each in ids]",
            '    vectors = [torch.nn.functional.normalize(getattr(f, "pooler_output", f), dim=-1) for f in found]',
            "    weights.append(torch.nn.functional.normalize(torch.cat(vectors).mean(dim=0), dim=-1))",
            'weight = told["scale"] * torch.stack(weights)',
        ]

    @property
    def _own_form(self) -> bool:
        whole: Any = self.backbone.whole  # type: ignore[attr-defined]
        return bool(whole.config.model_type == "conse")

    def _words(self, point: Point) -> Words | None:
        """The prompt before the classes' names, where it is words, the same for all of them."""
        width = int(self.backbone.embedding_weight.shape[1])
        if INPUT not in point or len(point[INPUT]) != self._room * width:
            return None
        try:
            return self.vocabulary.exact(point[INPUT].reshape(-1, width))
        except (ValueError, RuntimeError):
            return None

    def _class_texts(self, prompt: Words | None) -> dict[str, list[str]] | None:
        """The texts that stand for each class, in the base model as it is; None where what was tuned is no words or more than these, or
        words that a tokenizer reads otherwise."""
        backbone: Any = self.backbone
        if not self.is_pretrained and (prompt is None or self.parameters.blocks != (INPUT,)):
            return None
        texts: dict[str, list[str]] = {}
        for template in self.task.templates:  # type: ignore[attr-defined]
            for label, names in self.task.words.items():
                for name in names:
                    before, behind = class_text(template, name)
                    text = f"{before if prompt is None else prompt.text} {behind}".strip()
                    texts.setdefault(label, []).append(text)
                    if prompt is None:
                        continue
                    room, place = len(prompt.ids), backbone.prompt_place
                    meant = backbone.encode_text(behind, room).ids
                    if backbone.encode_text(text, 0).ids != (*meant[:place], *prompt.ids, *meant[place:]):
                        return None
        return {label: list(dict.fromkeys(several)) for label, several in texts.items()}

    def definition(self, train: Batch) -> str:
        """The classes, and those that are taken for one another where the search begins."""
        labels = self.task.labels
        said = self.engine.logits(train, self.parameters.initial()).argmax(dim=-1).tolist()
        pairs = Counter(
            (gold, answer) for gold, answer in zip(train.labels.tolist(), said, strict=True) if gold != answer
        )
        often = [
            f"{labels[gold]} for {labels[answer]} ({count})" for (gold, answer), count in pairs.most_common(CONFUSED)
        ]
        return (
            f"Find the words that fit photos of {', '.join(labels)} best. A photo gets the class whose text, the words with the "
            f"class's name behind them, is most like it.{' Now taken for another: ' + ', '.join(often) + '.' if often else ''}"
        )

    @property
    def usage(self) -> str:
        """How a prompt stands before a class's name."""
        _, behind = class_text(self.task.template, "[ANSWER]")
        return f"[PROMPT] {behind}"

    def plain_prompt(self, example: Example) -> Encoded:
        """The first class text."""
        group = self.texts(plain=True).batch.groups[0]
        return Encoded(tuple(group.ids[0].tolist()), int(group.answer[0]))

    def cut(self, examples: Sequence[Example]) -> list[int]:
        """No image is cut; all are read, so that a broken one is told now."""
        self.encoded(examples)
        return []

    @cached_property
    def _flat(self) -> Tensor:
        return self.store.of([flat(shade) for shade in SHADES], self._reads_tower)

    @cached_property
    def _reads_tower(self) -> bool:
        """Whether a readout may read what the image tower pools: rows then hold that behind their vectors."""
        return TOWER in self.config.method.readout.seen(self.engine.further_views)

    @property
    def _room(self) -> int:
        """Places that the parameters put before a class's name."""
        return len(self.parameters.reserve(Encoded((0,), 0)).ids) - 1

    def _beside(self, rows: Sequence[Tensor], labels: Sequence[int], texts: ClassTexts) -> ImageBatch:
        width = len(self.engine.stack.token_ids)
        stacked = torch.stack(list(rows)) if len(rows) else torch.empty(0, width, device=self.backbone.device)
        return ImageBatch.of(stacked[:, :width], labels, texts, stacked[:, width:])

    def _made_texts(self, plain: bool, words: Mapping[str, Sequence[str]]) -> ClassTexts:
        backbone: Any = self.backbone
        task: Any = self.task
        room = 0 if plain else self._room
        found: dict[tuple[int, str], Encoded] = {}
        for template in task.templates:
            for number, names in enumerate(words.values()):
                for word in names:
                    before, behind = class_text(template, word)
                    text = behind if room else f"{before} {behind}".strip()
                    found[number, text] = backbone.encode_text(text, room)
        owners = [number for number, _ in found]
        prompts = list(found.values()) if plain else self.parameters.reserve_each(list(found.values()), owners)
        return ClassTexts(collate(prompts, owners, backbone.device), len(words))


def _harmonic(one: float, other: float | None) -> float | None:
    return None if other is None else round(2 * one * other / (one + other), DIGITS) if one + other else 0.0

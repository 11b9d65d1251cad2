"""Labels of images: the class whose text an image is most like."""

from __future__ import annotations

from typing import Any, ClassVar

from tandemtune.answers.labels import LabelAnswers
from tandemtune.evaluators.engine import Engine
from tandemtune.evaluators.image_text import ImageTextEngine
from tandemtune.image_scorer import ImageScorer
from tandemtune.problem import Scorer
from tandemtune.tasks.verbalizers import Verbalizer
from tandemtune.tunables.base import Parameters


class ImageAnswers(LabelAnswers):
    """The likenesses of an image to the texts of a few classes."""

    scorer: ClassVar[type[Scorer]] = ImageScorer
    engine_type: ClassVar[type[Engine]] = ImageTextEngine
    most_judged: ClassVar[int] = 0
    unjudged: ClassVar[str] = (
        "none of them is chosen: a class of images is the mean of its names in all templates of the recipe"
    )
    use: ClassVar[tuple[str, str]] = ("label images", "images")

    def verbalizer(self, backbone: Any, task: Any) -> Verbalizer:
        """The tokens of the classes' names."""
        return ImageScorer.verbalizer_of(backbone, task)

    def engine(
        self, backbone: Any, task: Any, verbalizer: Verbalizer, parameters: Parameters, max_memory: float
    ) -> Engine:
        """The text tower, and the likeness to images."""
        return ImageScorer.engine_of(backbone, verbalizer, parameters, max_memory)

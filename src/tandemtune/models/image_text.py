"""Image-text models of `transformers` (CLIP, SigLIP and their like) as they are: two towers, each used for itself.

The text tower is given the form of a language model whose "output embedding" is the tower's last linear map and whose
"answer" is read where the tower pools its text. So everything that tunes and runs language models layer by layer does so here.
Where a tower pools is found out by comparing with its own `get_text_features`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from tandemtune.errors import DataError, ModelError
from tandemtune.models import architectures, faults
from tandemtune.models.backbone import Backbone
from tandemtune.models.fingerprint import fingerprint
from tandemtune.models.layers import LayerStack
from tandemtune.models.precision import mix
from tandemtune.models.quiet import quiet
from tandemtune.tasks.templates import Template
from tandemtune.tasks.verbalizers import Verbalizer
from tandemtune.types import Encoded

if TYPE_CHECKING:
    from PIL.Image import Image

Pooling = Literal["last", "first", "mean"]
TRIAL = "a photo of a dog"
CLOSE = 1e-4
AT_ONCE = 32
"""Images that go through an accelerator together; always so many, so that an image's vector does not depend on its neighbours."""


class RunningMean(nn.Module):
    """The mean of the hidden states so far: at a text's last token the mean of the whole text."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Means [n, T, h] of states [n, T, h]."""
        counts = torch.arange(1, hidden.shape[1] + 1, device=hidden.device, dtype=torch.float32)
        return (hidden.float().cumsum(dim=1) / counts[:, None]).to(hidden.dtype)


class TextTower(nn.Module):
    """The text half of an image-text model in the form of a language model.

    Args:
        whole: the image-text model; its modules are shared, not copied.
        pooling: where it pools its text.
        projection: its last linear map; None where it has none.
    """

    def __init__(self, whole: nn.Module, pooling: Pooling, projection: nn.Linear | None) -> None:
        super().__init__()
        reader: Any = whole.text_model
        self.text_model = reader
        self.config = reader.config
        self.pooling = pooling
        self.pool = RunningMean() if pooling == "mean" else nn.Identity()
        width = int(reader.config.hidden_size)
        weight = next(reader.parameters())
        with torch.device("meta"):
            self.output = nn.Linear(width, width if projection is None else projection.out_features, bias=False)
        if projection is not None:
            self.output.weight = projection.weight
        else:
            with torch.inference_mode(False):  # gradients go through it
                identity = torch.eye(width, dtype=weight.dtype, device=weight.device)
            self.output.weight = nn.Parameter(identity, requires_grad=False)
        if projection is not None and projection.bias is not None:
            self.output.bias = projection.bias

    def get_input_embeddings(self) -> nn.Module:
        """The tower's token embeddings."""
        found: nn.Module = self.text_model.get_input_embeddings()
        return found

    def get_output_embeddings(self) -> nn.Module:
        """The tower's last linear map."""
        return self.output

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
    ) -> SimpleNamespace:
        """What the tower would say of each text if it pooled at each place, as `logits` [n, T, D]."""
        given = {} if position_ids is None else {"position_ids": position_ids}
        hidden = self.text_model(input_ids=input_ids, attention_mask=attention_mask, **given).last_hidden_state
        return SimpleNamespace(logits=self.output(self.pool(hidden)))


@dataclass(frozen=True)
class ImageTextBackbone(Backbone):
    """An image-text model: its text tower as a backbone, and its image tower.

    Args:
        whole: the model as `transformers` loaded it.
        processor: makes pixel values of pictures.
        filled: texts are filled up to this many tokens, as the model was trained; None where they are left as they are.
    """

    whole: Any = None
    processor: Any = None
    filled: int | None = None

    @property
    def prompt_place(self) -> int:
        """Behind the marks that begin a text."""
        return len(self.around.before)

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """Those of both towers."""
        found: Mapping[str, Tensor] = self.whole.state_dict()
        return found

    @cached_property
    def image_sha256(self) -> str:
        """What tells one image tower with its processor from another."""
        inside = {name: part for name, part in self.weights.items() if not name.startswith("text_model.")}
        settings = json.dumps(self.processor.to_dict(), sort_keys=True, default=str)
        return fingerprint(inside) + fingerprint({settings: torch.empty(0)})

    @property
    def scale(self) -> float:
        """What cosines are multiplied by."""
        found = getattr(self.whole, "logit_scale", None)
        return 1.0 if found is None else float(found.detach().exp())

    @property
    def at_once(self) -> int:
        """Images that go through the image tower together."""
        return 1 if self.device.type == "cpu" else AT_ONCE

    @torch.inference_mode()
    def image_features(self, pictures: Sequence[Image]) -> tuple[Tensor, Tensor]:
        """What the image tower makes of pictures, float32, on the processor; that of a picture does not depend on the others.

        Args:
            pictures: at least one.

        Returns:
            Vectors [n, D] of length one, and what the tower pools before they are mapped to where texts lie [n, T].

        Raises:
            ModelError: the model has no image tower of its own.
        """
        tower = getattr(self.whole, "vision_model", None)
        if not isinstance(tower, nn.Module):
            raise ModelError(f"{self.name} has no image tower of its own (vision_model): it is not supported")
        at_once = self.at_once
        vectors: list[Tensor] = []
        pooled: list[Tensor] = []
        caught = tower.register_forward_hook(lambda _module, _given, said: pooled.append(said.pooler_output))
        try:
            for first in range(0, len(pictures), at_once):
                some = list(pictures[first : first + at_once])
                filled = [*some, *some[-1:] * (at_once - len(some))]
                given = self.processor(images=filled, return_tensors="pt").to(self.device)
                found = _vectors(self.whole.get_image_features(**given))[: len(some)]
                vectors.append(functional.normalize(found.float(), dim=-1).cpu())
                pooled[-1] = pooled[-1][: len(some)].float().cpu()
        finally:
            caught.remove()
        return torch.cat(vectors), torch.cat(pooled)

    def encode_text(self, text: str, room: int) -> Encoded:
        """Turn a text into token ids, with room for others.

        Args:
            text: the words.
            room: tokens that will be put before them.

        Raises:
            DataError: it is longer than the model allows.
        """
        ids: list[int] = list(self.tokenizer(text)["input_ids"])
        longest = (self.filled or self.longest) - room
        if len(ids) > longest:
            raise DataError(
                f"{text!r} has {len(ids)} tokens, more than the {longest} that {self.name} has room for: shorten the class name or "
                "the template, or [method] prompt_tokens"
            )
        self._check_known(ids)
        if self.filled is not None:
            ids += [int(self.tokenizer.pad_token_id)] * (longest - len(ids))
        return Encoded(tuple(ids), 0 if self.model.pooling == "first" else len(ids) - 1)

    def stack(self, verbalizer: Verbalizer) -> LayerStack:
        """The text tower's layers as a pipeline that ends in the vector of a text."""
        width = int(self.model.output.out_features)  # type: ignore[union-attr,arg-type]
        made = LayerStack(self.model, self.architecture, torch.arange(width))
        made.packs = made.shares = False  # rows may not be longer than a text, and class texts have few lengths
        return made

    def check_template(self, template: Template) -> None:
        """Any template will do: the class stands in it as words."""

    @torch.inference_mode()
    def check_reading(self, stack: LayerStack, prompt: Encoded) -> None:
        """Make sure that a text's vector is the model's own.

        Raises:
            ModelError: it is not.
        """
        ids = torch.tensor([prompt.ids], device=self.device)
        ours = stack.logits(ids, torch.tensor([prompt.answer], device=self.device))
        theirs = _vectors(self.whole.get_text_features(input_ids=ids))
        if not stack.same(ours, theirs.float()):
            raise ModelError(
                f"{self.name} gives a text another vector when it is run layer by layer: it is not supported"
            )

    @property
    def fills_gaps(self) -> bool:
        """Its words can be told by likeness."""
        return True

    @torch.inference_mode()
    def likely_token(self, ids: Sequence[int], place: int) -> Tensor:
        """How well each token can stand in for the one at a place: by the likeness of their embeddings, since a text tower
        predicts no words. Logits [V], float32; the token itself is not drawn."""
        table = functional.normalize(self.embedding_weight.float(), dim=1)
        likeness = table @ table[ids[place]]
        likeness[ids[place]] = -1.0
        return likeness / max(float(likeness.topk(min(50, len(likeness))).values.std()), 1e-6)


def read(name: str, place: str, config: Any, revision: str | None) -> tuple[Any, Any]:
    """Read both towers, in float32, and the processor of images.

    Args:
        name: what the user called the model.
        place: folder or hub id.
        config: the model's configuration.
        revision: hub revision.

    Raises:
        ModelError: it cannot be read or used; says why.
    """
    import transformers

    with faults.explained(place), quiet():
        auto = transformers.AutoModelForZeroShotImageClassification
        whole, report = auto.from_pretrained(
            place,
            revision=revision,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
        )
        processor = transformers.AutoImageProcessor.from_pretrained(
            place, revision=revision, trust_remote_code=False, **_backend()
        )
    lost = sorted(report["missing_keys"])
    if lost:
        raise ModelError(f"model {name!r} holds no weights for {', '.join(lost[:3])}{' ...' if len(lost) > 3 else ''}")
    return whole, processor


def assembled(
    name: str,
    whole: Any,
    tokenizer: Any,
    processor: Any,
    *,
    dtype: str = "float32",
    target: architectures.Target | None = None,
) -> ImageTextBackbone:
    """A backbone of an image-text model in memory. The image tower stays in float32: its vectors are computed once.

    Args:
        name: what the user called the model.
        whole: the model, in float32.
        tokenizer: its tokenizer.
        processor: its processor of images.
        dtype: number format of the text tower.
        target: modules of the text tower's layers to put LoRA on.

    Raises:
        ModelError: the model has no text tower of a known form.
    """
    filled = _filled(whole, tokenizer, name)
    tower = _tower(whole, tokenizer, name)
    architecture = architectures.find(tower, target)
    if tower.pooling == "mean":
        architecture = replace(architecture, trunk="pool")
    if dtype in ("float16", "bfloat16"):
        tower.to(getattr(torch, dtype))
    elif dtype == "mixed":
        mix(tower, architecture.paths)
    return ImageTextBackbone(name, tower, tokenizer, "image-text", architecture, whole, processor, filled)


@torch.inference_mode()
def _tower(whole: Any, tokenizer: Any, name: str) -> TextTower:
    """The text tower that says of a text what the model itself says."""
    if not isinstance(getattr(whole, "text_model", None), nn.Module):
        raise ModelError(
            f"{name} ({type(whole).__name__}) has no text tower of its own (text_model): it is not supported"
        )
    ids = torch.tensor([tokenizer(TRIAL)["input_ids"]], device=next(whole.parameters()).device)
    own = _vectors(whole.get_text_features(input_ids=ids))[0]
    maps: list[nn.Linear | None] = [
        module
        for module in (getattr(whole, "text_projection", None), getattr(whole.text_model, "head", None))
        if isinstance(module, nn.Linear)
    ]
    poolings: tuple[Pooling, ...] = ("last", "first", "mean")
    for projection in (*maps, None):
        for pooling in poolings:
            tower = TextTower(whole, pooling, projection).eval()
            said = tower(ids).logits[0, 0 if pooling == "first" else -1]
            if said.shape == own.shape and torch.allclose(said, own, rtol=CLOSE, atol=CLOSE * float(own.abs().max())):
                return tower
    raise ModelError(
        f"{name} ({type(whole).__name__}) pools its texts in a way that is not known (expected the last token, the first or the "
        "mean of all, and one linear map): it is not supported"
    )


@torch.inference_mode()
def _filled(whole: Any, tokenizer: Any, name: str) -> int | None:
    """How many tokens texts are filled up to: all that there are places for, where filling changes what a model says of them
    even though it is told what is filling, so that it must have been trained so (SigLIP)."""
    if tokenizer.pad_token_id is None:
        return None
    ids = list(tokenizer(TRIAL)["input_ids"])
    device = next(whole.parameters()).device
    padded, mask = ids + [int(tokenizer.pad_token_id)] * 3, [1] * len(ids) + [0] * 3
    said: Callable[..., Tensor] = lambda **given: _vectors(whole.get_text_features(**given))[0]  # noqa: E731
    short = said(input_ids=torch.tensor([ids], device=device))
    long = said(input_ids=torch.tensor([padded], device=device), attention_mask=torch.tensor([mask], device=device))
    if torch.allclose(short, long, rtol=1e-3, atol=1e-3 * float(short.abs().max())):
        return None
    longest = getattr(whole.text_model.config, "max_position_embeddings", None)
    if not longest:
        raise ModelError(f"{name}: filling changes what the model says of a text, and its longest text is not told")
    return int(longest)


def _vectors(found: Any) -> Tensor:
    """The vectors that `get_text_features` and `get_image_features` return, by themselves or with more."""
    vectors: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    return vectors


def _backend() -> dict[str, str]:
    """The image processors that need no torchvision: the same numbers on every machine."""
    return {"backend": "pil"}


def own_form(place: str) -> bool:
    """Whether a folder holds a model in the form of `tandemtune.models.conse`."""
    try:
        settings = json.loads((Path(place) / "config.json").read_text(encoding="utf-8"))
        return isinstance(settings, dict) and settings.get("model_type") == "conse"
    except (OSError, ValueError):
        return False

"""CLIP-like (ConSE): an image classifier and a sentence encoder joined without training, in the form of an image-text model.

No package registry carries a genuine CLIP. This stands in for one, out of real pretrained weights: EfficientNet-Lite0
(ImageNet, 1,000 classes) says what is in an image, and an image's vector is the mean of the sentence embeddings of these
classes, weighted by their probabilities (Norouzi et al., "Zero-Shot Learning by Convex Combination of Semantic Embeddings",
ICLR 2014, arXiv 1312.5650, eq. 3). It has the methods of `transformers`' image-text models and is loaded as one of them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForZeroShotImageClassification,
    BertConfig,
    BertModel,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

NAME = "CLIP-like (ConSE)"
STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
"""EfficientNet-Lite0 (https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite): repeats, kernel,
stride, expansion, channels in and out of each stage."""


class ConSEConfig(PreTrainedConfig):  # type: ignore[misc]
    """Sizes of both towers.

    Args:
        text_config: of the sentence encoder (BERT's form), as a dict.
        top: classes of an image that its vector is made of.
        logit_scale: logarithm of what cosines are multiplied by.
    """

    model_type = "conse"
    sub_configs = {"text_config": BertConfig}  # noqa: RUF012
    text_config: Any = None
    top: int = 20
    logit_scale: float = 3.0

    def __post_init__(self, **kwargs: Any) -> None:
        """Read the sentence encoder's settings."""
        if not isinstance(self.text_config, BertConfig):
            self.text_config = BertConfig(**(self.text_config or {}))
        super().__post_init__(**kwargs)


class _Convolution(nn.Conv2d):
    """A convolution that pads as TensorFlow does: more behind than before, where it cannot be even."""

    def forward(self, images: Tensor) -> Tensor:
        pads: list[int] = []
        for size, kernel, stride in zip(images.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            missing = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            pads += [missing // 2, missing - missing // 2]
        return functional.conv2d(
            functional.pad(images, pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups
        )


class _Block(nn.Module):
    """An inverted residual block without squeeze and excitation."""

    def __init__(self, kernel: int, stride: int, expansion: int, before: int, behind: int) -> None:
        super().__init__()
        inner = before * expansion
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv = _Convolution(before, inner, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(inner, eps=1e-3)
        self._depthwise_conv = _Convolution(inner, inner, kernel, stride, groups=inner, bias=False)
        self._bn1 = nn.BatchNorm2d(inner, eps=1e-3)
        self._project_conv = _Convolution(inner, behind, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(behind, eps=1e-3)
        self.adds = stride == 1 and before == behind

    def forward(self, images: Tensor) -> Tensor:
        inner = functional.relu6(self._bn0(self._expand_conv(images))) if self.expands else images
        inner = functional.relu6(self._bn1(self._depthwise_conv(inner)))
        made: Tensor = self._bn2(self._project_conv(inner))
        return made + images if self.adds else made


class EfficientNetLite0(nn.Module):
    """The image classifier; its weights have the names of the published file."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _Convolution(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        blocks: list[nn.Module] = []
        for repeats, kernel, stride, expansion, before, behind in STAGES:
            blocks += [
                _Block(kernel, stride if not n else 1, expansion, before if not n else behind, behind)
                for n in range(repeats)
            ]
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = _Convolution(320, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, eps=1e-3)
        self._fc = nn.Linear(1280, 1000)

    def features(self, images: Tensor) -> Tensor:
        """What the classifier's last map is given [n, 1280], of images [n, 3, H, W]."""
        hidden = functional.relu6(self._bn0(self._conv_stem(images)))
        for block in self._blocks:
            hidden = block(hidden)
        hidden = functional.relu6(self._bn1(self._conv_head(hidden)))
        return hidden.mean(dim=(2, 3))

    def forward(self, pixel_values: Tensor) -> BaseModelOutputWithPooling:
        """The features [n, 1280] as `pooler_output`."""
        return BaseModelOutputWithPooling(pooler_output=self.features(pixel_values))

    def classes(self, features: Tensor) -> Tensor:
        """Class logits [n, 1000] of features [n, 1280]."""
        logits: Tensor = self._fc(features)
        return logits


class ConSEModel(PreTrainedModel):  # type: ignore[misc]
    """The two towers. `anchors` holds the sentence embeddings [1000, h] of the classifier's classes."""

    config_class = ConSEConfig
    base_model_prefix = ""
    input_modalities = ("image", "text")
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config: ConSEConfig) -> None:
        super().__init__(config)
        self.vision_model = EfficientNetLite0()
        self.text_model = BertModel(config.text_config, add_pooling_layer=False)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale)))
        self.register_buffer("anchors", torch.zeros(1000, config.text_config.hidden_size))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The sentence encoder's."""
        found: nn.Module = self.text_model.get_input_embeddings()
        return found

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put others into the sentence encoder."""
        self.text_model.set_input_embeddings(value)

    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """The mean of a text's hidden states, as `pooler_output` [n, h]."""
        hidden = self.text_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        weights = weights.unsqueeze(2).to(hidden.dtype)
        mean = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=mean)

    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """The mean of the likeliest classes' embeddings, weighted by their probabilities, as `pooler_output` [n, h]."""
        features = self.vision_model(pixel_values).pooler_output
        likely = torch.softmax(self.vision_model.classes(features), dim=-1)
        best = likely.topk(min(self.config.top, likely.shape[-1]), dim=-1)
        anchors: Tensor = self.anchors
        mean = (best.values.unsqueeze(2) * anchors[best.indices]).sum(dim=1)
        return BaseModelOutputWithPooling(pooler_output=mean)


def register() -> None:
    """Let `transformers` know the form, so that a folder is loaded like any other."""
    AutoConfig.register(ConSEConfig.model_type, ConSEConfig, exist_ok=True)
    AutoModel.register(ConSEConfig, ConSEModel, exist_ok=True)
    AutoModelForZeroShotImageClassification.register(ConSEConfig, ConSEModel, exist_ok=True)

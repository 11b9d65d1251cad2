"""Image-text models of four forms: text tower and image tower say what the model itself says."""

from __future__ import annotations

import copy

import pytest
import torch
from PIL import Image
from torch.nn import functional

import images
from tandemtune.errors import DataError, ModelError
from tandemtune.models import load as loading
from tandemtune.models.image_text import assembled

TEXTS = ("a photo of a red thing.", "green", "two words , dark and very small")


@pytest.mark.parametrize("name", images.MODELS)
def test_the_text_tower_gives_the_vectors_of_the_model_itself(name):
    backbone = images.backbone(name)
    stack = backbone.stack(None)
    for text in TEXTS:
        encoded = backbone.encode_text(text, 0)
        filled = {"padding": "max_length", "max_length": 16} if name == "siglip" else {}
        given = backbone.tokenizer(text, return_tensors="pt", **filled)
        assert encoded.ids == tuple(given["input_ids"][0].tolist())
        own = images.whole(name).get_text_features(input_ids=given["input_ids"]).pooler_output
        found = stack.logits(torch.tensor([encoded.ids]), torch.tensor([encoded.answer]))
        torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-5)
        states = stack.hidden(torch.tensor([encoded.ids]), 2)
        again = stack.logits(torch.tensor([encoded.ids]), torch.tensor([encoded.answer]), start=2, states=states)
        torch.testing.assert_close(again, own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", images.MODELS)
def test_an_images_vector_is_the_models_own_whatever_stands_beside_it(name):
    backbone = images.backbone(name)
    pictures = [Image.new("RGB", (20, 14), colour) for colour in images.CLASSES.values()]
    found, pooled = backbone.image_features(pictures)
    given = images.processor()(pictures, return_tensors="pt")
    own = images.whole(name).get_image_features(**given).pooler_output
    torch.testing.assert_close(found, functional.normalize(own, dim=-1), rtol=1e-4, atol=1e-5)
    tower = images.whole(name).vision_model(pixel_values=given["pixel_values"]).pooler_output
    torch.testing.assert_close(pooled, tower, rtol=1e-4, atol=1e-5)
    alone = backbone.image_features([pictures[1]])
    assert torch.equal(found[1], alone[0][0]) and torch.equal(pooled[1], alone[1][0])


@pytest.mark.parametrize("name", images.MODELS)
def test_a_folder_is_the_same_model(name):
    here, there = images.backbone(name), loading.load(str(images.model_folder(name)))
    assert there.kind == "image-text" and type(there.whole) is type(here.whole)
    assert there.image_sha256 == here.image_sha256
    assert there.scale == pytest.approx(here.scale)


@pytest.mark.parametrize("dtype", ["bfloat16", "mixed"])
@pytest.mark.parametrize("name", images.MODELS)
def test_text_towers_in_other_number_formats(name, dtype):
    exact = images.backbone(name)
    encoded = exact.encode_text("a photo of a red thing.", 0)
    given = torch.tensor([encoded.ids]), torch.tensor([encoded.answer])
    own = exact.stack(None).logits(*given)
    low = assembled("low", copy.deepcopy(images.whole(name)), exact.tokenizer, images.processor(), dtype=dtype)
    found = low.stack(None).logits(*given)
    assert float(functional.cosine_similarity(own, found)) > 0.99 and not torch.equal(own, found)
    picture = [Image.new("RGB", (20, 14), (200, 40, 40))]
    assert torch.equal(low.image_features(picture)[0], exact.image_features(picture)[0])


def test_another_processor_or_image_tower_is_another_model():
    here = images.backbone("clip")
    processor = images.processor()
    processor.image_mean = [0.5, 0.5, 0.5]
    other = assembled("other", images.whole("clip"), here.tokenizer, processor)
    assert other.image_sha256 != here.image_sha256


def test_a_class_name_that_is_too_long_is_told():
    with pytest.raises(DataError, match=r"tokens, more than the 16 that .* has room for"):
        images.backbone("clip").encode_text("very " * 30, 8)


def test_a_model_without_a_text_tower_is_refused():
    class Bare(torch.nn.Linear):
        def get_text_features(self, input_ids, attention_mask=None):
            return torch.zeros(1, 2)

    with pytest.raises(ModelError, match="no text tower"):
        assembled("bare", Bare(2, 2), images.tokenizer(), images.processor())


def test_words_that_stand_in_for_one_another_are_near():
    backbone = images.backbone("clip")
    ids = backbone.tokenizer("red", add_special_tokens=False)["input_ids"]
    logits = backbone.likely_token(ids, 0)
    assert logits.isfinite().all() and int(logits.argmax()) != ids[0]
    assert int(logits.argmin()) == ids[0]

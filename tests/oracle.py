"""What the engine must agree with: a copied model whose weights are really changed, run row by row without any trick.

Where query and key lie in each model is written down here a second time, on purpose, and not read from the library's table.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

HEAD = 8

LAYERS = {
    "bert": lambda m: m.bert.encoder.layer,
    "roberta": lambda m: m.roberta.encoder.layer,
    "distilbert": lambda m: m.distilbert.transformer.layer,
    "electra": lambda m: m.electra.encoder.layer,
    "deberta-v2": lambda m: m.deberta.encoder.layer,
    "gpt2": lambda m: m.transformer.h,
    "opt": lambda m: m.model.decoder.layers,
    "gpt_neox": lambda m: m.gpt_neox.layers,
}


EMBEDDINGS = {
    "bert": lambda m: m.bert.embeddings.word_embeddings,
    "roberta": lambda m: m.roberta.embeddings.word_embeddings,
    "distilbert": lambda m: m.distilbert.embeddings.word_embeddings,
    "electra": lambda m: m.electra.embeddings.word_embeddings,
    "deberta-v2": lambda m: m.deberta.embeddings.word_embeddings,
    "gpt2": lambda m: m.transformer.wte,
    "opt": lambda m: m.model.decoder.embed_tokens,
    "gpt_neox": lambda m: m.gpt_neox.embed_in,
    "t5": lambda m: m.shared,
    "bart": lambda m: m.model.shared,
}


def layers_of(model: nn.Module, name: str) -> Sequence[nn.Module]:
    """The layers of a tiny model; of two stacks the encoder's first."""
    if name == "t5":
        return [*model.encoder.block, *model.decoder.block]
    if name == "bart":
        return [*model.model.encoder.layers, *model.model.decoder.layers]
    return LAYERS.get(name, lambda m: m.model.layers)(model)


def weight_rows(model: nn.Module, name: str, block: int) -> tuple[Tensor, Tensor]:
    """Views [n_out, n_in] of the query's and the key's weights of one layer; of a copy for an interleaved layout."""
    layer = layers_of(model, name)[block]
    if name in ("bert", "roberta", "electra"):
        return layer.attention.self.query.weight, layer.attention.self.key.weight
    if name == "deberta-v2":
        return layer.attention.self.query_proj.weight, layer.attention.self.key_proj.weight
    if name == "distilbert":
        return layer.attention.q_lin.weight, layer.attention.k_lin.weight
    if name == "t5":
        attention = layer.layer[1].EncDecAttention if layer.is_decoder else layer.layer[0].SelfAttention
        return attention.q.weight, attention.k.weight
    if name == "bart" and hasattr(layer, "encoder_attn"):
        return layer.encoder_attn.q_proj.weight, layer.encoder_attn.k_proj.weight
    if name == "gpt2":
        whole = layer.attn.c_attn.weight
        width = whole.shape[0]
        return whole[:, :width].T, whole[:, width : 2 * width].T
    return layer.self_attn.q_proj.weight, layer.self_attn.k_proj.weight


def add(model: nn.Module, name: str, block: int, dq: Tensor, dk: Tensor) -> None:
    """Add [n_out, n_in] to the query's and the key's weights of one layer, in place."""
    with torch.no_grad():
        if name == "gpt_neox":
            weight = layers_of(model, name)[block].attention.query_key_value.weight
            for head in range(weight.shape[0] // (3 * HEAD)):
                first = head * 3 * HEAD
                weight[first : first + HEAD] += dq[head * HEAD : (head + 1) * HEAD]
                weight[first + HEAD : first + 2 * HEAD] += dk[head * HEAD : (head + 1) * HEAD]
            return
        q, k = weight_rows(model, name, block)
        q += dq
        k += dk


def gradient_rows(model: nn.Module, name: str, block: int) -> tuple[Tensor, Tensor]:
    """Gradients [n_out, n_in] of the query's and the key's weights of one layer, after a backward pass."""
    if name == "gpt_neox":
        found = layers_of(model, name)[block].attention.query_key_value.weight.grad
        heads = found.view(-1, 3, HEAD, found.shape[1])
        return heads[:, 0].flatten(0, 1), heads[:, 1].flatten(0, 1)
    slopes = copy.deepcopy(model)
    for (_, own), (_, other) in zip(model.named_parameters(), slopes.named_parameters(), strict=True):
        other.data = torch.zeros_like(own) if own.grad is None else own.grad
    return weight_rows(slopes, name, block)


def widths(model: nn.Module, name: str) -> tuple[int, int, int]:
    """Input width, query width and key width."""
    if name == "gpt_neox":
        return 32, 32, 32
    q, k = weight_rows(model, name, 0)
    return q.shape[1], q.shape[0], k.shape[0]


def merged(model: nn.Module, name: str, point: Mapping[int, Tensor], rank: int) -> nn.Module:
    """A copy of the model with the low-rank terms of `point` added into its weights."""
    changed = copy.deepcopy(model)
    n_in, n_q, n_k = widths(model, name)
    for block, vector in point.items():
        ends = torch.tensor([n_in * rank, rank * n_q, n_in * rank, rank * n_k]).cumsum(0)
        assert vector.shape == (int(ends[-1]),)
        qa, qb, ka, kb, _ = torch.tensor_split(vector, ends)
        dq = qa.view(n_in, rank) @ qb.view(rank, n_q)
        dk = ka.view(n_in, rank) @ kb.view(rank, n_k)
        add(changed, name, block, dq.T, dk.T)
    return changed


def shifted(model: nn.Module, name: str, point: Mapping[int, Tensor]) -> nn.Module:
    """A copy of the model with other biases in the layers of `point`, map by map in the order in which a layer lists them.

    A linear map that has no bias gets one; the output of a normalisation without one is added to. Gradients reach `point`.
    """
    changed = copy.deepcopy(model)
    for block, vector in point.items():
        begin = 0
        for module in layers_of(changed, name)[block].modules():
            weight = dict(module.named_parameters(recurse=False)).get("weight")
            if weight is None or isinstance(module, nn.Embedding):
                continue
            width = weight.shape[0] if isinstance(module, nn.Linear) else weight.shape[-1]
            term, begin = vector[begin : begin + width], begin + width
            if hasattr(module, "bias"):
                before = module.bias
                del module.bias
                module.bias = term if before is None else before + term
            else:
                module.forward = lambda hidden, own=module.forward, term=term: own(hidden) + term
        assert begin == len(vector)
    return changed


def adapted(model: nn.Module, name: str, point: Mapping[int, Tensor], width: int) -> nn.Module:
    """A copy of the model with a bottleneck of two linear maps behind the layers of `point`. Gradients reach `point`."""
    changed, h = copy.deepcopy(model), model.config.hidden_size

    def behind(vector: Tensor) -> None:
        down, rest = vector[: h * width].view(h, width), vector[h * width :]
        b_down, up, b_up = rest[:width], rest[width : width + width * h].view(width, h), rest[width + width * h :]
        assert b_up.shape == (h,)

        def hook(module, args, output):
            hidden = output[0] if isinstance(output, tuple) else output
            inner = nn.functional.gelu(nn.functional.linear(hidden, down.T, b_down))
            hidden = hidden + nn.functional.linear(inner, up.T, b_up)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return hook

    for block, vector in point.items():
        layers_of(changed, name)[block].register_forward_hook(behind(vector))
    return changed


def with_weights(model: nn.Module, vector: Tensor) -> nn.Module:
    """A copy of the model with all its weights written anew, those that are shared once."""
    changed = copy.deepcopy(model)
    nn.utils.vector_to_parameters(vector.clone(), changed.parameters())
    return changed


@torch.no_grad()
def word_logits(model: nn.Module, prompts: Iterable, token_ids: Iterable[int]) -> Tensor:
    """Logits [N, W] of the label words, one prompt at a time, through the model's whole head."""
    chosen = list(token_ids)
    return torch.stack([all_logits(model, torch.tensor([p.ids]))[0, p.answer, chosen] for p in prompts])


@torch.no_grad()
def entering(model: nn.Module, ids: Tensor) -> list[Tensor]:
    """Hidden states that enter each layer; for a decoder layer the encoder's output with the decoder's position behind it."""
    if not model.config.is_encoder_decoder:
        return list(model(input_ids=ids, output_hidden_states=True).hidden_states)
    begin = torch.full((len(ids), 1), model.config.decoder_start_token_id)
    output = model(input_ids=ids, decoder_input_ids=begin, output_hidden_states=True)
    read = output.encoder_last_hidden_state
    return [
        *output.encoder_hidden_states[:-1],
        *(torch.cat([read, own], dim=1) for own in output.decoder_hidden_states),
    ]


def all_logits(model: nn.Module, ids: Tensor) -> Tensor:
    """The model's own logits [n, T, V]; of a decoder those of its first position."""
    begin = {}
    if model.config.is_encoder_decoder:
        begin = {"decoder_input_ids": torch.full((len(ids), 1), model.config.decoder_start_token_id)}
    return model(input_ids=ids, **begin).logits


def embedded(model: nn.Module, name: str, ids: Iterable[int]) -> Tensor:
    """Vectors [T, width] of tokens as the first layer gets them; Gemma's are as long as its hidden states are wide."""
    weight = EMBEDDINGS.get(name, lambda m: m.model.embed_tokens)(model).weight
    scale = model.config.hidden_size**0.5 if name.startswith("gemma") else 1.0
    return weight[list(ids)] * scale


@contextmanager
def _rows_replaced(layer: nn.Module, first: int, rows: Tensor) -> Iterator[None]:
    """Whatever enters the layer, some of its rows are others."""
    own = layer.forward

    def forward(hidden_states, *args, **kwargs):
        behind = hidden_states[:, first + len(rows) :]
        between = rows.expand(len(hidden_states), -1, -1)
        return own(torch.cat([hidden_states[:, :first], between, behind], dim=1), *args, **kwargs)

    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward


def prompted_logits(
    model: nn.Module, name: str, ids: Iterable[int], place: int, prompt: Tensor, deep: Mapping[int, Tensor]
) -> Tensor:
    """The model's own logits [1, T + length, V] for a text with vectors before the token at `place`.

    Args:
        model: a tiny model.
        name: its architecture.
        ids: the text without the prompt.
        place: tokens in front of the prompt.
        prompt: vectors [length, width].
        deep: layer -> hidden states [length, h] that replace those of the prompt where they enter the layer.
    """
    vectors = embedded(model, name, ids)
    given = torch.cat([vectors[:place], prompt, vectors[place:]]).unsqueeze(0)
    begin = {}
    if model.config.is_encoder_decoder:
        begin = {"decoder_input_ids": torch.full((1, 1), model.config.decoder_start_token_id)}
    with ExitStack() as stack:
        for block, rows in deep.items():
            stack.enter_context(_rows_replaced(layers_of(model, name)[block], place, rows))
        return model(inputs_embeds=given, **begin).logits


def traces(model: nn.Module) -> list[tuple[bool, list[list[int]]]]:
    """Everything that someone may have hung on a module (a model's library hangs up hooks of its own)."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return [("forward" in vars(module), [list(getattr(module, name)) for name in hooks]) for module in model.modules()]

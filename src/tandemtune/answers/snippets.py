"""Lines of Python that ask an exported model with `transformers` alone; `told`, `tokenizer`, `model`, `fields` are there."""

from __future__ import annotations

_FILLED = r're.sub(r"\{\{|\}\}|\{([^{}]+)\}", lambda slot: fields[slot[1]] if slot[1] else slot[0][0], '
BIASED = (
    '    biased = {label: score + told["label_bias"][label] for label, score in found.items()}',
    '    return {label: score / told["temperature"] for label, score in biased.items()}',
)
"""The end of a function that has `found` the logit of each label."""


def prompt_ids(kind: str) -> list[str]:
    """Lines that give the tokens of a prompt [1, T]."""
    lines = [f'prompt = {_FILLED}told["template"].partition("{{mask}}")[0]).rstrip(" ")']
    if kind == "causal":
        return [
            *lines,
            'ids = tokenizer(prompt)["input_ids"]',
            'ids = torch.tensor([ids[: len(ids) - told["marks_behind"]]])',
        ]
    return [*lines, 'ids = tokenizer(prompt, return_tensors="pt")["input_ids"]']


def first_logits(kind: str) -> list[str]:
    """Lines that give the logits of all words at the answer's place [V]."""
    if kind == "masked":
        return [
            'fields = {**fields, "mask": tokenizer.mask_token}',
            f'prompt = {_FILLED}told["template"])',
            'ids = tokenizer(prompt, return_tensors="pt")["input_ids"]',
            "with torch.inference_mode():",
            "    logits = model(input_ids=ids).logits[0, ids[0].tolist().index(tokenizer.mask_token_id)]",
        ]
    if kind == "causal":
        return [
            *prompt_ids(kind),
            "with torch.inference_mode():",
            "    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -1]",
        ]
    return [
        *prompt_ids(kind),
        'begin = torch.tensor([told["decoder_begins_with"]])',
        "with torch.inference_mode():",
        "    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=begin).logits[0, -1]",
    ]


def mean_log_probability(kind: str) -> list[str]:
    """Lines of a function of prompt tokens and a text that gives the mean log-probability of the text's tokens behind them."""
    lines = [
        'before = tokenizer(told["behind"], add_special_tokens=False)["input_ids"] if told["behind"] else []',
        'whole = tokenizer(told["behind"] + told["blank"] + text, add_special_tokens=False)["input_ids"]',
        'alone = tokenizer(told["blank"] + text, add_special_tokens=False)["input_ids"]',
        "answer = torch.tensor(whole[len(before) :] if whole[: len(before)] == before else alone)",
    ]
    if kind == "causal":
        given = [
            "ids = torch.cat([ids[0], answer[:-1]])[None]",
            "with torch.inference_mode():",
            "    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]",
        ]
    else:
        given = [
            'begin = torch.cat([torch.tensor(told["decoder_begins_with"]), answer[:-1]])[None]',
            "with torch.inference_mode():",
            "    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=begin).logits[0]",
        ]
    return [
        *lines,
        *given,
        "chances = logits[-len(answer) :].log_softmax(dim=-1)",
        "return float(chances.gather(1, answer[:, None]).mean())",
    ]


def written(kind: str) -> list[str]:
    """Lines of a function that writes an answer, and returns it; of the model's own settings for writing only those that the run kept."""
    begin = [] if kind == "causal" else ['begin = torch.tensor([told["decoder_begins_with"]])']
    return [
        *prompt_ids(kind),
        *begin,
        "settings = GenerationConfig(",
        '    max_new_tokens=told["max_new_tokens"],',
        '    eos_token_id=told["ends"],',
        '    forced_eos_token_id=told["forced_end"],',
        '    pad_token_id=told["ends"][0],',
        *([] if kind == "causal" else ['    decoder_start_token_id=told["decoder_begins_with"][0],']),
        "    do_sample=False,",
        ")",
        "for part in model.modules():",
        '    if hasattr(part, "generation_config"):',
        "        part.generation_config = settings",
        "with torch.inference_mode():",
        "    written = model.generate(",
        "        input_ids=ids,",
        "        attention_mask=torch.ones_like(ids),",
        *([] if kind == "causal" else ["        decoder_input_ids=begin,"]),
        "    )",
        f"text = tokenizer.decode(written[0, {'ids' if kind == 'causal' else 'begin'}.shape[1] :], skip_special_tokens=True)",
        'for stop in told["stop"]:',
        "    text = text.partition(stop)[0]",
        "return text.strip()",
    ]

"""Tasks that are asked in a model's own form of conversation, by every method that puts something before a text."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch

import chatting
import small
import tandemtune
from chatting import CHATML, FORMS, said
from mentor import loopback
from small import Stop, artefacts, resume, tune
from tandemtune.errors import UsageError
from tandemtune.types import Example

STEPS = {"method__budget": None, "method__layers": None, "method__d": None, "method__r": None, "method__popsize": None}
ICL = {**STEPS, "method__name": "icl", "method__demonstrations": 3}
SYSTEM = {"chatml": "be {brief}", "merged": "be {brief}", "brackets": None}


def question(text: str) -> str:
    return f"review : {text}\nis it great ?"


def of_system(form: str) -> list[dict[str, str]]:
    return [] if SYSTEM[form] is None else [said("system", str(SYSTEM[form]))]


@pytest.mark.grid
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("made", [chatting.recipe, chatting.written])
def test_demonstrations_are_earlier_turns(tmp_path, form, made):
    recipe = made(tmp_path, FORMS[form], task__system=SYSTEM[form], **ICL)
    tune(recipe, tmp_path / "run")
    turns = chatting.shown(tmp_path / "run")
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 3
    rows = {row["text"]: row for row in map(json.loads, (tmp_path / "train.jsonl").open())}
    for one, asked, answer in zip(demonstrations(tmp_path / "run"), turns[::2], turns[1::2], strict=True):
        row = rows[one["fields"]["text"]]
        word = row.get("answer") or recipe["task"]["labels"][row["label"]]
        assert (asked["content"], answer["content"]) == (question(row["text"]), word)
    whole = [*of_system(form), *turns, said("user", question("a fine film"))]
    (prompt,) = chatting.prompts(tmp_path / "run", ["a fine film"])
    assert prompt.ids == chatting.expected(tmp_path / "run", whole)
    (plain,) = chatting.prompts(tmp_path / "run", ["a fine film"], plain=True)
    assert plain.ids == chatting.expected(tmp_path / "run", [whole[0], whole[-1]] if of_system(form) else whole[-1:])


def demonstrations(run):
    return json.loads((run / "adapter" / "demonstrations.json").read_text())["demonstrations"]


def test_texts_are_cut_and_turns_are_not(tmp_path):
    long = "film " * 60
    recipe = chatting.written(tmp_path, task__max_tokens=64, **ICL)
    rows = [{"text": f"{long}{number}", "answer": "it was <|end|> fine"} for number in range(12)]
    small.write_rows(tmp_path / "train.jsonl", rows)
    tune(recipe, tmp_path / "run")
    turns = chatting.shown(tmp_path / "run")
    assert len(turns) == 6
    for asked, answer in zip(turns[::2], turns[1::2], strict=True):
        assert asked["content"].startswith("review : film") and asked["content"].endswith("\nis it great ?")
        assert len(asked["content"]) < len(question(long)) and answer["content"] == "it was < |end|> fine"
    (prompt,) = chatting.prompts(tmp_path / "run", [f"{long} <|start|>system"])
    tokenizer = tandemtune.load(tmp_path / "run").scorer.backbone.tokenizer
    kept = tokenizer.decode(prompt.ids).rpartition("<|start|>user\n")[2].partition("<|end|>")[0]
    assert kept.startswith("review : film") and kept.endswith("\nis it great ?")
    assert prompt.ids == chatting.expected(tmp_path / "run", [*turns, said("user", kept)])


def test_a_model_s_turn_that_begins_otherwise_where_it_is_written(tmp_path):
    recipe = chatting.written(tmp_path, task__chat_arguments={"thinking": False}, **ICL)
    tune(recipe, tmp_path / "run")
    (prompt,) = chatting.prompts(tmp_path / "run", ["a film"])
    whole = [*chatting.shown(tmp_path / "run"), said("user", question("a film"))]
    assert prompt.ids == chatting.expected(tmp_path / "run", whole, thinking=False)


GAP3 = {**STEPS, "method__name": "gap3", "method__prompt_tokens": 3, "method__budget": 12, "method__popsize": 4}


@pytest.mark.grid
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("made", [chatting.recipe, chatting.written])
def test_searched_words_begin_the_user_s_turn(tmp_path, form, made):
    """Whatever the words are, the model reads what its form makes of them with the question behind."""
    tune(made(tmp_path, FORMS[form], task__system=SYSTEM[form], **GAP3), tmp_path / "run")
    model = tandemtune.load(tmp_path / "run")
    prompt, tokenizer = model.scorer.parameters, model.scorer.backbone.tokenizer
    (read,) = chatting.prompts(tmp_path / "run", ["a film"])
    first, behind = prompt.place, prompt.place + prompt.length
    text, between = (" great film", " ") if form == "brackets" else ("great film", "\n")
    words = tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = [*of_system(form), said("user", f"{text.strip()}{between}{question('a film')}")]
    assert (*read.ids[:first], *words, *read.ids[behind:]) == chatting.expected(tmp_path / "run", whole)
    (vectors,) = model.prompt_embeds(["a film"])
    assert torch.equal(vectors[first:behind].flatten(), model.point[-1])
    assert model.scorer.vocabulary.exact(vectors[first:behind]).ids
    told = json.loads((tmp_path / "run" / "adapter" / "prompt.json").read_text())
    assert (told["place"], told["length"]) == (first, 3)


@pytest.mark.parametrize("changes", [ICL, GAP3])
def test_answers_are_those_that_the_model_writes_itself_token_by_token(tmp_path, changes):
    recipe = chatting.written(tmp_path, **changes)
    tune(recipe, tmp_path / "run")
    model = tandemtune.load(tmp_path / "run")
    tokenizer, plain = model.scorer.backbone.tokenizer, model.scorer.backbone.model
    texts = ["a fine film", "it was never so dull"]
    for text, read, embeds in zip(
        texts, chatting.prompts(tmp_path / "run", texts), vectors_of(model, texts), strict=True
    ):
        mask = torch.ones(1, len(read.ids), dtype=torch.long)
        ids = plain.generate(inputs_embeds=embeds[None], attention_mask=mask, max_new_tokens=4, do_sample=False)
        assert tokenizer.decode(ids[0], skip_special_tokens=True).strip() == model.predict([text])[0].text


def vectors_of(model, texts):
    """Embeddings of whole prompts, with words in their places."""
    prompt, embeddings = model.scorer.parameters, model.scorer.backbone.embeddings
    ids = [torch.tensor([one.ids]) for one in chatting.prompts_of(model, texts)]
    with torch.no_grad(), prompt.applied(model.point):
        return [embeddings(one)[0] for one in ids]


def test_what_all_conversations_begin_with_is_computed_once(tmp_path):
    """For each candidate: the system's words, earlier turns, and words that are searched."""
    for name, changes in {"icl": ICL, "gap3": GAP3}.items():
        tune(chatting.recipe(tmp_path, **changes), tmp_path / name)
        scorer = tandemtune.load(tmp_path / name).scorer
        rows = [Example({"text": text}) for text in ("a film", "a plot", "they saw news", "it was dull")]
        prompts = scorer.encoded(rows)[0]
        begin = scorer.parameters.place + max(
            len(getattr(scorer.parameters, "room", ())), getattr(scorer.parameters, "length", 0)
        )
        tokens = scorer.engine.tokens(scorer.population_batch(rows))
        assert tokens <= sum(len(one.ids) - begin for one in prompts) + begin


@pytest.mark.grid
@pytest.mark.parametrize("changes", [GAP3, {**STEPS, "method__name": "lora", "method__steps": 4}])
@pytest.mark.parametrize("made", [chatting.recipe, chatting.written])
def test_a_run_that_was_stopped_goes_on(tmp_path, made, changes):
    recipe = made(tmp_path, **changes)
    tune(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        tune(recipe, tmp_path / "run", Stop(lines=1))
    resume(tmp_path / "run")
    assert artefacts(tmp_path / "run") == artefacts(tmp_path / "whole")


def test_rewards_see_the_question_alone(tmp_path):
    """As with every method: one message, without earlier turns and words."""
    (tmp_path / "mine.py").write_text("""
def near(prompts, completions, text, **kwargs):
    for prompt, one in zip(prompts, text, strict=True):
        assert prompt == [{"role": "user", "content": f"review : {one}\\nis it great ?"}], prompt
    return [1.0 for _ in completions]
""")
    address = f"{tmp_path / 'mine.py'}:near"
    for name, changes in {
        "icl": ICL,
        "gap3": {**GAP3, "method__objective": {"kind": "reward", "rewards": {address: 1.0}}},
    }.items():
        tune(chatting.written(tmp_path, task__metric=address, **changes), tmp_path / name)


CHOICES = {"task__choices": "phrases", "task__labels": {"positive": "very great", "negative": "it was dull"}}


@pytest.mark.parametrize("changes", [ICL, {**STEPS, "method__name": "lora", "method__steps": 2}])
def test_whole_answers_to_choose_from(tmp_path, changes):
    tune(chatting.recipe(tmp_path, **CHOICES, **changes), tmp_path / "run")
    if changes is ICL:
        answers = {turn["content"] for turn in chatting.shown(tmp_path / "run")[1::2]}
        assert answers == {"very great", "it was dull"}
    model = tandemtune.load(tmp_path / "run")
    (read,) = chatting.prompts_of(model, ["a film"])
    first = chatting.shown(tmp_path / "run") if changes is ICL else []
    assert read.ids == chatting.expected(tmp_path / "run", [*first, said("user", question("a film"))])
    plain, found = model.scorer.backbone.model, {}
    for label, answer in {"positive": "very great", "negative": "it was dull"}.items():
        with torch.no_grad(), model.scorer.parameters.applied(model.point):
            whole = torch.tensor([[*read.ids, *model.scorer.backbone.tokenizer(answer)["input_ids"]]])
            chances = plain(whole).logits[0].log_softmax(-1)[:-1].gather(1, whole[0, 1:, None])
        found[label] = chances[len(read.ids) - 1 :].mean().exp()
    given = model.predict(["a film"])[0].probabilities
    assert given["positive"] == pytest.approx(float(found["positive"] / sum(found.values())), rel=1e-3)


def test_the_best_of_several_templates_of_labels(tmp_path):
    """Each is judged in its conversation, and the best one asked so."""
    listed = ["review : {text}\nis it great ? {mask}", "{text} was it good ? yes or no {mask}"]
    recipe = chatting.recipe(tmp_path, task__template=None, task__templates=listed, **ICL)
    tune(recipe, tmp_path / "run")
    scores = json.loads((tmp_path / "run" / "run.json").read_text())["templates"]
    assert [one["template"] for one in scores] == listed
    for number, template in enumerate(listed):
        alone = {**recipe, "task": {**recipe["task"], "templates": [template, f"so {{text}} {number} ? {{mask}}"]}}
        tune(alone, tmp_path / f"alone{number}")
        again = json.loads((tmp_path / f"alone{number}" / "run.json").read_text())["templates"][0]
        assert again == scores[number]
    (read,) = chatting.prompts(tmp_path / "run", ["a film"], plain=True)
    assert scores[0]["tokens"] > sum(len(one["template"].split()) for one in scores)  # marks of turns are counted
    best = min(scores, key=lambda one: one["loss"])["template"]
    asked = best.partition("{mask}")[0].rstrip().replace("{text}", "a film")
    assert read.ids == chatting.expected(tmp_path / "run", [said("user", asked)])


def test_a_known_task_in_a_conversation(tmp_path):
    """Its template stands in no recipe, and is found in the conversation all the same."""
    recipe = chatting.recipe(tmp_path, **{**ICL, "task__name": "sst2", "task__template": None, "task__labels": None})
    tune(recipe, tmp_path / "run")
    (read,) = chatting.prompts(tmp_path / "run", ["a film"])
    template = tandemtune.load(tmp_path / "run").scorer.task.question
    asked = str(template).partition("{mask}")[0].rstrip().replace("{text}", "a film")
    assert read.ids == chatting.expected(tmp_path / "run", [*chatting.shown(tmp_path / "run"), said("user", asked)])


def test_what_validate_counts_and_what_is_written_beside_a_run(tmp_path):
    recipe = chatting.written(tmp_path, task__system="be {brief}", task__chat_arguments={"thinking": False}, **ICL)
    called = small.call("validate", small.write_recipe(tmp_path / "recipe.json", recipe))
    assert called.code == 0, called.err
    tune(recipe, tmp_path / "run")
    rows = [json.loads(line)["text"] for line in (tmp_path / "test.jsonl").open()]
    longest = max(len(one.ids) for one in chatting.prompts(tmp_path / "run", rows, plain=True))
    assert f"test: longest prompt {longest} tokens of 96" in called.out + called.err
    told = (tmp_path / "run" / "adapter" / "README.md").read_text()
    messages = [said("system", "be {brief}"), said("user", question("{text}"))]
    assert f"messages: `{json.dumps(messages)}`" in told and "thinking=False" in told
    assert "the turns of `demonstrations.json` (`messages`) stand before the user's" in told


def test_an_export_is_asked_with_the_same_messages(tmp_path):
    lora = {**STEPS, "method__name": "lora", "method__steps": 2}
    recipe = chatting.written(tmp_path, task__stop=["so", "<|user|>"], **lora)
    run = tandemtune.tune(recipe, out=tmp_path / "run", progress="none")
    run.export(tmp_path / "served", rank=8)
    told = (tmp_path / "served" / "README.md").read_text()
    body = json.loads(told.partition("/v1/chat/completions")[2].partition("```json\n")[2].partition("\n")[0])
    wanted = {"messages": [said("user", question("{text}"))], "temperature": 0, "max_tokens": 4, "stop": ["so"]}
    wanted["stop_token_ids"] = [chatting.MARKS.index(mark) for mark in ("<|end|>", "<|user|>")]
    assert body == {"model": "small", **wanted}


@pytest.mark.parametrize(
    ("form", "changes", "says"),
    [
        (CHATML.replace("{{ m.content }}", "{{ m.content | lower }}"), {"task__template": "{text} IS it ? {mask}"}, "changes the question"),
        (CHATML.replace("m.content", "(m.content if m.role != 'assistant' else 'well')"), ICL, "changes what was said in an earlier turn"),
        (CHATML.replace("{% for m in messages %}", "{% for m in messages[-1:] %}"), ICL, "changes what was said in an earlier turn"),
        ("{{ messages | length }} " + CHATML, ICL, "begins a conversation of several turns in another way"),
        (CHATML, {"task__together": 2}, "a conversation asks one"),
        (CHATML, {"task__together": "auto"}, "together: auto, but a conversation asks one"),
        (CHATML, {"task__chat": None, "task__system": "so"}, "only a conversation has it"),
    ],
)  # fmt: skip
def test_what_a_conversation_has_no_place_for(tmp_path, form, changes, says):
    with pytest.raises(UsageError, match=says):
        tune(chatting.recipe(tmp_path, form, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_masked_model_is_not_asked_in_a_conversation(tmp_path):
    with pytest.raises(UsageError, match="is a masked model, which fills a gap"):
        tune(small.recipe(tmp_path, "bert", task__chat=True), tmp_path / "run")


def test_a_mark_that_the_form_leaves_out_is_told(tmp_path):
    form = chatting.MERGED.replace("{{ '<s>' }}", "{{ '' }}")
    recipe = chatting.recipe(tmp_path, form, **ICL)
    tokenizer = json.loads((tmp_path / "model" / "tokenizer.json").read_text())
    tokenizer["post_processor"] = json.loads(
        (chatting.folder(tmp_path / "other", chatting.MERGED) / "tokenizer.json").read_text()
    )["post_processor"]
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(tokenizer))
    result = tune(recipe, tmp_path / "run")
    assert any("begins every text with <s>, which its chat template leaves out" in note for note in result["notes"])


@pytest.mark.grid
@pytest.mark.parametrize("method", ["opro", "maao", "tandem"])
@pytest.mark.parametrize("made", [chatting.recipe, chatting.written])
def test_a_mentor_s_words_begin_the_user_s_turn(tmp_path, monkeypatch, method, made):
    monkeypatch.setenv("MENTOR_KEY", loopback.KEY)
    recipe = made(tmp_path, task__system="be {brief}", **STEPS, method__name=method, method__prompt_tokens=4)
    rounds = {} if method == "opro" else {"round_steps": 2, "final_steps": 2}
    recipe["alternate"] = {"rounds": 1, "snapshots": 1, "proposals": 2, "definition": "Is it good?", **rounds}
    with loopback.serving() as server:
        server.answers = [
            loopback.say("yes"),
            loopback.say(json.dumps({"prompts": ["great film and plot", "so dull"]})),
        ]
        mentor = {
            "client": "endpoint",
            "mentor": "tiny",
            "base_url": server.url,
            "key_env": "MENTOR_KEY",
            "style": "chat",
        }
        recipe["mentor"] = {**mentor, "retries": 0, "timeout": 5.0}
        tune(recipe, tmp_path / "run")
        told = json.dumps(server.seen[-1]["body"], ensure_ascii=False)
    assert "system: be {brief} user: [PROMPT] review : {text} is it great ? assistant: [ANSWER]" in told
    model = tandemtune.load(tmp_path / "run")
    prompt = getattr(model.scorer.parameters, "prompt", model.scorer.parameters)
    (read,) = chatting.prompts_of(model, ["a film"])
    words = model.scorer.backbone.tokenizer("great film and plot")["input_ids"]
    given = (*read.ids[: prompt.place], *words, *read.ids[prompt.place + 4 :])
    whole = [said("system", "be {brief}"), said("user", f"great film and plot\n{question('a film')}")]
    assert given == chatting.expected(tmp_path / "run", whole)


def test_texts_that_the_tokenizer_joins_with_the_mark_of_a_turn(tmp_path):
    recipe = chatting.written(tmp_path, task__template="{text}{mask}", **ICL)
    rows = [{"text": f"\n\n{row['text']}", "answer": "fine"} for row in small.rows(12)]
    small.write_rows(tmp_path / "train.jsonl", rows)
    with pytest.raises(UsageError, match=r"joins the beginning of a question.*let \[task\] template begin with a word"):
        tune(recipe, tmp_path / "run")


def _two_marks(place, form):
    """A recipe of texts in a conversation; the model ends a document with another mark than a turn."""
    place.mkdir(exist_ok=True)
    recipe = chatting.written(place, form, method__budget=20)
    (place / "model" / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 2]}))
    return recipe


def test_references_end_with_the_mark_that_ends_a_turn(tmp_path):
    tune(_two_marks(tmp_path / "both", CHATML), tmp_path / "run")
    one = chatting.written(tmp_path / "both", CHATML, method__budget=20)
    (tmp_path / "both" / "model" / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    tune(one, tmp_path / "turns")
    losses = [[record.get("losses") for record in small.journal(tmp_path / name)] for name in ("run", "turns")]
    assert losses[0] == losses[1] and any(losses[0])
    assert json.loads((tmp_path / "run" / "run.json").read_text())["answer_end"] == 2


def test_a_run_that_began_with_another_mark_goes_on_with_it(tmp_path):
    silent = CHATML.replace("<|end|>\n{% endfor %}", "{{ '<|end|>' if m.role != 'assistant' }}\n{% endfor %}")
    recipe = _two_marks(
        tmp_path / "task", silent
    )  # which ends no turn of the model's, so that the first mark stands there
    tune(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        tune(recipe, tmp_path / "cut", Stop(step=2))
    chatting.folder(tmp_path / "task" / "model", CHATML)
    (tmp_path / "task" / "model" / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 2]}))
    facts = json.loads((tmp_path / "cut" / "run.json").read_text())
    assert facts.pop("answer_end") == 0
    (tmp_path / "cut" / "run.json").write_text(json.dumps(facts))
    resume(tmp_path / "cut")
    assert artefacts(tmp_path / "cut") == artefacts(tmp_path / "whole")


def test_stop_texts_end_answers_where_transformers_ends_them(tmp_path):
    """In the middle of tokens, and across them; alone, and whichever comes first."""
    manual = {**chatting.written(tmp_path, task__max_new_tokens=16), "method": {"name": "manual"}}
    texts = [json.loads(line)["text"] for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    model = tandemtune.tune(manual, out=tmp_path / "free", progress="none").model
    plain, tokenizer = model.scorer.backbone.model, model.scorer.backbone.tokenizer

    def written(stop):
        more = {"stop_strings": stop, "tokenizer": tokenizer} if stop else {}
        for prompt in chatting.prompts_of(model, texts):
            ids = torch.tensor([prompt.ids])
            mask = torch.ones_like(ids)
            made = plain.generate(ids, attention_mask=mask, max_new_tokens=16, do_sample=False, **more)
            yield made[0, ids.shape[1] :].tolist()

    pairs = [pair for ids in written(None) for pair in pairwise(map(tokenizer.decode, ids))]
    words = {one[-1] + other[:-1] for one, other in pairs if (one + other).isascii() and other[:-1].strip()}
    across = sorted(word for word in words if word.isprintable())[:3]
    assert len(across) == 3
    for number, stop in enumerate([*([word] for word in across), [across[0][:1], *across[1:]]]):
        stopped = {**manual, "task": {**manual["task"], "stop": stop}}
        run = tandemtune.tune(stopped, out=tmp_path / f"stopped {number}", progress="none")
        made = [tokenizer.decode(ids, skip_special_tokens=True) for ids in written(stop)]
        ends = [min((text.find(one) for one in stop if one in text), default=len(text)) for text in made]
        assert [one.text for one in run.model.predict(texts)] == [
            text[:end].strip() for text, end in zip(made, ends, strict=True)
        ]
        assert any(end < len(text) for text, end in zip(made, ends, strict=True))

"""A real small model in this process, and llama.cpp's own server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest
from loopback import BRIEF, CHAT, words

from real import fetched
from tandemtune.errors import MentorRefused, MentorUnavailable, UsageError
from tandemtune.mentor import Course, EndpointClient, LayerGain, LlamaClient, Mentor, Request, Transcript
from tandemtune.mentor.replies import explained
from tandemtune.mentor.requests import complete

REAL = replace(BRIEF, wanted=4, limit=16)


@pytest.fixture(scope="module")
def folder():
    pytest.importorskip("xllamacpp")
    return fetched("smollm2-135m-gguf")


@pytest.fixture(scope="module")
def llama(folder):
    client = LlamaClient(folder / "model.gguf")
    yield client
    client.close()


@pytest.mark.assets
def test_a_small_model_proposes_prompts_by_continuing_a_list(llama, tmp_path, capfd):
    transcript = Transcript(tmp_path / "t.jsonl", llama)
    mentor = Mentor(transcript, style="complete", seed=13)
    turns = [mentor.propose(REAL, words, turn=turn) for turn in range(2)]
    accepted = [text for turn in turns for text in turn.accepted]
    print(turns)
    assert len(accepted) >= 6 and len(set(accepted)) >= 6
    assert (
        sum(any(w in text.lower() for w in ("movie", "film", "review", "view", "it", "you")) for text in accepted) >= 4
    )
    assert all(len(text.split()) > 0 and text[0].isupper() and text[-1] in ":.?" for text in accepted)
    assert capfd.readouterr().err == "", "llama.cpp is silent"


@pytest.mark.assets
@pytest.mark.slow
def test_the_same_request_has_the_same_answer_in_any_process(llama, folder):
    request = replace(complete(REAL, grammar=True, temperature=0.9, seed=5), max_tokens=24)
    long = replace(CHAT, messages=(("user", "Tell me about films. " * 12),), max_tokens=16, temperature=1.0)
    first = [llama.ask(request), llama.ask(long), llama.ask(request)]
    assert first[0] == first[2] and first[0] != llama.ask(replace(request, seed=6))
    code = (
        "import json, sys\nfrom dataclasses import asdict\nfrom tandemtune.mentor import LlamaClient, Request\n"
        "client = LlamaClient(sys.argv[1])\n"
        "for line in json.loads(sys.argv[2]):\n    print(json.dumps(asdict(client.ask(Request(**line)))))"
    )
    asked = json.dumps([asdict(long), asdict(request)])
    command = [sys.executable, "-c", code, str(folder / "model.gguf"), asked]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [json.loads(line)["text"] for line in run.stdout.splitlines()] == [first[1].text, first[0].text]
    assert run.stderr == ""


@pytest.mark.assets
def test_schema_grammar_and_name(llama):
    assert llama.name == "smollm2-135m-gguf" and llama.offers == {"schema", "grammar"}
    schema = {
        "type": "object",
        "properties": {
            "prompts": {"type": "array", "items": {"type": "string", "maxLength": 20}, "minItems": 2, "maxItems": 2}
        },
        "required": ["prompts"],
    }
    reply = llama.ask(replace(CHAT, schema=schema, max_tokens=80))
    assert len(json.loads(reply.text)["prompts"]) == 2
    constrained = Request(
        style="complete", prompt="One", max_tokens=9, temperature=1.0, seed=1, grammar='root ::= " two three"'
    )
    assert llama.ask(constrained).text == " two three"
    german = complete(
        replace(REAL, definition="Lobt der Satz den Film, den er prüft?"), grammar=True, temperature=0.8, seed=1
    )
    assert llama.ask(replace(german, max_tokens=20)).text.startswith(" ")


@pytest.mark.assets
def test_requests_that_llama_cpp_refuses(llama):
    with pytest.raises(MentorRefused, match="context"):
        llama.ask(replace(CHAT, messages=(("user", "word " * 3000),)))
    with pytest.raises(MentorRefused, match="grammar"):
        llama.ask(replace(CHAT, style="complete", prompt="x", grammar="root ::= ("))
    assert llama.ask(replace(CHAT, max_tokens=3)).completion_tokens <= 3


@pytest.mark.assets
@pytest.mark.slow
def test_llama_cpp_s_own_server_is_an_endpoint(llama):
    client = EndpointClient("smollm2", base_url=llama._server.listening_address + "/v1", timeout=60)
    reply = client.ask(replace(CHAT, max_tokens=8, temperature=0.0))
    assert reply.text and reply.prompt_tokens > 5 and 0 < reply.completion_tokens <= 8
    prompts = {"type": "array", "items": {"type": "string", "maxLength": 20}, "minItems": 2, "maxItems": 2}
    schema = {
        "type": "object",
        "properties": {"prompts": prompts},
        "required": ["prompts"],
        "additionalProperties": False,
    }
    formed = client.ask(replace(CHAT, schema=schema, max_tokens=80))
    assert formed.without == () and len(json.loads(formed.text)["prompts"]) == 2, "it takes response_format"
    chatted = Mentor(client, style="chat", asks=1).propose(replace(REAL, wanted=1), words, turn=1)
    assert not chatted.problems and len(chatted.accepted) + len(chatted.refused) == 1
    found = Mentor(client, style="complete").propose(REAL, words, turn=1)
    assert found.accepted
    course = Course((LayerGain(3, 2, 0.5, 0.1), LayerGain(5)), 1, 2, 10, 1.0, 0.7, 0)
    actions, problem = Mentor(client, style="chat").steer(course, REAL.definition, turn=1)
    assert problem is None and actions is not None and set(actions.layers) <= {3, 5}
    with pytest.raises(MentorRefused, match="400"):
        client.ask(replace(CHAT, messages=(("user", "word " * 3000),)))


ENDLESS = Request(
    style="complete", prompt="One, two, three, four, five, six,", max_tokens=1500, temperature=0.8, seed=1
)


@pytest.mark.assets
@pytest.mark.slow
def test_an_answer_that_was_cut_where_the_context_ends_says_so(folder):
    small = LlamaClient(folder / "model.gguf", context=256)
    endless = replace(ENDLESS, grammar='root ::= " one" root')
    reply = small.ask(endless)
    assert reply.finish_reason == "length" and reply.completion_tokens < 256 and reply.context == 256
    told = explained("it is no list", reply, endless, "it named a prompt")[1]
    assert "had 256 tokens, before it named a prompt" in told and "a larger [mentor] context" in told
    assert small.ask(replace(endless, max_tokens=5)).context == 0
    with pytest.raises(MentorRefused, match=r"a larger \[mentor\] context"):
        small.ask(replace(CHAT, messages=(("user", "word " * 600),)))
    small.close()


@pytest.mark.assets
def test_an_answer_that_takes_too_long_ends(folder, llama):
    hasty = LlamaClient(folder / "model.gguf", timeout=0.2)
    begin = time.monotonic()
    with pytest.raises(MentorUnavailable, match=r"more than 0\.2 s"):
        hasty.ask(ENDLESS)
    assert time.monotonic() - begin < 5
    hasty.close()


@pytest.mark.assets
def test_ctrl_c_ends_an_answer(llama):
    hand = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        hand.start()
        llama.ask(ENDLESS)
        time.sleep(5)
    assert time.monotonic() - begin < 5
    assert llama.ask(replace(CHAT, max_tokens=3)).text, "and the next question is answered"


@pytest.mark.parametrize("content", [None, b"no model", b"GGUF", b"GGUF\x03\x00\x00\x00" + b"\x00" * 100])
def test_files_that_are_no_model(tmp_path, content, capfd):
    pytest.importorskip("xllamacpp")
    path = tmp_path / "x.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"mentor model .*x\.gguf"):
        LlamaClient(path)
    with pytest.raises(UsageError, match="found a folder"):
        LlamaClient(tmp_path)
    assert capfd.readouterr().err == ""


def test_without_the_package_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(UsageError, match=r"pip install 'tandemtune\[local-mentor\]'"):
        LlamaClient(tmp_path / "x.gguf")

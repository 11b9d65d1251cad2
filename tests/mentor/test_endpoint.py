"""An OpenAI-compatible endpoint: what is sent, what each kind of failure becomes, and that the key goes nowhere else."""

from __future__ import annotations

import email.utils
import json
import logging
import socket
import subprocess
import sys
import time
import traceback
from dataclasses import replace

import pytest
from loopback import CHAT, COMPLETE, KEY, completion, cut, drip, drop, error, hang, raw, say

from tandemtune.errors import MentorRefused, MentorUnavailable, UsageError
from tandemtune.mentor import EndpointClient, Reply, endpoint

SCHEMA = {"type": "object", "properties": {"prompts": {"type": "array"}}}


def failed(client, kind, request=CHAT):
    with pytest.raises(kind) as caught:
        client.ask(request)
    return caught.value


def test_a_chat_is_sent_in_the_protocol_s_words(server, client):
    server.answers = [say("Hi")]
    assert client.ask(replace(CHAT, schema=SCHEMA)) == Reply("Hi", 11, 7, "stop", "tiny")
    (seen,) = server.seen
    assert seen["path"] == "/v1/chat/completions" and seen["headers"]["Authorization"] == f"Bearer {KEY}"
    body = seen["body"]
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert (body["model"], body["max_tokens"], body["temperature"], body["seed"]) == ("tiny", 50, 0.5, 1)
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA and "stop" not in body


def test_a_text_to_be_continued_is_sent_as_a_completion(server, client):
    server.answers = [say(" b\n- c")]
    assert client.ask(COMPLETE).text == " b\n- c"
    (seen,) = server.seen
    assert seen["path"] == "/v1/completions"
    assert seen["body"]["prompt"] == "- a\n-" and seen["body"]["stop"] == ["\n\n"]


def test_the_idempotency_key_is_the_request_s(server, client):
    for request in (CHAT, CHAT, replace(CHAT, nth=2), replace(CHAT, seed=2)):
        client.ask(request)
    one, again, second, other = (each["headers"]["Idempotency-Key"] for each in server.seen)
    assert one == again and len({one, second, other}) == 3


@pytest.mark.parametrize("status", [429, 500, 502, 503, 529, 408, 409])
def test_trouble_that_may_pass(server, client, status):
    server.answers = [error(status, "busy")]
    found = failed(client, MentorUnavailable)
    assert str(status) in str(found) and "busy" in str(found) and found.wait is None
    assert len(server.seen) == 1, "it is the transcript that repeats"


def test_retry_after_in_seconds_and_as_a_date(server, client):
    server.answers = [error(429, retry_after="7.5")]
    assert failed(client, MentorUnavailable).wait == 7.5
    server.answers = [error(503, retry_after=email.utils.formatdate(time.time() + 60, usegmt=True))]
    assert 50 < failed(client, MentorUnavailable).wait < 61
    server.answers = [error(503, retry_after="soon")]
    assert failed(client, MentorUnavailable).wait is None


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (error(401, "Incorrect API key"), "MENTOR_KEY"),
        (error(403, "not allowed"), "MENTOR_KEY"),
        (error(404, "no model tiny"), "no model tiny"),
        (error(400, "context of 10 tokens exceeded"), "context of 10 tokens"),
        (error(429, "You exceeded your quota", code="insufficient_quota"), "no credit"),
    ],
)
def test_trouble_that_stays(server, client, answer, words):
    server.answers = [answer]
    assert words in str(failed(client, MentorRefused))


def test_a_hang_ends_at_the_time_limit(server, key):
    client = EndpointClient("tiny", base_url=server.url, key_env="MENTOR_KEY", timeout=0.3)
    for answer in (hang, drip):
        server.answers = [answer]
        begin = time.monotonic()
        found = failed(client, MentorUnavailable)
        assert time.monotonic() - begin < 3 and found.paid and "0.3 s" in str(found)


@pytest.mark.parametrize("answer", [drop, cut])
def test_a_cut_connection(server, client, answer):
    server.answers = [answer]
    found = failed(client, MentorUnavailable)
    assert found.paid and "broke" in str(found)


def test_nobody_there(key):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = failed(
        EndpointClient("tiny", base_url=f"http://127.0.0.1:{port}/v1", key_env="MENTOR_KEY"), MentorUnavailable
    )
    assert not found.paid and "cannot be reached" in str(found)


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices": [',
        b"<html>busy</html>",
        b"",
        b"null",
        b"[1]",
        b'{"choices": []}',
        b'{"error": "busy"}',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_an_answer_that_is_no_completion(server, client, body):
    server.answers = [raw(body)]
    found = failed(client, MentorUnavailable)
    assert found.paid and "expected a completion as JSON" in str(found) and len(str(found)) < 600


@pytest.mark.parametrize(
    "answer",
    [
        raw(b"[" * 100_000, 500),
        raw(b"no gzip", 500, Content_Encoding="gzip"),
        raw(b"no gzip", Content_Encoding="gzip"),
        error(429, "x", code=["list"], type={}),
        error(503, ["list"]),
        raw(b"", 307, Location="/v1/chat/completions"),
    ],
)
def test_answers_that_nobody_expects(server, client, answer):
    server.answers = [answer]
    failed(client, MentorUnavailable)


@pytest.mark.parametrize("content", [None, "", 3, [{"type": "text", "text": "x"}]])
def test_an_answer_without_text_is_an_empty_one(server, client, content):
    server.answers = [say(content)]
    assert client.ask(CHAT).text == ""


def test_an_answer_of_no_known_size_and_half_characters(server, client):
    server.answers = [
        say("\ud800 half", usage=None),
        say("x", usage={"prompt_tokens": "many", "completion_tokens": -1}),
    ]
    reply = client.ask(CHAT)
    assert reply.text == "? half" and reply.prompt_tokens == CHAT.most_prompt_tokens and reply.completion_tokens == 6
    assert client.ask(CHAT).completion_tokens == 1


def test_an_answer_without_end_is_not_read_to_its_end(server, client, monkeypatch):
    monkeypatch.setattr(endpoint, "_LARGEST", 1_000_000)
    server.answers = [say("x" * 2_000_000)]
    assert "more than 1 MB" in str(failed(client, MentorUnavailable))


def test_a_schema_that_is_not_taken_is_left_out_from_then_on(server, client):
    server.answers = [error(400, "json_schema is not supported here"), say("fine")]
    request = replace(CHAT, schema=SCHEMA)
    assert client.ask(request) == Reply("fine", 11, 7, "stop", "tiny", without=("response_format",))
    client.ask(request)
    assert ["response_format" in body for body in server.bodies] == [True, False, False]
    assert client.offers == {"schema"}, "requests are built from it, so it does not change"


def test_newer_models_get_the_names_that_they_take(server, client):
    message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    server.answers = [error(400, message, param="max_tokens"), error(400, "only 1", param="temperature"), say("fine")]
    assert client.ask(CHAT).without == ("max_tokens", "temperature")
    last = server.bodies[-1]
    assert last["max_completion_tokens"] == 50 and "max_tokens" not in last and "temperature" not in last


def test_too_many_tokens_are_not_answered_by_asking_without_a_limit(server, client):
    server.answers = [error(400, "max_tokens is too large")]
    failed(client, MentorRefused)
    assert len(server.seen) == 1


def test_unstructured_offers_nothing(server):
    assert EndpointClient("tiny", base_url=server.url, structured=False).offers == frozenset()


class TestKey:
    @pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 418])
    def test_an_endpoint_that_repeats_it(self, server, client, status, caplog):
        caplog.set_level(logging.DEBUG)
        server.answers = [
            error(status, f"wrong key {KEY}", code=KEY, param=KEY),
            raw(f"you sent {KEY}".encode(), status),
        ]
        for _ in range(2):
            found = failed(client, (MentorRefused, MentorUnavailable))
            assert found.__cause__ is None and found.__context__ is None, "the SDK's errors hold the request"
            told = "".join(traceback.format_exception(found)) + repr(found) + repr(found.args) + repr(vars(found))
            assert KEY not in told and KEY not in caplog.text

    def test_an_answer_that_repeats_it(self, server, client):
        text = f'Bearer {KEY} and "{KEY}"'
        server.answers = [say(text, model=KEY), raw(b"no json " + KEY.encode())]
        reply = client.ask(CHAT)
        assert reply.text == 'Bearer [key] and "[key]"' and reply.model == "[key]"
        assert KEY not in str(failed(client, MentorUnavailable))

    def test_one_that_json_writes_in_another_way(self, server, client):
        body = json.dumps(completion(KEY, {"messages": []})).replace("/", "\\/").encode()
        assert KEY.encode() not in body
        server.answers = [raw(body)]
        assert client.ask(CHAT).text == "[key]"
        server.answers = [raw(json.dumps({"error": KEY}).replace("/", "\\/").encode())]
        assert '{"error": "[key]"}' in str(failed(client, MentorUnavailable))

    def test_the_client_does_not_show_it(self, client):
        assert KEY not in repr(client) + str(client) + client.name

    def test_missing_is_said_before_anything_is_sent(self, monkeypatch):
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        with pytest.raises(UsageError, match=r"api\.openai\.com needs a key.*OPENAI_API_KEY"):
            EndpointClient("big")

    @pytest.mark.parametrize("value", ["sk-ab\ncd", "sk-ab cd", "sk-ä", "sk-\x00"[:3] + "\x7f"])
    def test_one_that_no_header_can_carry(self, monkeypatch, value):
        monkeypatch.setenv("MENTOR_KEY", value)
        with pytest.raises(UsageError, match="MENTOR_KEY: expected a key of plain characters") as caught:
            EndpointClient("big", key_env="MENTOR_KEY")
        assert value not in str(caught.value)

    def test_a_line_end_behind_it_does_no_harm(self, server, monkeypatch):
        monkeypatch.setenv("MENTOR_KEY", KEY + "\n")
        EndpointClient("tiny", base_url=server.url, key_env="MENTOR_KEY").ask(CHAT)
        assert server.seen[0]["headers"]["Authorization"] == f"Bearer {KEY}"

    def test_an_endpoint_on_this_machine_goes_without(self, server, monkeypatch):
        monkeypatch.delenv("MENTOR_KEY", raising=False)
        assert EndpointClient("tiny", base_url=server.url, key_env="MENTOR_KEY").ask(CHAT).text


@pytest.mark.parametrize(
    "address",
    [
        "",
        "localhost:80",
        "ftp://host/v1",
        "http://",
        "http://[",
        "https://me:pw123@host/v1",
        "https://host/v1?key=pw123",
    ],
)
def test_addresses_that_cannot_be_used(address):
    with pytest.raises(UsageError, match="mentor address") as caught:
        EndpointClient("big", base_url=address)
    assert "pw123" not in str(caught.value)


def test_without_the_sdk_it_says_how_to_get_it(monkeypatch, server):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UsageError, match=r"pip install 'tandemtune\[mentor\]'"):
        EndpointClient("tiny", base_url=server.url)


def test_importing_the_package_loads_neither_sdk_nor_models():
    code = "import sys, tandemtune.mentor; print({'openai', 'xllamacpp', 'torch', 'transformers'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"

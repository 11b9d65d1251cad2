"""An OpenAI-compatible endpoint: what is sent, what each kind of failure becomes, and that the key goes nowhere else."""

from __future__ import annotations

import email.utils
import json
import logging
import shutil
import socket
import ssl
import subprocess
import sys
import time
import traceback
from dataclasses import replace

import pytest
from loopback import CHAT, COMPLETE, KEY, completion, cut, drip, drop, error, hang, message, raw, say, serving, stream

import small
from tandemtune.errors import MentorRefused, MentorUnavailable, UsageError
from tandemtune.mentor import EndpointClient, Reply, endpoint
from tandemtune.mentor.replies import explained

SCHEMA = {"type": "object", "properties": {"prompts": {"type": "array"}}}


PIECE = 'data: {"choices":[{"delta":{"content":"1. one\\n2. tw"}}]}'


def events(*lines):
    """A stream of these events, with no more of an end than they have."""
    return raw("\n\n".join([*lines, ""]).encode(), Content_Type="text/event-stream")


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
        (error(403, "not allowed"), "does not let the request in (403): not allowed; if it is the key: look at"),
        (
            error(403, f"the key {KEY[:12]}... is not allowed"),
            "refused the key (403): check the environment variable MENTOR_KEY",
        ),
        (
            error(403, "Country, region, or territory not supported"),
            "(403): Country, region, or territory not supported",
        ),
        (raw(b"<html><title>Access denied by proxy</title></html>", 403), "(403): a web page (Access denied by proxy)"),
        (raw(b"", 403), "refused the key (403)"),
        (error(404, "no model tiny"), "no model tiny"),
        (error(400, "context of 10 tokens exceeded"), "context of 10 tokens"),
        (error(429, "You exceeded your quota", code="insufficient_quota"), "no credit"),
        (error(402, "Insufficient Balance"), "no credit"),
        (error(407, "who are you"), "HTTPS_PROXY"),
        (error(400, "context of 10 tokens exceeded", param={}), "context of 10 tokens"),
        (error(422, "no"), "does not take the request"),
        (raw(json.dumps({"detail": "Not Found"}).encode(), 404), "Not Found"),
        (raw(b"<html><title>Nothing here</title></html>", 404), "a web page (Nothing here)"),
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
        assert time.monotonic() - begin < 30 and found.paid and "0.3 s" in str(found)


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
    ("answer", "words"),
    [
        (raw(b'{"choices": ['), "expected a completion as JSON"),
        (raw(b""), "expected a completion as JSON"),
        (raw(b"null"), "expected a completion as JSON"),
        (raw(b"[1]"), "expected a completion as JSON"),
        (raw(b'{"choices": []}'), "expected a completion as JSON"),
        (raw(b'{"choices": null}'), "expected a completion as JSON"),
        (raw(b'{"choices": [null]}'), "expected a completion as JSON"),
        (raw(b"[" * 100_000), "expected a completion as JSON"),
        (raw(b"\xff"), "expected a completion as JSON"),
        (raw(b"data: {"), "expected a completion as JSON"),
        (raw(b"<html><head><title>Sign in</title></head></html>"), "a web page (Sign in): check the address"),
        (raw(b"<!DOCTYPE html>busy"), "a web page: check the address"),
        (raw(b'{"error": "busy"}'), "answered with an error: busy"),
        (raw(b'{"error": {"message": "busy", "code": 502}}'), "answered with an error: busy"),
        (raw(b'{"error": {"message": "busy", "code": ["x"]}}'), "answered with an error: busy"),
        (raw(b'{"detail": [{"msg": "busy"}]}'), "busy"),
        (say(None, choices=[{"error": {"message": "busy", "code": 502}, "message": {}}]), "an error: busy"),
        (message("error", content=""), "failed in the middle"),
        (stream({"error": {"message": "busy"}}), "answered with an error: busy"),
        (stream({"choices": [{"delta": {"content": "x"}}]}, {"error": {"message": "busy"}}), "an error: busy"),
        (stream(), "expected a completion as JSON"),
        (events(PIECE, 'error: {"code":500,"message":"slot failed"}'), "an error: slot failed"),
        (events(PIECE, 'event: error\ndata: {"message":"overloaded"}'), "an error: overloaded"),
        (events(PIECE, "event: error\ndata: overloaded", "data: [DONE]"), "an error: overloaded"),
        (events(PIECE), "broke off in the middle"),
        (events(PIECE, 'data: {"choi'), "broke off in the middle"),
        (events(PIECE, 'data: {"choi', PIECE, "data: [DONE]"), "broke off in the middle"),
    ],
)
def test_an_answer_that_is_no_completion(server, client, answer, words):
    server.answers = [answer]
    found = failed(client, MentorUnavailable)
    assert found.paid and words in str(found) and len(str(found)) < 600 and "\n" not in str(found)


def test_an_address_without_a_path_is_pointed_at(server, client, key):
    """llama.cpp answers there, too, but in words of its own."""
    bare = EndpointClient("tiny", base_url=server.url.removesuffix("/v1"), key_env="MENTOR_KEY")
    for asked, pointed in ((bare, True), (client, False)):
        server.answers = [raw(b'{"content": "one"}')]
        assert ("base_url has no path" in str(failed(asked, MentorUnavailable))) is pointed


@pytest.mark.parametrize(
    ("code", "words"), [(401, "MENTOR_KEY"), (404, "no such model"), (402, "no such model"), (400, "no such model")]
)
def test_an_error_with_a_good_status_that_stays(server, client, code, words):
    server.answers = [raw(json.dumps({"error": {"message": "no such model", "code": code}}).encode())]
    assert words in str(failed(client, MentorRefused))


def test_a_wrong_model_s_name_is_told_with_those_there_are(server, client):
    server.answers = [error(404, "model not found")]
    server.models = ["tiny-2b", "huge"]
    assert "did you mean tiny-2b?" in str(failed(client, MentorRefused))
    server.models = ["huge", "large"]
    assert "it has huge, large" in str(failed(client, MentorRefused))
    server.models = ["tiny"]
    assert "ends where the endpoint's documentation says" in str(failed(client, MentorRefused))


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


@pytest.mark.parametrize("content", [None, "", 3, [], [{"type": "thinking", "thinking": "x"}], [None], {"text": "x"}])
def test_an_answer_without_text_is_an_empty_one(server, client, content):
    server.answers = [say(content)]
    assert client.ask(CHAT).text == ""


PARTS = [
    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
    {"type": "text", "text": "o"},
    {"text": "ne"},
]
CALL = {"type": "function", "function": {"name": "tool", "arguments": '{"prompt": "one"}'}}


@pytest.mark.parametrize(
    ("answer", "text", "finish", "reasoning"),
    [
        (message(content=PARTS), "one", "stop", ""),
        (message("tool_calls", content="I call it.", tool_calls=[CALL]), '{"prompt": "one"}', "tool_calls", ""),
        (message(tool_calls=[CALL, CALL]), '[{"prompt": "one"}, {"prompt": "one"}]', "stop", ""),
        (message(function_call={"name": "tool", "arguments": {"prompt": "one"}}), '{"prompt": "one"}', "stop", ""),
        (message(content="one", tool_calls=None), "one", "stop", ""),
        (message(content="one", tool_calls=[None, {"function": None}, {}]), "one", "stop", ""),
        (message(content=None, reasoning_content="hm"), "", "stop", "hm"),
        (message(content="one", reasoning="hm"), "one", "stop", "hm"),
        (message(content=None, refusal="I must not."), "I must not.", "refusal", ""),
        (message("content_filter", content=None), "", "content_filter", ""),
        (message(None, content="one"), "one", "", ""),
        (
            stream(
                {"choices": [{"delta": {"role": "assistant", "reasoning_content": "hm"}}]},
                {"choices": [{"delta": {"content": "o"}}]},
                {"choices": [{"delta": {"content": "ne"}, "finish_reason": "length"}]},
                {"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 7}},
            ),
            "one",
            "length",
            "hm",
        ),
    ],
)
def test_where_servers_put_an_answer(server, client, answer, text, finish, reasoning):
    server.answers = [answer]
    reply = client.ask(CHAT)
    assert (reply.text, reply.finish_reason, reply.reasoning) == (text, finish, reasoning)
    assert reply.completion_tokens == 7


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


def test_a_model_that_thinks_is_asked_in_its_own_words(server, client):
    server.answers = [say("fine")]
    assert client.ask(replace(CHAT, thinking=True)).without == ()
    body = server.bodies[-1]
    assert body["max_completion_tokens"] == 50 and "max_tokens" not in body and "temperature" not in body


def test_a_server_that_knows_only_the_old_name_of_the_limit(server, client):
    server.answers = [error(422, "Extra inputs are not permitted: max_completion_tokens"), say("fine")]
    client.ask(replace(CHAT, thinking=True))
    assert server.bodies[-1]["max_tokens"] == 50 and "max_completion_tokens" not in server.bodies[-1]


def test_a_limit_is_never_left_out(server, client):
    server.answers = [error(400, "unknown: max_completion_tokens, take max_tokens or max_completion_tokens")]
    failed(client, MentorRefused, replace(CHAT, thinking=True))
    assert all("max_tokens" in body or "max_completion_tokens" in body for body in server.bodies)
    assert len(server.bodies) == 2
    server.answers = [error(400, "max_completion_tokens is too large: at most 20")]
    found = failed(EndpointClient("tiny", base_url=server.url), MentorRefused, replace(CHAT, thinking=True))
    assert "too large" in str(found)


def test_a_stream_ends_with_a_reason_or_a_mark_and_lines_end_with_line_feeds_alone(server, client):
    said = PIECE.replace("tw", "two\u2028\x85")
    for end in ("data: [DONE]", 'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}'):
        server.answers = [events("event: message\n" + said, "retry: 5", end)]
        assert client.ask(CHAT).text == "1. one\n2. two\u2028\x85"


def test_what_stands_behind_a_router_is_heard(server, client):
    inner = {"error": {"message": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."}}
    metadata = {"raw": json.dumps(inner), "provider_name": "OpenAI"}
    server.answers = [error(400, "Provider returned error", code=400, metadata=metadata), say("fine")]
    assert client.ask(CHAT).without == ("max_tokens",)
    for answer, code in (
        (error, 400),
        (lambda _, *a, **f: raw(json.dumps({"error": {"message": a[0], **f}}).encode()), 200),
    ):
        for said in (json.dumps({"error": {"message": f"no room {KEY}"}}).replace("/", "\\/"), f"no room {KEY}"):
            server.answers = [answer(code, "Provider returned error", code=400, metadata={"raw": said})]
            assert "Provider returned error: no room [key]" in str(failed(client, MentorRefused))


def test_a_setting_is_found_however_late_it_is_named(server, client):
    server.answers = [error(400, "x" * 400 + " Unsupported value: 'temperature'"), say("fine")]
    assert client.ask(CHAT).without == ("temperature",)


def test_a_model_that_thought_to_the_end_of_its_tokens_has_said_nothing(server, client):
    """Some endpoints call that a wrong request."""
    said = "Could not finish the message because max_tokens or model output limit was reached. Please try again with higher max_tokens."
    server.answers = [error(400, said)]
    client.contact()
    reply = client.ask(CHAT)
    assert (reply.text, reply.finish_reason, reply.completion_tokens, reply.without) == ("", "length", 50, ())
    problem, told = explained("it is empty", reply, CHAT, "it named a prompt")
    assert problem.startswith("it was cut off at 50 tokens") and "[mentor] thinking = true" in told


class TestContact:
    def test_it_is_one_small_question(self, server, client):
        client.contact()
        client.contact("complete")
        client.contact(thinking=True)
        chat, complete, thinking = server.seen
        assert chat["path"].endswith("/chat/completions") and chat["body"]["max_tokens"] <= 16
        assert complete["path"] == "/v1/completions" and complete["body"]["max_tokens"] <= 16
        assert thinking["body"]["max_completion_tokens"] > 16

    @pytest.mark.parametrize("answer", [message("length", content=""), message(content=None, reasoning_content="hm")])
    def test_any_answer_will_do(self, server, client, answer):
        server.answers = [answer]
        client.contact()

    def test_what_is_wrong_is_found(self, server, client):
        for answer, kind in (
            (error(401), MentorRefused),
            (error(404), MentorRefused),
            (raw(b"<html></html>"), MentorUnavailable),
            (raw(b'{"choices": []}'), MentorUnavailable),
        ):
            server.answers = [answer]
            with pytest.raises(kind):
                client.contact()


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
        assert "an error: [key]" in str(failed(client, MentorUnavailable))

    def test_the_client_does_not_show_it(self, client):
        assert KEY not in repr(client) + str(client) + client.name

    def test_missing_is_said_before_anything_is_sent(self, monkeypatch, server):
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        with pytest.raises(UsageError, match=r"api\.openai\.com needs a key.*OPENAI_API_KEY"):
            EndpointClient("big")
        monkeypatch.delenv("MENTOR_KEY", raising=False)
        for address in (server.url, "https://host/v1", "http://host/v1"):
            with pytest.raises(UsageError, match=r"needs a key.*MENTOR_KEY, which is not set.*leave key_env out"):
                EndpointClient("big", base_url=address, key_env="MENTOR_KEY")

    @pytest.mark.parametrize(
        "host", ["mentor.example", "192.168.1.5:8000", "127.0.0.1.example", "[2001:db8::1]", "0.0.0.0"]
    )
    def test_none_travels_unencrypted(self, key, host):
        with pytest.raises(
            UsageError, match=r"expected https://.*MENTOR_KEY unencrypted.*ssh -L.*leave key_env out"
        ) as caught:
            EndpointClient("big", base_url=f"http://{host}/v1", key_env="MENTOR_KEY")
        assert KEY not in str(caught.value)
        EndpointClient("big", base_url=f"https://{host}/v1", key_env="MENTOR_KEY")

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "127.1.2.3", "[::1]"])
    def test_on_this_machine_it_may(self, key, host):
        EndpointClient("big", base_url=f"http://{host}/v1", key_env="MENTOR_KEY")

    def test_openai_s_own_goes_to_openai_alone(self, server, monkeypatch):
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        client = EndpointClient("tiny", base_url=server.url)
        client.ask(CHAT)
        assert KEY not in str(server.seen[0]["headers"])
        EndpointClient("big", base_url="http://mentor.example/v1")
        server.answers = [error(401, "who are you")]
        assert "wants a key (401): name the environment variable" in str(failed(client, MentorRefused))

    @pytest.mark.parametrize(
        "answer",
        [
            message(content=None, reasoning_content=f"hm {KEY}"),
            message(content=[{"type": "text", "text": KEY}]),
            message(tool_calls=[{"function": {"name": KEY, "arguments": json.dumps({"prompts": [KEY]})}}]),
            message(content=None, refusal=KEY),
            stream({"choices": [{"delta": {"content": KEY[:5]}}]}, {"choices": [{"delta": {"content": KEY[5:]}}]}),
        ],
    )
    def test_no_part_of_an_answer_holds_it(self, server, client, answer):
        server.answers = [answer]
        assert KEY not in repr(client.ask(CHAT))

    @pytest.mark.parametrize(
        "answer",
        [
            error(404, f"no {KEY}"),
            raw(f"<html><title>{KEY}</title>".encode()),
            raw(f"<html><title>{KEY}</title></html>".encode(), 502),
            raw(json.dumps({"error": {"message": KEY, "code": 400}}).encode()),
            raw(json.dumps({"detail": {KEY: KEY}}).encode()),
            raw(json.dumps({KEY: [KEY]}).encode()),
            stream({"error": {"message": KEY}}),
        ],
    )
    def test_no_error_holds_it(self, server, client, answer):
        server.answers, server.models = [answer], [KEY]
        found = failed(client, (MentorRefused, MentorUnavailable))
        assert KEY not in "".join(traceback.format_exception(found)) + repr(vars(found))

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

    def test_nothing_else_of_the_environment_is_sent(self, server, client, monkeypatch):
        ambient = {
            "OPENAI_CUSTOM_HEADERS": "Authorization: Bearer ambient-1\nX-Token: ambient-2",
            "OPENAI_ORG_ID": "ambient-3",
            "OPENAI_PROJECT_ID": "ambient-4",
            "OPENAI_ADMIN_KEY": "ambient-5",
            "OPENAI_API_KEY": "ambient-6",
        }
        for name, value in ambient.items():
            monkeypatch.setenv(name, value)
        for made in (
            EndpointClient("tiny", base_url=server.url),
            EndpointClient("tiny", base_url=server.url, key_env="MENTOR_KEY"),
        ):
            server.answers = [say("yes"), error(404)]
            made.ask(CHAT)
            failed(made, MentorRefused)
        assert len(server.seen) == 4 and len(server.listed) == 2
        assert "ambient" not in str([each["headers"] for each in server.seen]) + str(server.listed)
        assert [each["headers"]["Authorization"] for each in server.seen] == ["Bearer none"] * 2 + [f"Bearer {KEY}"] * 2

    @pytest.mark.parametrize("value", ["sk-proj-s3cret", "gsks3cret", " s3cret", "Bearer s3cret"])
    def test_one_in_the_wrong_place_is_not_repeated(self, tmp_path, value):
        with pytest.raises(UsageError, match="key_env") as caught:
            EndpointClient("big", key_env=value)
        assert "s3cret" not in str(caught.value)
        made = small.recipe(tmp_path, "gpt2", mentor__client="endpoint", mentor__mentor="big", mentor__key_env=value)
        made["method"] = {"name": "maao"}
        called = small.call("run", small.write_recipe(tmp_path / "recipe.json", made), "--out", tmp_path / "run")
        assert called.code == 2 and "key_env" in called.err and "s3cret" not in called.out + called.err

    def test_an_endpoint_may_need_none(self, server):
        assert EndpointClient("tiny", base_url=server.url).ask(CHAT).text


class TestNetwork:
    def test_no_proxy_stands_between_programs_of_one_machine(self, server, client, key, monkeypatch):
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        assert EndpointClient("tiny", base_url=server.url, key_env="MENTOR_KEY").ask(CHAT).text

    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            (raw(b"<html><title>Login</title></html>"), "a web page (Login)"),
            (raw(b"<html><title>Bad Gateway</title></html>", 502), "a web page (Bad Gateway)"),
            (error(407, "who are you"), "the proxy wants a name and a password"),
        ],
    )
    def test_what_a_proxy_says(self, server, monkeypatch, answer, words):
        monkeypatch.setenv("HTTP_PROXY", server.url.removesuffix("/v1"))
        monkeypatch.delenv("NO_PROXY", raising=False)
        server.answers = [answer]
        client = EndpointClient("tiny", base_url="http://mentor.example/v1")
        assert words in str(failed(client, (MentorUnavailable, MentorRefused)))

    def test_a_proxy_that_refuses_to_tunnel(self, server, key, monkeypatch):
        monkeypatch.setenv("HTTPS_PROXY", server.url.removesuffix("/v1"))  # it knows no CONNECT
        monkeypatch.delenv("NO_PROXY", raising=False)
        client = EndpointClient("tiny", base_url="https://mentor.example/v1", key_env="MENTOR_KEY")
        assert "the proxy refused; check HTTPS_PROXY" in str(failed(client, MentorUnavailable))

    def test_a_proxy_that_is_none(self, key, monkeypatch):
        monkeypatch.setenv("HTTPS_PROXY", "nonsense://x")
        with pytest.raises(UsageError, match="check the environment variables HTTPS_PROXY"):
            EndpointClient("tiny", base_url="https://mentor.example/v1", key_env="MENTOR_KEY")

    def test_no_such_host(self, key, monkeypatch):
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        client = EndpointClient("tiny", base_url="https://no-such-host.invalid/v1", key_env="MENTOR_KEY", timeout=5)
        assert "no such host" in str(failed(client, MentorUnavailable))

    def test_https_where_there_is_none(self, server):
        client = EndpointClient("tiny", base_url=server.url.replace("http:", "https:"))
        assert "no TLS there; is the address one with http://" in str(failed(client, MentorUnavailable))

    @pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
    def test_a_certificate_of_one_s_own(self, tmp_path, monkeypatch):
        key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
        words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
        made = ["openssl", *words.split(), "-keyout", str(key), "-out", str(certificate)]
        subprocess.run(made, check=True, capture_output=True)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate, key)
        with serving(tls) as server:
            found = failed(EndpointClient("tiny", base_url=server.url), MentorRefused)
            assert "its certificate is not trusted" in str(found) and "SSL_CERT_FILE" in str(found)
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
            assert EndpointClient("tiny", base_url=server.url).ask(CHAT).text


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
        "htps://me:pw123@host/v1",
        "me:pw123@host/v1",
        "me:p@pw123@host/v1",
        "htps://host/v1?key=pw123",
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

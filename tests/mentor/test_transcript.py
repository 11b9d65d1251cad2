"""The transcript: all is written down, nothing is asked or paid twice, caps hold, failures pass or are told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from loopback import CHAT, COMPLETE, KEY, error, hang, message, raw, say, serving

from tandemtune.errors import BudgetSpent, MentorRefused, MentorUnavailable, RunError, UsageError
from tandemtune.mentor import Budget, EndpointClient, Ledger, RecordedClient, Reply, Transcript

OTHER = replace(CHAT, seed=2)
BUSY = error(502, "busy")
ONE_CALL = CHAT.most_prompt_tokens + CHAT.max_tokens


@pytest.fixture
def path(tmp_path):
    return tmp_path / "mentor.jsonl"


@pytest.fixture
def waits():
    return []


@pytest.fixture
def opened(path, client, waits):
    """Opens the transcript, as the next process of the run would."""
    return lambda **settings: Transcript(path, client, sleep=waits.append, **settings)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_all_that_was_said_can_be_read(path, server, opened):
    server.answers = [BUSY, say("Grüße")]
    opened().ask(CHAT)
    header, asked, failed, again, answered = lines(path)
    key = f"{CHAT.digest}-1"
    assert header == {"client": f"tiny at {server.url}", "offers": ["schema"]}
    assert asked["asked"] == again["asked"] == key and asked["request"] == CHAT.document()
    assert failed == {"failed": key, "why": f"tiny at {server.url} answered 502: busy", "paid": True, "final": False}
    assert answered["answered"] == key and answered["reply"]["text"] == "Grüße"
    assert "Grüße" in path.read_text(encoding="utf-8")


class TestRepeating:
    def test_it_waits_as_long_as_the_server_says(self, server, opened, waits):
        server.answers = [error(429, retry_after="7"), error(429, retry_after="0.5"), say("ok")]
        assert opened().ask(CHAT).text == "ok" and waits == [7, 0.5]

    def test_it_waits_longer_each_time_and_then_gives_up(self, server, opened, waits):
        server.answers = [BUSY]
        with pytest.raises(MentorUnavailable, match=r"502: busy \(asked 4 times\)"):
            opened(retries=3).ask(CHAT)
        assert waits == [1, 2, 4] and len(server.seen) == 4

    def test_it_does_not_wait_for_hours(self, server, opened, waits):
        server.answers = [error(429, retry_after="3600")]
        with pytest.raises(MentorUnavailable, match="left alone for 3600 s") as caught:
            opened().ask(CHAT)
        assert waits == [] and caught.value.wait == 3600

    def test_what_stays_wrong_is_not_repeated(self, server, opened, waits):
        server.answers = [error(401)]
        with pytest.raises(MentorRefused):
            opened().ask(CHAT)
        assert waits == [] and len(server.seen) == 1

    def test_a_failure_is_never_an_answer(self, server, opened):
        server.answers = [BUSY]
        with pytest.raises(MentorUnavailable):
            opened(retries=0).ask(CHAT)
        server.answers = [error(404)]
        with pytest.raises(MentorRefused):
            opened().ask(CHAT)
        server.answers = [say("now")]
        assert opened().ask(CHAT).text == "now"


class TestReplay:
    def test_what_was_answered_is_not_asked_again(self, path, server, opened):
        server.answers = [say("a"), say("b"), say("c")]
        first = opened()
        said = [first.ask(request) for request in (CHAT, OTHER, COMPLETE)]
        before = path.read_bytes()
        second = opened()
        assert [second.ask(request) for request in (CHAT, OTHER, COMPLETE)] == said
        assert len(server.seen) == 3 and path.read_bytes() == before and second.ledger == first.ledger

    def test_the_same_question_twice_has_two_answers(self, path, server, opened):
        server.answers = [say("a"), say("b"), say("c")]
        first = opened()
        assert [first.ask(CHAT).text for _ in range(2)] == ["a", "b"]
        second = opened()
        assert [second.ask(CHAT).text for _ in range(3)] == ["a", "b", "c"]
        recorded = RecordedClient(path)
        assert [recorded.ask(CHAT).text for _ in range(3)] == ["a", "b", "c"]
        keys = [each["headers"]["Idempotency-Key"] for each in server.seen]
        assert len(set(keys)) == 3

    def test_a_recorded_run_replays_offline(self, path, client, server, opened):
        server.answers = [error(400, "no response_format"), say("a", usage=None), say(None)]
        structured = replace(CHAT, schema={"type": "object"})
        said = [opened().ask(structured), Transcript(path, client).ask(OTHER)]
        recorded = RecordedClient(path)
        assert [recorded.ask(structured), recorded.ask(OTHER)] == said
        assert (recorded.name, recorded.offers) == (client.name, client.offers)
        with pytest.raises(RunError, match="was not asked there"):
            recorded.ask(COMPLETE)

    def test_what_failed_fails_again_in_a_replay(self, path, tmp_path, server, opened):
        server.answers = [BUSY, say("a"), BUSY, BUSY, error(401), say("b")]

        def outcomes(client):
            found = []
            for number in range(4):
                try:
                    found.append(client.ask(replace(CHAT, seed=number)).text)
                except (MentorUnavailable, MentorRefused) as error:
                    found.append(type(error))
            return found

        assert outcomes(opened(retries=1)) == ["a", MentorUnavailable, MentorRefused, "b"]
        replayed = Transcript(tmp_path / "copy", RecordedClient(path), retries=1)
        assert outcomes(replayed) == outcomes(RecordedClient(path)) == ["a", MentorUnavailable, MentorRefused, "b"]

    def test_a_replay_that_is_recorded_is_the_record(self, path, tmp_path, server, opened):
        server.answers = [say("a"), say("b")]
        first = opened()
        first.ask(CHAT)
        first.ask(OTHER)
        copy = tmp_path / "copy.jsonl"
        second = Transcript(copy, RecordedClient(path))
        second.ask(CHAT)
        second.ask(OTHER)
        assert copy.read_bytes() == path.read_bytes()

    def test_thoughts_are_kept_and_files_without_them_are_read(self, path, server, opened):
        server.answers = [say("a"), message(content="b", reasoning_content="hm")]
        first = opened()
        said = [first.ask(request) for request in (CHAT, OTHER)]
        replies = [line["reply"] for line in lines(path) if "answered" in line]
        assert "reasoning" not in replies[0] and replies[1]["reasoning"] == "hm"
        recorded = RecordedClient(path)
        assert [recorded.ask(request) for request in (CHAT, OTHER)] == said

    def test_torn_anywhere_in_its_last_line(self, path, server, opened):
        server.answers = [say("a"), say("b")]
        opened().ask(CHAT)
        whole = path.read_bytes()
        start = whole.rstrip(b"\n").rfind(b"\n") + 1
        for end in (start, start + 1, start + 20, len(whole) - 1):
            path.write_bytes(whole[:end])
            assert RecordedClient(path).name
            server.answers = [say("again")]
            assert opened().ask(CHAT).text == "again"
        path.write_bytes(b'{"cli')
        assert opened().ask(CHAT).text == "again"

    def test_another_mentor_s_record_is_not_taken(self, path, server, opened, client):
        opened().ask(CHAT)
        with pytest.raises(RunError, match="use another folder"):
            Transcript(path, EndpointClient("huge", base_url=server.url))

    @pytest.mark.parametrize(
        "line", [{"asked": "x"}, {"answered": "x", "reply": {}}, {"answered": "x"}, {"failed": "x"}, {}]
    )
    def test_damage_is_named(self, path, opened, line):
        opened()
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        with pytest.raises(RunError, match="line 2: expected a question"):
            opened()

    def test_no_record(self, path):
        with pytest.raises(RunError, match="found none"):
            RecordedClient(path)
        path.write_text('{"step": 1}\n')
        with pytest.raises(RunError, match="found another file"):
            RecordedClient(path)


class TestLedger:
    def test_answers_are_counted_once(self, path, server, opened):
        prices = Budget(prompt_price=2.0, completion_price=10.0)
        first = opened(budget=prices)
        first.ask(CHAT)
        first.ask(OTHER)
        expected = Ledger(calls=2, prompt_tokens=22, completion_tokens=14, money=(22 * 2 + 14 * 10) / 1e6)
        assert first.ledger == expected and opened(budget=prices).ledger == expected

    def test_a_cap_on_tokens_counts_the_longest_answer(self, server, opened):
        transcript = opened(budget=Budget(max_tokens=18 + ONE_CALL - 1))
        transcript.ask(CHAT)
        with pytest.raises(BudgetSpent, match=f"18 of {18 + ONE_CALL - 1} tokens are spent.*{ONE_CALL}"):
            transcript.ask(OTHER)
        assert len(server.seen) == 1
        opened(budget=Budget(max_tokens=18 + ONE_CALL)).ask(OTHER)

    def test_a_cap_on_money_holds_in_the_next_process(self, server, opened):
        most = (CHAT.most_prompt_tokens + 12 * CHAT.max_tokens) / 1e6
        budget = Budget(max_money=(11 + 12 * 7) / 1e6 + most, prompt_price=1.0, completion_price=12.0)
        opened(budget=budget).ask(CHAT)
        transcript = opened(budget=budget)
        assert transcript.ask(CHAT).text, "an answer that is there costs nothing"
        transcript.ask(OTHER)
        with pytest.raises(BudgetSpent, match=r"0\.000190 of .* is spent, and the next question may cost 0\.000"):
            opened(budget=budget).ask(COMPLETE)
        assert len(server.seen) == 2

    def test_a_cap_on_money_needs_prices(self):
        with pytest.raises(UsageError, match="needs the prices"):
            Budget(max_money=1.0)

    def test_an_answer_that_got_lost_may_have_been_paid(self, path, server, opened):
        server.answers = [BUSY, error(429), say("ok")]
        with pytest.raises(MentorUnavailable):
            opened(retries=0).ask(CHAT)
        lost = opened().ledger
        assert (lost.calls, lost.open_tokens) == (0, ONE_CALL)
        with pytest.raises(BudgetSpent):
            opened(budget=Budget(max_tokens=2 * ONE_CALL - 1)).ask(OTHER)
        with pytest.raises(MentorUnavailable):
            opened(retries=0).ask(CHAT)
        assert opened().ledger.open_tokens == ONE_CALL, "the refusal says nothing about the time before"
        opened(budget=Budget(max_tokens=ONE_CALL)).ask(CHAT)
        assert opened().ledger == Ledger(calls=1, prompt_tokens=11, completion_tokens=7)

    def test_a_refusal_costs_nothing(self, server, opened):
        server.answers = [error(429)]
        with pytest.raises(MentorUnavailable):
            opened(retries=0).ask(CHAT)
        assert opened().ledger == Ledger()


def test_the_key_is_in_no_file(tmp_path, path, server, opened):
    server.answers = [
        error(500, f"key {KEY}"),
        raw(KEY.encode()),
        say(f"your key is {KEY}", model=KEY),
        error(401, KEY),
    ]
    transcript = opened()
    transcript.ask(CHAT)
    with pytest.raises(MentorRefused):
        transcript.ask(OTHER)
    assert len(server.seen) == 4
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert files == [path] and b"[key]" in path.read_bytes()
    assert KEY.encode() not in path.read_bytes() and json.dumps(KEY)[1:-1].encode() not in path.read_bytes()


CHILD = """
import sys
from pathlib import Path
from loopback import CHAT
from dataclasses import replace
from tandemtune.mentor import EndpointClient, Transcript
client = EndpointClient("tiny", base_url=sys.argv[2], key_env="MENTOR_KEY", timeout=60)
transcript = Transcript(Path(sys.argv[1]), client)
for seed in range(3):
    transcript.ask(replace(CHAT, seed=seed))
"""


def test_killed_in_the_middle_of_a_call(path, server, client):
    server.answers = [say("a"), say("b"), hang]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path), server.url], env=environment)
    try:
        server.wait_for(3)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait(10)
    assert len(server.seen) == 3 and "request" in lines(path)[-1]
    server.answers = [say("c")]
    transcript = Transcript(path, client)
    assert transcript.ledger.open_tokens == ONE_CALL
    said = [transcript.ask(replace(CHAT, seed=seed)).text for seed in range(3)]
    assert said == ["a", "b", "c"]
    assert [body["seed"] for body in server.bodies] == [0, 1, 2, 2], "what was answered is not asked again"
    keys = [each["headers"]["Idempotency-Key"] for each in server.seen]
    assert keys[2] == keys[3] and len(set(keys)) == 3, "a server that knows the key does not bill twice"
    assert transcript.ledger == Ledger(calls=3, prompt_tokens=33, completion_tokens=21)


def test_interrupted_by_hand(path, waits):
    class Interrupted:
        name, offers = "someone", frozenset()

        def ask(self, request):
            raise KeyboardInterrupt

        def close(self):
            pass

    with pytest.raises(KeyboardInterrupt):
        Transcript(path, Interrupted()).ask(CHAT)
    Interrupted.ask = lambda self, request: Reply("ok", 1, 1, "stop", "m")
    assert Transcript(path, Interrupted()).ask(CHAT).text == "ok"


def test_two_runs_that_hear_the_same_write_the_same(tmp_path, key):
    written = []
    with serving() as server:
        server.answers = [say("x")]
        for name in ("one", "two"):
            transcript = Transcript(tmp_path / name, EndpointClient("tiny", base_url=server.url, key_env="MENTOR_KEY"))
            transcript.ask(CHAT)
            transcript.ask(COMPLETE)
            written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]

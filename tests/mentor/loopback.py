"""A small OpenAI-compatible server on loopback that does what a test tells it, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import SSLContext
from typing import Any

from tandemtune.mentor import Brief, Request, Tried

KEY = "sk-test-5up3r/s3cret+K3y=="

BRIEF = Brief(
    definition="Decide whether a sentence of a movie review praises or pans the movie.",
    labels=("negative", "positive"),
    label_words=("terrible", "great"),
    metric="accuracy",
    manual="Movie review sentiment:",
    usage="[PROMPT] {text} It was [ANSWER]",
    tried=(Tried("Film text", 0.9, 0.5), Tried("Is the viewer happy?", 0.6, 0.75)),
    wanted=3,
    limit=12,
)
CHAT = Request(
    style="chat", messages=(("system", "Be brief."), ("user", "Hello")), max_tokens=50, temperature=0.5, seed=1
)
COMPLETE = Request(style="complete", prompt="- a\n-", max_tokens=50, temperature=0.5, seed=1, stop=("\n\n",))


def words(text: str) -> int:
    """The tuned model's tokenizer of these tests."""
    return len(text.split())


Handler = BaseHTTPRequestHandler
Answer = Callable[[Handler, dict[str, Any]], None]


def send(handler: Handler, status: int, body: bytes, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def completion(text: Any, asked: dict[str, Any], **more: Any) -> dict[str, Any]:
    choice = {"message": {"role": "assistant", "content": text}} if "messages" in asked else {"text": text}
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    return {"model": "tiny", "choices": [{"index": 0, "finish_reason": "stop", **choice}], "usage": usage, **more}


def say(text: Any, **more: Any) -> Answer:
    return lambda handler, asked: send(handler, 200, json.dumps(completion(text, asked, **more)).encode())


def raw(body: bytes, status: int = 200, **headers: str) -> Answer:
    return lambda handler, asked: send(handler, status, body, **headers)


def message(finish_reason: str = "stop", **fields: Any) -> Answer:
    """An answer whose message holds these fields."""
    choice = {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", **fields}}
    return say(None, choices=[choice])


def stream(*chunks: dict[str, Any]) -> Answer:
    """Events, which were not asked for."""
    lines = [": begun", *(f"data: {json.dumps(chunk)}" for chunk in chunks), "data: [DONE]"]
    return raw("\n\n".join(lines).encode(), Content_Type="text/event-stream")


def error(status: int, message: str = "no", *, retry_after: str | None = None, **fields: Any) -> Answer:
    body = json.dumps({"error": {"message": message, "type": "some_error", **fields}}).encode()
    return raw(body, status, **({"Retry_After": retry_after} if retry_after else {}))


def hang(handler: Handler, asked: dict[str, Any]) -> None:
    handler.server.over.wait(30)


def drop(handler: Handler, asked: dict[str, Any]) -> None:
    handler.close_connection = True


def cut(handler: Handler, asked: dict[str, Any]) -> None:
    """Half of an answer."""
    body = json.dumps(completion("one", asked)).encode()
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.close_connection = True


def drip(handler: Handler, asked: dict[str, Any]) -> None:
    """An answer of which a byte comes every now and then, without end."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    try:
        while not handler.server.over.wait(0.05):
            handler.wfile.write(b" ")
            handler.wfile.flush()
    except OSError:
        pass
    handler.close_connection = True


@dataclass
class Loopback:
    """The running server.

    `answers` are given in turn, the last one again and again; `seen` holds path, headers and body of every request. `models` are
    listed where somebody asks for them, with the headers that `listed` holds.
    """

    url: str
    answers: list[Answer] = field(default_factory=lambda: [say("1. one\n2. two\n3. three")])
    seen: list[dict[str, Any]] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    listed: list[dict[str, str]] = field(default_factory=list)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [each["body"] for each in self.seen]

    def wait_for(self, count: int, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while len(self.seen) < count:
            assert time.monotonic() < end, f"expected {count} requests, {len(self.seen)} came"
            time.sleep(0.01)


@contextmanager
def serving(tls: SSLContext | None = None):
    class Handle(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            loopback.seen.append(
                {"path": self.path, "headers": {k.title(): v for k, v in self.headers.items()}, "body": body}
            )
            answer = loopback.answers.pop(0) if len(loopback.answers) > 1 else loopback.answers[0]
            answer(self, body)

        def do_GET(self):
            loopback.listed.append(dict(self.headers.items()))
            listed = {"object": "list", "data": [{"id": name, "object": "model"} for name in loopback.models]}
            send(self, 200 if loopback.models else 404, json.dumps(listed).encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handle)
    server.daemon_threads = True
    server.over = threading.Event()
    server.handle_error = lambda *_: None  # a client that hangs up is what some tests are about
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    loopback = Loopback(f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield loopback
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()

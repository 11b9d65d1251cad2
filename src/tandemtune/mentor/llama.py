"""A local GGUF model in this process, through llama.cpp as the xllamacpp wheel carries it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tandemtune.errors import MentorRefused, MentorUnavailable, UsageError
from tandemtune.mentor.client import Reply, Request, Style, joined, read_reply

# A list that is continued tends to repeat itself: sequences that stand there already become unlikely (llama.cpp's DRY sampling).
_VARIED = {"dry_multiplier": 0.8, "dry_allowed_length": 2, "dry_penalty_last_n": 2048, "dry_sequence_breakers": ["@"]}


class LlamaClient:
    """A GGUF model, loaded once. The same request gives the same answer, in any process on this machine.

    llama.cpp also listens on a free loopback port as long as the client is open.

    Args:
        path: the GGUF file.
        threads: for computing; more than the free cores makes it much slower, because llama.cpp waits by spinning.
        context: tokens of question and answer together.
        timeout: seconds one answer may take.

    Raises:
        UsageError: no such file, a file that llama.cpp cannot load, or the package is missing.
    """

    offers = frozenset({"schema", "grammar"})

    def __init__(self, path: str | Path, *, threads: int = 1, context: int = 2048, timeout: float = 600.0) -> None:
        path = Path(path)
        if not path.is_file():
            raise UsageError(
                f"mentor model {path}: expected a GGUF file, found {'a folder' if path.is_dir() else 'nothing'}"
            )
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise UsageError(f"mentor model {path}: expected a GGUF file, found one that does not begin with GGUF")
        try:
            import xllamacpp
        except ImportError:
            raise UsageError("a local mentor needs llama.cpp: pip install 'tandemtune[local-mentor]'") from None
        self.name = path.stem if path.stem != "model" else path.resolve().parent.name
        self._timeout, self._context = timeout, context
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx = context
        parameters.n_parallel = 1
        parameters.n_gpu_layers = 0
        parameters.verbosity = -1
        parameters.warmup = False
        parameters.cache_prompt = (
            False  # the rest of a cached prompt is computed in other batches, and rounds differently
        )
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
        try:
            self._server: Any = xllamacpp.Server(parameters)
        except (RuntimeError, ValueError) as error:
            raise UsageError(f"mentor model {path}: llama.cpp cannot load it ({error})") from None

    def __repr__(self) -> str:
        return f"LlamaClient({self.name!r})"

    def ask(self, request: Request) -> Reply:
        """Answer one request.

        Args:
            request: the question.

        Returns:
            The answer.

        Raises:
            MentorRefused: the question does not fit into the context, or its grammar or schema is no such thing.
            MentorUnavailable: it took too long, or llama.cpp failed on it.
        """
        body: dict[str, Any] = {
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
            "stop": list(request.stop),
            "cache_prompt": False,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request.grammar:
            body["grammar"] = request.grammar
        if request.schema:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": request.schema},
            }
        if request.style == "chat":
            body["messages"] = [{"role": role, "content": text} for role, text in request.messages]
            chunks = self._listen(self._server.handle_chat_completions, body)
        else:
            chunks = self._listen(self._server.handle_completions, {**body, **_VARIED, "prompt": request.prompt})
        error = next((chunk["error"] for chunk in chunks if "error" in chunk), None)
        reply = None if error else read_reply({**joined(chunks), "model": self.name}, request)
        if reply is not None:
            short = reply.finish_reason == "length" and reply.completion_tokens < request.max_tokens
            return replace(reply, context=self._context if short else 0)
        what = f"{self.name}: {(error or {}).get('message', 'llama.cpp gave no answer')}"
        if error and error.get("type") == "exceed_context_size_error":
            what = f"{what}; give it more room: a larger [mentor] context"
        raise MentorRefused(what) if error and error.get("code") == 400 else MentorUnavailable(what)

    def _listen(self, handle: Callable[..., Any], body: dict[str, Any]) -> list[dict[str, Any]]:
        """The answer in pieces. It is worked out in another thread, so that Ctrl-C and the time limit end it at its next token."""
        chunks: list[dict[str, Any]] = []
        over = threading.Event()

        def hear(chunk: dict[str, Any]) -> bool:
            chunks.append(chunk)
            return over.is_set()

        thread = threading.Thread(target=handle, args=(body, hear), daemon=True)
        thread.start()
        try:
            thread.join(self._timeout)
            if thread.is_alive():
                raise MentorUnavailable(f"{self.name} took more than {self._timeout:g} s to answer")
        finally:
            over.set()
            thread.join(10)
        return chunks

    def contact(self, style: Style = "chat", *, thinking: bool = False) -> None:
        """Nothing to find out: the model is loaded."""

    def close(self) -> None:
        """Give the model's memory back."""
        self._server = None

"""Any endpoint that speaks the OpenAI protocol, through the official SDK. One question is one exchange: `Transcript` repeats it."""

from __future__ import annotations

import email.utils
import hashlib
import ipaddress
import json
import math
import os
import time
from typing import Any
from urllib.parse import urlsplit

from tandemtune.errors import MentorError, MentorRefused, MentorUnavailable, UsageError
from tandemtune.mentor.client import Reply, Request, read_reply

_LARGEST = 8_000_000  # bytes of an answer, far more than any model writes
_EXCERPT = 300  # characters of a server's words that an error repeats
# What an endpoint may do without, and the words by which it names it. Where it answers 400 with one of them, the request goes
# out again without that setting; max_tokens becomes max_completion_tokens, which newer chat models take instead.
_OPTIONAL = {
    "response_format": ("response_format", "schema"),
    "max_tokens": ("max_completion_tokens",),
    "frequency_penalty": ("frequency_penalty",),
    "temperature": ("temperature",),
    "seed": ("seed",),
    "stop": ("stop",),
}


class EndpointClient:
    """A model behind a URL.

    The key is read from the environment, sent to the endpoint and nowhere else: it is taken out of all that the endpoint says.

    Args:
        model: its name at the endpoint.
        base_url: the endpoint, up to and including its version, for example "http://127.0.0.1:8080/v1".
        key_env: environment variable that holds the key. An endpoint on this machine may do without.
        timeout: seconds one exchange may take.
        structured: send the JSON schema of the answer; an endpoint that does not take it is asked without.

    Raises:
        UsageError: the SDK, the key or a usable address is missing.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str = "https://api.openai.com/v1",
        key_env: str = "OPENAI_API_KEY",
        timeout: float = 60.0,
        structured: bool = True,
    ) -> None:
        address = _checked(base_url)
        self._key_env = key_env
        self._key = _key(key_env, address)
        self._timeout = timeout
        self._without: tuple[str, ...] = ()
        self.offers = frozenset({"schema"} if structured else ())
        self.name = self._scrub(f"{model} at {base_url}")
        self._model = model
        try:
            import openai
        except ImportError:
            raise UsageError("an OpenAI-compatible mentor needs the SDK: pip install 'tandemtune[mentor]'") from None
        try:
            self._sdk = openai.OpenAI(api_key=self._key or "none", base_url=base_url, timeout=timeout, max_retries=0)
        except (ImportError, ValueError, OSError) as error:  # what its HTTP client says to proxies and certificates
            raise UsageError(
                f"the connection to the mentor cannot be set up: {self._scrub(str(error))}. Look at ALL_PROXY, HTTPS_PROXY "
                "and SSL_CERT_FILE (a SOCKS proxy needs pip install 'httpx[socks]')"
            ) from None

    def __repr__(self) -> str:
        return f"EndpointClient({self.name!r})"

    def ask(self, request: Request) -> Reply:
        """Ask once; a setting that the endpoint refuses by name is left out from then on.

        Args:
            request: the question.

        Returns:
            The answer.

        Raises:
            MentorUnavailable: no connection, too slow, overloaded, or no readable answer.
            MentorRefused: wrong key, unknown model, or a request that the endpoint does not serve.
        """
        while True:
            body = self._body(request)
            outcome = self._post(request, body)
            if isinstance(outcome, bytes):
                return self._read(outcome, request)
            if isinstance(outcome, MentorError):
                raise outcome
            self._without += (outcome,)

    def close(self) -> None:
        """Close the connections."""
        self._sdk.close()

    def _body(self, request: Request) -> dict[str, Any]:
        """The request in the protocol's words."""
        body: dict[str, Any] = {
            "model": self._model,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
        }
        if request.style == "chat":
            body["messages"] = [{"role": role, "content": text} for role, text in request.messages]
        else:
            body["prompt"] = request.prompt
            body["frequency_penalty"] = 0.3  # a list that is continued tends to repeat itself
        if request.stop:
            body["stop"] = list(request.stop)
        if request.schema:
            form = {"name": "answer", "schema": request.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        for setting in self._without:
            value = body.pop(setting, None)
            if setting == "max_tokens":
                body["max_completion_tokens"] = value
        return body

    def _post(self, request: Request, body: dict[str, Any]) -> bytes | MentorError | str:
        """One exchange: the answer's bytes, an error to be raised, or the name of a setting to go without.

        Errors are returned, not raised, so that none has the SDK's own in its context: those hold the request and its key.
        """
        import openai

        resource = self._sdk.chat.completions if request.style == "chat" else self._sdk.completions
        sent = json.dumps([body, request.nth], sort_keys=True)
        headers = {"Idempotency-Key": hashlib.sha256(sent.encode("ascii")).hexdigest()}
        deadline = time.monotonic() + self._timeout
        try:
            with resource.with_streaming_response.create(**body, extra_headers=headers) as response:
                return self._receive(response, deadline)
        except openai.APIStatusError as error:
            return self._status(error, body)
        except openai.APITimeoutError:
            return MentorUnavailable(f"{self.name} did not answer within {self._timeout:g} s", paid=True)
        except openai.APIConnectionError as error:
            refused = type(error.__cause__).__name__.startswith("Connect")
            what = "cannot be reached" if refused else "broke the connection off"
            return MentorUnavailable(f"{self.name} {what}: check the address, or try later", paid=not refused)
        except Exception as error:  # a garbled answer: what the HTTP library raises then is no error of the SDK
            return MentorUnavailable(f"{self.name} sent what cannot be read ({type(error).__name__})", paid=True)

    def _receive(self, response: Any, deadline: float) -> bytes | MentorUnavailable:
        """Read the answer, with a limit on its time and its size."""
        data = bytearray()
        try:
            for chunk in response.iter_bytes():
                data += chunk
                if len(data) > _LARGEST:
                    return MentorUnavailable(f"{self.name} sent more than {_LARGEST // 10**6} MB", paid=True)
                if time.monotonic() > deadline:
                    return MentorUnavailable(f"{self.name} took more than {self._timeout:g} s to answer", paid=True)
        except Exception as error:  # of the HTTP library, which differs between versions of the SDK
            what = f"{self.name} broke off in the middle of its answer ({type(error).__name__})"
            return MentorUnavailable(what, paid=True)
        return bytes(data)

    def _status(self, error: Any, body: dict[str, Any]) -> MentorError | str:
        """What an HTTP status other than 200 means."""
        status = int(error.status_code)
        details = error.body if isinstance(error.body, dict) else {}
        code, param = details.get("code"), details.get("param")
        said = self._scrub(str(details.get("message") or error.message)).strip()[:_EXCERPT]
        if status in {401, 403}:  # such answers like to repeat parts of the key: none of their words is passed on
            return MentorRefused(
                f"{self.name} refused the key ({status}): check the environment variable {self._key_env}"
            )
        if status == 404:
            return MentorRefused(
                f"{self.name}: the endpoint knows no such model, or not this kind of question (404): {said}"
            )
        if status == 429 and "insufficient_quota" in (code, details.get("type")):
            return MentorRefused(f"{self.name}: the account has no credit left (429): {said}")
        if status in {408, 409, 425, 429} or status >= 500:
            wait = _wait(error.response.headers.get("retry-after"))
            return MentorUnavailable(
                f"{self.name} answered {status}: {said}", wait=wait, paid=status in {500, 502, 504}
            )
        if status in {400, 422}:
            for setting, words in _OPTIONAL.items():
                if setting in body and (param in words or any(word in said for word in words)):
                    return setting
        return MentorRefused(f"{self.name} does not take the request ({status}): {said}")

    def _read(self, data: bytes, request: Request) -> Reply:
        try:
            document = self._scrubbed(json.loads(data))
            reply = read_reply(document, request, self._without)
            said = json.dumps(document, ensure_ascii=False)
        except (ValueError, RecursionError):
            reply, said = None, self._scrub(data[:_LARGEST].decode("utf-8", "replace"))
        if reply is None:
            raise MentorUnavailable(
                f"{self.name}: expected a completion as JSON, found {said[:_EXCERPT]!r}", paid=True
            ) from None
        return reply

    def _scrubbed(self, value: Any) -> Any:
        """A JSON value without the key in any of its strings."""
        if isinstance(value, str):
            return self._scrub(value)
        if isinstance(value, list):
            return [self._scrubbed(each) for each in value]
        return {k: self._scrubbed(v) for k, v in value.items()} if isinstance(value, dict) else value

    def _scrub(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def _checked(base_url: str) -> str:
    """The host of an address that can be used."""
    try:
        parts = urlsplit(base_url)
        host, secret = parts.hostname, parts.username or parts.password or parts.query
    except ValueError:
        host = secret = None
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not host:
        raise UsageError(f"mentor address {base_url!r}: expected http:// or https:// and a host")
    if secret:
        raise UsageError(
            f"mentor address of {host}: expected no name, password or query in it; keys come from the environment"
        )
    return host


def _key(variable: str, host: str) -> str:
    """The key, "" where an endpoint on this machine goes without."""
    key = os.environ.get(variable, "").strip()
    if not key and not _is_loopback(host):
        raise UsageError(
            f"the mentor at {host} needs a key: expected it in the environment variable {variable}, which is not set"
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UsageError(
            f"environment variable {variable}: expected a key of plain characters, found others; copy it again"
        )
    return key


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _wait(retry_after: str | None) -> float | None:
    """Seconds in a Retry-After header, which holds seconds or a date."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(retry_after or "").timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None

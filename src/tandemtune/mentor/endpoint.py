"""Any endpoint that speaks the OpenAI protocol, through the official SDK. One question is one exchange: `Transcript` repeats it."""

from __future__ import annotations

import difflib
import email.utils
import hashlib
import ipaddress
import json
import math
import os
import re
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from tandemtune.errors import MentorError, MentorRefused, MentorUnavailable, UsageError
from tandemtune.mentor.client import Reply, Request, Style, joined, read_reply

_LARGEST = 8_000_000  # bytes of an answer, far more than any model writes
_EXCERPT = 300  # characters of a server's words that an error repeats
_OPENAI = "https://api.openai.com/v1"
_OPENAI_KEY = "OPENAI_API_KEY"
_LIMITS = ("max_tokens", "max_completion_tokens")  # two names of one setting: models that think take the second
_UNKNOWN = r"unsupported|not supported|unknown|unrecogni[sz]ed|unexpected|not permitted|extra"
# What an endpoint may do without, and the words by which it names it. Where it refuses a request with one of them, the request goes
# out again without that setting, and a limit under its other name.
_OPTIONAL = {
    "response_format": re.compile("response_format|schema"),
    "max_tokens": re.compile("max_completion_tokens"),
    "max_completion_tokens": re.compile(
        rf"(?s)(?:{_UNKNOWN}).*max_completion_tokens|max_completion_tokens.*(?:{_UNKNOWN})"
    ),
    "frequency_penalty": re.compile("frequency_penalty"),
    "temperature": re.compile("temperature"),
    "seed": re.compile("seed"),
    "stop": re.compile("stop"),
}


class EndpointClient:
    """A model behind a URL.

    The key is read from the environment, sent to the endpoint and nowhere else: it is taken out of all that the endpoint says, and no
    key travels unencrypted to another machine.

    Args:
        model: its name at the endpoint.
        base_url: the endpoint, up to and including its version, for example "http://127.0.0.1:8080/v1".
        key_env: environment variable that holds the key. None: OPENAI_API_KEY for OpenAI's own endpoint, and no key for others.
        timeout: seconds one exchange may take.
        structured: send the JSON schema of the answer; an endpoint that does not take it is asked without.

    Raises:
        UsageError: the SDK, the key or a usable address is missing, or the key would travel unencrypted.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str = _OPENAI,
        key_env: str | None = None,
        timeout: float = 60.0,
        structured: bool = True,
    ) -> None:
        host, encrypted = _checked(base_url)
        local = _is_loopback(host)
        self._key_env = key_env or (_OPENAI_KEY if host == urlsplit(_OPENAI).hostname else None)
        self._key = _key(self._key_env, host) if self._key_env else ""
        if self._key and not (encrypted or local):
            raise UsageError(
                f"mentor address of {host}: expected https://, found http://, which would send the key of {self._key_env} unencrypted; "
                "use https://, or a tunnel to this machine (ssh -L) and http://127.0.0.1, or leave key_env out if no key is needed"
            )
        self._timeout = timeout
        self._without: tuple[str, ...] = ()
        self.offers = frozenset({"schema"} if structured else ())
        self.name = self._scrub(f"{model} at {base_url}")
        self._model = model
        self._base_path = urlsplit(base_url).path.strip("/")
        try:
            import openai
        except ImportError:
            raise UsageError("an OpenAI-compatible mentor needs the SDK: pip install 'tandemtune[mentor]'") from None
        try:
            # A proxy has no business between two programs of one machine.
            direct: Any = {"http://": None, "https://": None, "all://": None} if local else None
            http = openai.DefaultHttpxClient(timeout=timeout, mounts=direct)
            self._sdk = openai.OpenAI(
                api_key=self._key or "none", base_url=base_url, timeout=timeout, max_retries=0, http_client=http
            )
        except Exception as error:
            raise UsageError(
                f"mentor address of {host}: no connection can be set up ({_flat(self._scrub(str(error)))}); "
                "check the environment variables HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE"
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

    def contact(self, style: Style = "chat", *, thinking: bool = False) -> None:
        """Ask something of a few tokens; see `Client.contact`."""
        self.ask(
            Request(
                style=style,
                messages=(("user", "Answer with one word: yes."),),
                prompt="One, two,",
                max_tokens=1024 if thinking else 16,
                temperature=0.0,
                seed=0,
                thinking=thinking,
            )
        )

    def close(self) -> None:
        """Close the connections."""
        self._sdk.close()

    def _body(self, request: Request) -> dict[str, Any]:
        """The request in the protocol's words."""
        body: dict[str, Any] = {"model": self._model, "seed": request.seed}
        if request.style == "chat":
            body["messages"] = [{"role": role, "content": text} for role, text in request.messages]
        else:
            body["prompt"] = request.prompt
            body["frequency_penalty"] = 0.3  # a list that is continued tends to repeat itself
        if not request.thinking:
            body["temperature"] = request.temperature
        if request.stop:
            body["stop"] = list(request.stop)
        if request.schema:
            form = {"name": "answer", "schema": request.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        body = {setting: value for setting, value in body.items() if setting not in self._without}
        names = reversed(_LIMITS) if request.thinking else _LIMITS
        return {**body, next(name for name in names if name not in self._without): request.max_tokens}

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
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            return self._dispensable(error, body) or self._refusal(error)
        except openai.APIStatusError as error:
            return self._refusal(error)
        except openai.APITimeoutError:
            return MentorUnavailable(f"{self.name} did not answer within {self._timeout:g} s", paid=True)
        except openai.APIConnectionError as error:
            return self._no_connection(error)
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

    def _dispensable(self, error: Any, body: dict[str, Any]) -> str | None:
        """The setting that an endpoint refuses by name, if it is one that a request may do without."""
        said = self._said(error)
        for setting, words in _OPTIONAL.items():
            only = setting in _LIMITS and any(limit in self._without for limit in _LIMITS)
            if setting in body and not only and (words.search(str(error.param)) or words.search(said)):
                return setting
        return None

    def _refusal(self, error: Any) -> MentorError:
        """What an HTTP status other than 200 means."""
        import openai

        said, status = self._said(error), error.status_code
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return self._no_entry(
                status
            )  # such answers like to repeat parts of the key: none of their words is passed on
        if isinstance(error, openai.NotFoundError):
            return self._not_found(said)
        out_of_credit = "insufficient_quota" in (error.code, error.type)
        if status == 402 or (isinstance(error, openai.RateLimitError) and out_of_credit):
            return MentorRefused(f"{self.name}: the account has no credit left ({status}): {said}")
        if status == 407:
            return MentorRefused(
                f"{self.name}: the proxy wants a name and a password (407): check HTTPS_PROXY and HTTP_PROXY"
            )
        passing = openai.RateLimitError | openai.ConflictError | openai.InternalServerError
        if isinstance(error, passing) or status in {408, 425} or status < 400:
            wait = _wait(error.response.headers.get("retry-after"))
            return MentorUnavailable(
                f"{self.name} answered {status}: {said}", wait=wait, paid=status in {500, 502, 504}
            )
        return MentorRefused(f"{self.name} does not take the request ({status}): {said}")

    def _no_entry(self, code: Any) -> MentorRefused:
        if self._key_env:
            return MentorRefused(
                f"{self.name} refused the key ({code}): check the environment variable {self._key_env}"
            )
        return MentorRefused(
            f"{self.name} wants a key ({code}): name the environment variable that holds it in [mentor] key_env"
        )

    def _not_found(self, said: str) -> MentorRefused:
        """What is wrong with a model's name or an address: the endpoint is asked which models it has."""
        try:
            served = [_flat(self._scrub(str(model.id))) for model in self._sdk.with_options(timeout=5).models.list()]
        except Exception:
            served = []
        if not served or self._model in served:
            return MentorRefused(
                f"{self.name}: the endpoint knows no such model, no such address, or not this kind of question (404): {said}; "
                "check the model's name and that base_url ends where the endpoint's documentation says, mostly in /v1"
            )
        near = difflib.get_close_matches(self._model, served, n=1, cutoff=0.5)
        told = (
            f"did you mean {near[0]}?"
            if near
            else f"it has {', '.join(served[:8])}{', ...' if len(served) > 8 else ''}"
        )
        return MentorRefused(f"{self.name}: the endpoint knows no such model (404): {said}; {told}")

    def _no_connection(self, error: Exception) -> MentorError:
        causes = list(_causes(error))
        names = {type(cause).__name__ for cause in causes}
        certificate = next((cause for cause in causes if isinstance(cause, ssl.SSLCertVerificationError)), None)
        if certificate is not None:
            return MentorRefused(
                f"{self.name}: its certificate is not trusted ({certificate.verify_message}); where a proxy or an authority of your own "
                "signs, name the file with its certificate in the environment variable SSL_CERT_FILE"
            )
        if any(isinstance(cause, ssl.SSLError) for cause in causes):
            return MentorUnavailable(f"{self.name} cannot be reached: no TLS there; is the address one with http:// ?")
        if "ProxyError" in names:
            return MentorUnavailable(
                f"{self.name} cannot be reached: the proxy refused; check HTTPS_PROXY and HTTP_PROXY"
            )
        if any(isinstance(cause, socket.gaierror) for cause in causes):
            return MentorUnavailable(f"{self.name} cannot be reached: no such host; check the address and the network")
        if names & {"ConnectError", "ConnectTimeout"}:
            return MentorUnavailable(f"{self.name} cannot be reached: check the address, or try later")
        return MentorUnavailable(f"{self.name} broke the connection off: try later", paid=True)

    def _said(self, error: Any) -> str:
        """The words of an error, for a reader."""
        return _words(self._scrubbed(error.body)) or _flat(self._scrub(str(error.message)))

    def _read(self, data: bytes, request: Request) -> Reply:
        document = self._scrubbed(_document(data))
        reply = read_reply(document, request, self._without)
        given = document if isinstance(document, dict) else {}
        error = given.get("error") or _first_choice(given).get("error") or given.get("detail")
        if reply is not None and not error and reply.finish_reason != "error":
            return reply
        if not error and reply is not None:
            raise MentorUnavailable(f"{self.name} failed in the middle of its answer", paid=True)
        if not error:
            found = document if isinstance(document, str) else json.dumps(document, ensure_ascii=False)
            path = "" if self._base_path else "; base_url has no path: most servers want one that ends in /v1"
            raise MentorUnavailable(
                f"{self.name}: expected a completion as JSON, found {_page(found)}{path}", paid=True
            )
        code = error.get("code") if isinstance(error, dict) else None
        said = f"{self.name} answered with an error: {_words(error)}"
        if not isinstance(code, int) or code not in {400, 401, 402, 403, 404}:
            raise MentorUnavailable(said, paid=True)
        raise self._no_entry(code) if code in {401, 403} else MentorRefused(said)

    def _scrubbed(self, value: Any) -> Any:
        """A JSON value without the key in any of its strings."""
        if isinstance(value, str):
            return self._scrub(value)
        if isinstance(value, list):
            return [self._scrubbed(each) for each in value]
        return {self._scrub(k): self._scrubbed(v) for k, v in value.items()} if isinstance(value, dict) else value

    def _scrub(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def _checked(base_url: str) -> tuple[str, bool]:
    """The host of an address that can be used, and whether what is sent there is encrypted."""
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
    return host, parts.scheme == "https"


def _key(variable: str, host: str) -> str:
    """The key in an environment variable."""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UsageError(
            f"the mentor at {host} needs a key: expected it in the environment variable {variable}, which is not set; set it, or leave "
            "key_env out if the endpoint needs none"
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


def _document(data: bytes) -> Any:
    """An answer as the JSON value that it is, a stream of events as the value that it makes up, anything else as text."""
    text = data.decode("utf-8", "replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    events = [line[5:].strip() for line in text.splitlines() if line.startswith("data:")]
    try:
        chunks = [json.loads(event) for event in events if event and event != "[DONE]"]
    except (ValueError, RecursionError):
        return text
    pieces = [chunk for chunk in chunks if isinstance(chunk, dict)]
    error = next((piece for piece in pieces if piece.get("error")), None)
    return error or joined(pieces) or text


def _first_choice(document: dict[str, Any]) -> dict[str, Any]:
    choices = document.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def _words(error: Any) -> str:
    """The words of an error in whatever form a server gives it."""
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error.get("error") or error
    if isinstance(error, str):
        return _page(error) if "<html" in error.lower() else _flat(error)
    return _flat(json.dumps(error, ensure_ascii=False)) if error else ""


def _page(text: str) -> str:
    """A text that is no answer, named as a web page where it is one."""
    if "<html" not in text.lower() and "<!doctype" not in text.lower():
        return repr(_flat(text))
    title = re.search(r"<title[^>]*>([^<]*)", text, re.IGNORECASE)
    named = f" ({_flat(title.group(1))})" if title and title.group(1).strip() else ""
    return f"a web page{named}: check the address, which mostly ends in /v1, and the proxy"


def _flat(text: str) -> str:
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text[:_LARGEST]).split())[:_EXCERPT]


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__

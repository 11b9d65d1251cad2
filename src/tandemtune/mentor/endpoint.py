"""Any endpoint that speaks the OpenAI protocol, through the official SDK. One question is one exchange: `Transcript` repeats it."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import tandemtune.mentor.wire as wire
from tandemtune.errors import MentorError, MentorRefused, MentorUnavailable, UsageError
from tandemtune.mentor.address import checked, is_loopback, key_of
from tandemtune.mentor.client import Reply, Request, Style, read_reply

_LARGEST = 8_000_000  # bytes of an answer, far more than any model writes
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
_CUT_OFF = re.compile("could not finish the message because max_tokens|model output limit was reached", re.IGNORECASE)
_OURS = {
    "accept",
    "accept-encoding",
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "host",
    "idempotency-key",
}


class EndpointClient:
    """A model behind a URL.

    The key is read from the environment, sent to the endpoint and nowhere else: it is taken out of all that the endpoint says, and no
    key travels unencrypted to another machine. Nothing else of the environment is sent, such as the SDK's OPENAI_ORG_ID and
    OPENAI_CUSTOM_HEADERS.

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
        host, encrypted = checked(base_url)
        local = is_loopback(host)
        self._key_env = key_env or (_OPENAI_KEY if host == urlsplit(_OPENAI).hostname else None)
        self._key = key_of(self._key_env, host) if self._key_env else ""
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
            ours: Any = {"request": [self._only_ours]}
            http = openai.DefaultHttpxClient(timeout=timeout, mounts=direct, event_hooks=ours)
            self._sdk = openai.OpenAI(
                api_key=self._key or "none", base_url=base_url, timeout=timeout, max_retries=0, http_client=http
            )
        except Exception as error:
            raise UsageError(
                f"mentor address of {host}: no connection can be set up ({wire.flat(self._scrub(str(error)))}); "
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
            if isinstance(outcome, Reply):
                return outcome
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

    def _only_ours(self, sent: Any) -> None:
        """Take all out of a request's head that the SDK finds in the environment by itself."""
        for name in list(sent.headers):
            if name.lower() not in _OURS and not name.lower().startswith(("user-agent", "x-stainless")):
                del sent.headers[name]
        if "authorization" in sent.headers:  # it is not where another machine was named instead
            sent.headers["authorization"] = f"Bearer {self._key or 'none'}"

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

    def _post(self, request: Request, body: dict[str, Any]) -> bytes | Reply | MentorError | str:
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
            return self._cut_off(error, request) or self._dispensable(error, body) or self._refusal(error)
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

    def _cut_off(self, error: Any, request: Request) -> Reply | None:
        """The empty answer of a model that has used up all its tokens by thinking, where an endpoint calls that a wrong request."""
        if not _CUT_OFF.search(self._all_said(error)):
            return None
        return Reply("", request.most_prompt_tokens, request.max_tokens, "length", self._model, self._without)

    def _dispensable(self, error: Any, body: dict[str, Any]) -> str | None:
        """The setting that an endpoint refuses by name, if it is one that a request may do without."""
        said = self._all_said(error)
        for setting, words in _OPTIONAL.items():
            only = setting in _LIMITS and any(limit in self._without for limit in _LIMITS)
            if setting in body and not only and (words.search(str(error.param)) or words.search(said)):
                return setting
        return None

    def _refusal(self, error: Any) -> MentorError:
        """What an HTTP status other than 200 means."""
        import openai

        said, status = self._said(error), error.status_code
        if isinstance(error, openai.AuthenticationError):
            return self._no_entry(
                status
            )  # such answers like to repeat parts of the key: none of their words is passed on
        if isinstance(error, openai.PermissionDeniedError):
            return self._no_entry(status, wire.words(self._scrubbed(error.body)))
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
            wait = wire.wait_of(error.response.headers.get("retry-after"))
            return MentorUnavailable(
                f"{self.name} answered {status}: {said}", wait=wait, paid=status in {500, 502, 504}
            )
        return MentorRefused(f"{self.name} does not take the request ({status}): {said}")

    def _no_entry(self, code: Any, said: str = "") -> MentorRefused:
        parts = {self._key[at : at + 6] for at in range(len(self._key) - 5)}
        if said and not any(part in said for part in parts):
            key = f"; if it is the key: look at the environment variable {self._key_env}" if self._key_env else ""
            return MentorRefused(f"{self.name} does not let the request in ({code}): {said}{key}")
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
            served = [
                wire.flat(self._scrub(str(model.id))) for model in self._sdk.with_options(timeout=5).models.list()
            ]
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
        return wire.words(self._scrubbed(wire.opened(error.body))) or wire.flat(self._scrub(str(error.message)))

    def _all_said(self, error: Any) -> str:
        """All that an error says, without an end to it."""
        body = json.dumps(self._scrubbed(wire.opened(error.body)), ensure_ascii=False) if error.body else ""
        return f"{self._scrub(str(error.message))}\n{body}"

    def _read(self, data: bytes, request: Request) -> Reply:
        found = wire.document(data)
        if found is wire.BROKEN:
            raise MentorUnavailable(f"{self.name} broke off in the middle of its answer", paid=True)
        document = self._scrubbed(found)
        reply = read_reply(document, request, self._without)
        given = document if isinstance(document, dict) else {}
        error = given.get("error") or wire.first_choice(given).get("error") or given.get("detail")
        if reply is not None and not error and reply.finish_reason != "error":
            return reply
        if not error and reply is not None:
            raise MentorUnavailable(f"{self.name} failed in the middle of its answer", paid=True)
        if not error:
            shown = document if isinstance(document, str) else json.dumps(document, ensure_ascii=False)
            path = "" if self._base_path else "; base_url has no path: most servers want one that ends in /v1"
            raise MentorUnavailable(
                f"{self.name}: expected a completion as JSON, found {wire.page(shown)}{path}", paid=True
            )
        code = error.get("code") if isinstance(error, dict) else None
        words = wire.words(self._scrubbed(wire.opened(error)))
        said = f"{self.name} answered with an error: {words}"
        if not isinstance(code, int) or code not in {400, 401, 402, 403, 404}:
            raise MentorUnavailable(said, paid=True)
        if code in {401, 403}:
            raise self._no_entry(code, words if code == 403 else "")
        raise MentorRefused(said)

    def _scrubbed(self, value: Any) -> Any:
        """A JSON value without the key in any of its strings."""
        if isinstance(value, str):
            return self._scrub(value)
        if isinstance(value, list):
            return [self._scrubbed(each) for each in value]
        return {self._scrub(k): self._scrubbed(v) for k, v in value.items()} if isinstance(value, dict) else value

    def _scrub(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__

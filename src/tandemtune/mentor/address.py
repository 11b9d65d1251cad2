"""Where an endpoint lies, and the key that it gets. Nothing that may be a secret stands in an error."""

from __future__ import annotations

import ipaddress
import os
import re
from urllib.parse import urlsplit

from tandemtune.errors import UsageError

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLAIN = re.compile(r"[A-Z0-9_]+")
NO_VARIABLE = (
    "expected the name of an environment variable (letters, digits and _), found something else; if that is the key itself, take it out "
    "and put it into a variable"
)


def is_variable(name: str) -> bool:
    """Whether an environment variable may have this name."""
    return _VARIABLE.fullmatch(name) is not None


def checked(base_url: str) -> tuple[str, bool]:
    """The host of an address that can be used, and whether what is sent there is encrypted.

    Raises:
        UsageError: it cannot be used, or holds a name, a password or a query.
    """
    try:
        parts = urlsplit(base_url)
        host, secret = parts.hostname, parts.username or parts.password or parts.query
    except ValueError:
        host = secret = None
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not host:
        raise UsageError(f"mentor address {_bare(base_url)!r}: expected http:// or https:// and a host")
    if secret:
        raise UsageError(
            f"mentor address of {host}: expected no name, password or query in it; keys come from the environment"
        )
    return host, parts.scheme == "https"


def key_of(variable: str, host: str) -> str:
    """The key in an environment variable.

    Raises:
        UsageError: no variable has that name, none is set, or it holds no key.
    """
    if not is_variable(variable):
        raise UsageError(f"the mentor at {host}: key_env: {NO_VARIABLE}")
    key = os.environ.get(variable, "").strip()
    if not key:
        named = variable if _PLAIN.fullmatch(variable) else "that key_env names"  # else it may be a key
        raise UsageError(
            f"the mentor at {host} needs a key: expected it in the environment variable {named}, which is not set; set it, or leave "
            "key_env out if the endpoint needs none"
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UsageError(
            f"environment variable {variable}: expected a key of plain characters, found others; copy it again"
        )
    return key


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bare(address: str) -> str:
    """An address without what may be a name, a password or a key in it."""
    _, at, behind = address.rpartition("@")
    return f"{'...@' if at else ''}{behind}".partition("?")[0].partition("#")[0]

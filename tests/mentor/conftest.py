"""A loopback server, and a client of it that holds a key."""

from __future__ import annotations

import pytest
from loopback import KEY, serving

from tandemtune.mentor import EndpointClient


@pytest.fixture
def server():
    with serving() as running:
        yield running


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("MENTOR_KEY", KEY)
    return KEY


@pytest.fixture
def client(server, key):
    client = EndpointClient("tiny", base_url=server.url, key_env="MENTOR_KEY", timeout=5)
    yield client
    client.close()

"""Fixtures that the tests of deploy/ share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import httpx
import pytest

from testing.redis_servers import RedisServer
from testing.service import Service, port_of

from ..e2e.conftest import Counters, Gateway, Unique
from .envoy_file import RULES, bootstrap, running
from .envoy_with_holds import PatientLlm
from .provider import PeculiarLlm


@pytest.fixture(scope="session")
def unique() -> Unique:
    """`unique("dba")` → "deployed-dba-1".

    The tests of e2e/ count in the same Redis, and have no such names.
    """
    numbers = itertools.count(1)
    return lambda name: f"deployed-{name}-{next(numbers)}"


@pytest.fixture
def llm() -> Iterator[PatientLlm]:
    """A provider that answers when a test allows it."""
    provider = PatientLlm()
    yield provider
    provider.stop()


@pytest.fixture(scope="module")
def peculiar_llm() -> Iterator[PeculiarLlm]:
    """A provider with every API, for all tests of a module."""
    provider = PeculiarLlm()
    yield provider
    provider.stop()


@pytest.fixture(scope="module")
def gateway(
    redis_server: RedisServer, peculiar_llm: PeculiarLlm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """An Envoy with envoy.yaml, and a service with the rules beside it."""
    with Service({"CONFIG_PATH": str(RULES), "REDIS_URL": redis_server.url}) as service:
        text = bootstrap(ratelimit=port_of(service.grpc), llm=peculiar_llm.port)
        with (
            running(tmp_path_factory.mktemp("envoy"), text) as url,
            httpx.Client(base_url=url, timeout=30, trust_env=False) as client,
        ):
            yield Gateway(client, Counters(redis_server), service)

"""Every kind of Redis that the settings can describe is reached and counts, and its errors have a reason."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from ratelimit_service.assembly.stores import make_store
from ratelimit_service.core.errors import StoreError
from ratelimit_service.core.model import Hit
from ratelimit_service.ports import CounterStore, Outcome
from ratelimit_service.settings.table import load_settings
from ratelimit_service.stores.redis.client import Tls
from testing.certificates import Authority
from testing.redis_fleets import RedisCluster, RedisSentinels
from testing.redis_servers import RedisServer, TlsFiles
from testing.waiting import wait_for

BUCKET = "{d|k=v}"
KEY = f"{BUCKET}:hour:2026-11-21T01Z"
SECOND = f"{BUCKET}:15second:2026-11-21T01:44:05Z"

COMMANDS = "+evalsha +eval +get +set +incrby +decrby +ttl +expire"
"""The permissions that a user needs for keys with the prefix."""


@asynccontextmanager
async def store_of(**environ: str) -> AsyncIterator[CounterStore]:
    """Return the store of these settings, with a timeout that suits a busy machine."""
    store = make_store(load_settings({"STORE_ANSWER_DEADLINE": "10s", **environ}))
    try:
        yield store
    finally:
        await store.close()


async def charge(store: CounterStore, *keys: str, amount: int = 1) -> list[object]:
    """Return the counts of one request."""
    answer: asyncio.Future[Sequence[Outcome]] = asyncio.get_running_loop().create_future()
    store.hit([[Hit(key, amount, ttl=60) for key in keys]], answer.set_result)
    (outcome,) = await asyncio.wait_for(answer, 15)
    return [outcome] if isinstance(outcome, StoreError) else list(outcome)


async def test_a_database_behind_a_unix_socket_is_used(redis_server: RedisServer, redis_url: str) -> None:
    """unix:///path?db=3."""
    async with store_of(REDIS_URL=f"unix://{redis_server.unixsocket}?db=3") as store:
        await store.start()
        assert [[0], [7]] == [await charge(store, KEY, amount=7), await charge(store, KEY)]
        assert {KEY: 8} == await store.read_bucket(BUCKET)
    assert ("8", "") == (redis_server.cli("-n", "3", "GET", KEY), redis_server.cli("GET", KEY))


async def test_a_user_with_few_permissions_can_count(redis_server: RedisServer, redis_url: str) -> None:
    """A dozen commands on keys with the prefix suffice; SCRIPT is not among them."""
    redis_server.cli("ACL", "SETUSER", "limiter", "reset", "on", ">se:cret", "~rl:*", *COMMANDS.split())
    key = f"rl:{KEY}"
    async with store_of(
        REDIS_URL=redis_server.address, REDIS_AUTH="limiter:se:cret", CACHE_KEY_PREFIX="rl:"
    ) as store:
        await store.start()
        await store.ping()
        assert [[0], [5], [3], [0]] == [await charge(store, key, amount=amount) for amount in (5, -2, -9, 0)]
        (refused,) = await charge(store, KEY)
    assert "NoPermission" in str(refused) and "se:cret" not in str(refused)


async def test_a_password_in_a_file_may_change(
    redis_server: RedisServer, redis_url: str, tmp_path: Path
) -> None:
    """New connections use the current content of the file."""
    file = tmp_path / "password"
    redis_server.cli("ACL", "SETUSER", "rotating", "reset", "on", ">first", "~*", "+@all")
    file.write_text("rotating:first\n")
    async with store_of(REDIS_URL=redis_server.address, REDIS_AUTH_FILE=str(file)) as store:
        await store.start()
        assert [0] == await charge(store, KEY)
        file.write_text("rotating:second\n")
        redis_server.cli("ACL", "SETUSER", "rotating", "resetpass", ">second")
        redis_server.cli("CLIENT", "KILL", "USER", "rotating")
        await charge(store, KEY)  # the result does not matter: the connection is closed
        await store.ping()
        file.write_text("rotating:first\n")
        redis_server.cli("CLIENT", "KILL", "USER", "rotating")
        with suppress(StoreError):  # the previous connection
            await store.ping()
        with pytest.raises(StoreError, match="invalid username-password pair") as refused:
            await store.ping()
        assert "first" not in str(refused.value)
        redis_server.cli("ACL", "SETUSER", "rotating", ">first")


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (None, "cannot be read: No such file"),
        (b"\n", "is empty"),
        (b"\xff\xfe", "cannot be read: it is not UTF-8"),
    ],
)
async def test_a_password_file_without_a_password_is_named(
    redis_server: RedisServer, tmp_path: Path, contents: bytes | None, reason: str
) -> None:
    """With the reason."""
    file = tmp_path / "password"
    if contents is not None:
        file.write_bytes(contents)
    async with store_of(REDIS_URL=redis_server.address, REDIS_AUTH_FILE=str(file)) as store:
        with pytest.raises(StoreError) as refused:
            await store.start()
    assert f"the password file {file} {reason}" in str(refused.value)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def tls_server(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis with a certificate for 127.0.0.1 and redis.test, which requires client certificates of the same
    CA.
    """
    directory = tmp_path_factory.mktemp("redis-tls")
    certificate, key = authority.issue("127.0.0.1", "redis.test").write(directory)
    with RedisServer(password="hush", tls=TlsFiles(certificate, key, authority.write(directory))) as server:
        yield server


@pytest.fixture
def tls_settings(tls_server: RedisServer, authority: Authority, tmp_path: Path) -> dict[str, str]:
    certificate, key = authority.issue("limiter").write(tmp_path, "client")
    return {
        "REDIS_URL": tls_server.url,
        "REDIS_TLS_CACERT": authority.write(tmp_path),
        "REDIS_TLS_CLIENT_CERT": certificate,
        "REDIS_TLS_CLIENT_KEY": key,
    }


async def test_a_redis_that_requires_a_certificate_gets_one(
    tls_server: RedisServer, tls_settings: dict[str, str]
) -> None:
    """With rediss:// or with REDIS_TLS."""
    tls_server.cli("FLUSHALL")
    for count, changes in enumerate(
        [{}, {"REDIS_URL": tls_server.address, "REDIS_TLS": "true", "REDIS_AUTH": "hush"}]
    ):
        async with store_of(**{**tls_settings, **changes}) as store:
            await store.start()
            assert [count] == await charge(store, KEY)


async def test_an_intermediate_ca_is_trusted_without_its_root(tmp_path: Path) -> None:
    """As in upstream, all certificates in the file are trusted, whatever Python's version."""
    intermediate = Authority(below=Authority())
    certificate, key = intermediate.issue("127.0.0.1").write(tmp_path)
    with RedisServer(tls=TlsFiles(certificate, key)) as server:
        async with store_of(REDIS_URL=server.url, REDIS_TLS_CACERT=intermediate.write(tmp_path)) as store:
            await store.start()
            assert [0] == await charge(store, KEY)


def test_every_version_of_python_verifies_certificates_alike() -> None:
    """3.13 began to trust intermediate certificates by default, and to refuse those that violate RFC 5280."""
    flags = Tls().context().verify_flags
    assert ssl.VERIFY_X509_PARTIAL_CHAIN == flags & (ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"REDIS_TLS_CACERT": ""}, "certificate verify failed"),
        ({"REDIS_TLS_SERVER_NAME": "other.test"}, "certificate is not valid for 'other.test'"),
        ({"REDIS_TLS_CLIENT_CERT": "", "REDIS_TLS_CLIENT_KEY": ""}, ""),
        (
            {"REDIS_TLS_CACERT": "/nowhere/ca.pem"},
            "/nowhere/ca.pem cannot be used: No such file or directory",
        ),
        ({"REDIS_TLS_CACERT": __file__}, f"{__file__}, "),
    ],
)
async def test_an_unsuitable_certificate_is_refused_with_the_reason(
    tls_settings: dict[str, str], changes: dict[str, str], reason: str
) -> None:
    """Its CA is unknown, it is for another name, there is none, or its file does not exist."""
    async with store_of(**{**tls_settings, **changes}) as store:
        with pytest.raises(StoreError) as refused:
            await store.start()
    assert reason in str(refused.value)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"REDIS_TLS_SERVER_NAME": "redis.test"},
        {"REDIS_TLS_SERVER_NAME": "other.test", "REDIS_TLS_SKIP_HOSTNAME_VERIFICATION": "true"},
    ],
)
async def test_the_name_of_the_certificate_can_be_set_or_skipped(
    tls_settings: dict[str, str], changes: dict[str, str]
) -> None:
    """If the service reaches Redis by a name that is not in its certificate."""
    async with store_of(**{**tls_settings, **changes}) as store:
        await store.ping()


async def test_a_certificate_whose_name_is_not_verified_must_be_of_the_ca(
    tls_settings: dict[str, str],
) -> None:
    changes = {"REDIS_TLS_CACERT": "", "REDIS_TLS_SKIP_HOSTNAME_VERIFICATION": "true"}
    async with store_of(**{**tls_settings, **changes}) as store:
        with pytest.raises(StoreError, match="certificate verify failed"):
            await store.ping()


def test_certificates_are_read_again_when_they_have_changed(authority: Authority, tmp_path: Path) -> None:
    """And only then, because reading them takes time."""
    certificate, key = authority.issue("first").write(tmp_path)
    tls = Tls(authority.write(tmp_path), certificate, key)
    before = tls.context()
    assert before is tls.context()
    authority.issue("second").write(tmp_path)
    assert before is not tls.context()


async def test_windows_of_seconds_can_have_a_redis_of_their_own(
    redis_server: RedisServer, redis_url: str
) -> None:
    """REDIS_PERSECOND: it has its own password, and each Redis has only its own windows."""
    with RedisServer(password="hush") as seconds:
        async with store_of(
            REDIS_URL=redis_server.address,
            REDIS_PERSECOND="true",
            REDIS_PERSECOND_URL=seconds.address,
            REDIS_PERSECOND_AUTH="hush",
        ) as store:
            await store.start()
            await store.ping()
            assert [0, 0] == await charge(store, KEY, SECOND, amount=3)
            assert [3, 3] == await charge(store, SECOND, KEY)
            assert {KEY: 4, SECOND: 4} == await store.read_bucket(BUCKET)
            assert ("4", "") == (redis_server.cli("GET", KEY), redis_server.cli("GET", SECOND))
            assert ("", "4") == (seconds.cli("GET", KEY), seconds.cli("GET", SECOND))
            seconds.stop()
            gone, counted = await charge(store, SECOND, KEY)
            assert (True, 4) == (isinstance(gone, StoreError), counted)
            with pytest.raises(StoreError, match="for windows of seconds: Redis: "):
                await store.ping()
            seconds.start()


async def test_one_reachable_server_of_a_cluster_is_enough(redis_cluster: RedisCluster) -> None:
    """The others are learned from it, and an unreachable server in the list is skipped."""
    dead = "127.0.0.1:1"
    async with store_of(
        REDIS_TYPE="CLUSTER", REDIS_URL=f"{dead},{redis_cluster.servers[-1].address}"
    ) as store:
        await store.start()
        await store.ping()
        keys = [f"{{d|k={number}}}:day:2026-11-21" for number in range(30)]
        assert [0] * 30 == await charge(store, *keys)
        assert [1] * 30 == await charge(store, *keys)
        assert {keys[7]: 2} == await store.delete_counters([keys[7]])
        assert {} == await store.read_bucket("{d|k=7}")


@pytest.mark.parametrize(
    ("kind", "prefix", "reason"),
    [
        ("CLUSTER", "", "cluster support disabled"),
        ("SENTINEL", "mymaster,", "no sentinel knows a primary of mymaster"),
    ],
)
async def test_a_single_server_configured_as_several_is_an_error(
    redis_server: RedisServer, kind: str, prefix: str, reason: str
) -> None:
    """The message names REDIS_TYPE."""
    async with store_of(REDIS_TYPE=kind, REDIS_URL=prefix + redis_server.address) as store:
        with pytest.raises(StoreError, match=reason):
            await store.start()


async def test_a_cluster_configured_as_a_single_server_is_an_error(redis_cluster: RedisCluster) -> None:
    """The message has the setting to change."""
    slots = {server: number for number, server in enumerate(redis_cluster.primaries())}
    async with store_of(REDIS_URL=next(iter(slots)).address) as store:
        for probe in (store.start, store.ping):
            with pytest.raises(StoreError, match="set REDIS_TYPE=CLUSTER"):
                await probe()
        outcomes = [await charge(store, f"{{d|k={number}}}:day:2026-11-21") for number in range(12)]
    assert any("set REDIS_TYPE=CLUSTER" in str(outcome) for (outcome,) in outcomes)


@pytest.fixture
def sentinels() -> Iterator[RedisSentinels]:
    with RedisSentinels() as sentinels:
        yield sentinels


async def test_a_new_primary_is_used_after_a_failover(sentinels: RedisSentinels) -> None:
    """The sentinels report it. Later charges are written to it, and read from it."""
    before = sentinels.master_port()
    async with store_of(REDIS_TYPE="sentinel", REDIS_URL=sentinels.url, REDIS_TIMEOUT="500ms") as store:
        await store.start()
        assert [0] == await charge(store, KEY)
        await asyncio.to_thread(sentinels.primary.wait_for_replica)
        assert "OK" == sentinels.sentinels[0].cli("SENTINEL", "FAILOVER", "mymaster")
        await asyncio.to_thread(wait_for, "the failover", lambda: sentinels.master_port() != before)
        await store.ping()
        await charge(store, KEY, amount=10)
        await asyncio.to_thread(wait_for, "the charge", lambda: "11" == sentinels.replica.cli("GET", KEY))
        assert [11] == await charge(store, KEY, amount=0)

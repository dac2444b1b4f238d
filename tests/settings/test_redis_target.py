"""The variables of Redis: its address, and the credentials."""

from __future__ import annotations

import pytest

from ratelimit_service.core.errors import InvalidSetting
from ratelimit_service.settings.redis_target import RedisType
from ratelimit_service.settings.table import load_settings


@pytest.mark.parametrize(
    ("environ", "backend"),
    [
        ({}, "memory"),
        ({"REDIS_AUTH": "x"}, "memory"),
        ({"REDIS_URL": "redis:6379"}, "redis"),
        ({"REDIS_TYPE": "single"}, "redis"),
        ({"REDIS_SOCKET_TYPE": "tcp"}, "redis"),
        ({"REDIS_URL": "redis:6379", "BACKEND_TYPE": "memory"}, "memory"),
        ({"BACKEND_TYPE": "redis"}, "redis"),
        ({"BACKEND_TYPE": ""}, "redis"),  # as in upstream
    ],
)
def test_any_variable_of_redis_selects_redis(environ: dict[str, str], backend: str) -> None:
    """Unless BACKEND_TYPE is set. A replaced image never counts in memory unnoticed."""
    assert backend == load_settings(environ).backend_type


@pytest.mark.parametrize(
    ("url", "auth", "address", "credentials"),
    [
        ("redis:6379", "", "redis://redis:6379", ("", "")),
        ("[::1]:6379", "", "redis://[::1]:6379", ("", "")),
        ("/run/redis.sock", "", "unix:///run/redis.sock", ("", "")),
        ("./redis sock", "", "unix://./redis%20sock", ("", "")),
        ("redis://redis", "", "redis://redis:6379", ("", "")),
        ("redis://redis:6379/2", "", "redis://redis:6379/2", ("", "")),
        ("redis://redis:6379/", "", "redis://redis:6379", ("", "")),
        ("rediss://redis:6380/1", "", "rediss://redis:6380/1", ("", "")),
        ("unix:///run/redis.sock?db=3", "", "unix:///run/redis.sock?db=3", ("", "")),
        ("redis://:p%40ss@redis:6379", "", "redis://redis:6379", ("", "p@ss")),
        ("redis://me:p@s/s@redis:6379", "", "redis://redis:6379", ("me", "p@s/s")),
        ("unix://me:pass@/run/redis.sock", "", "unix:///run/redis.sock", ("me", "pass")),
        ("redis:6379", "pass", "redis://redis:6379", ("", "pass")),
        ("redis:6379", "me:pa:ss%40", "redis://redis:6379", ("me", "pa:ss%40")),
        ("redis://other:other@redis:6379", "me:pass", "redis://redis:6379", ("me", "pass")),
    ],
)
def test_the_address_and_the_credentials_come_from_redis_url_and_redis_auth(
    url: str, auth: str, address: str, credentials: tuple[str, str]
) -> None:
    """The address never contains the credentials, so it can be logged."""
    target = load_settings({"REDIS_URL": url, "REDIS_AUTH": auth}).redis
    assert (address, credentials) == (target.address, (target.username, target.password))


@pytest.mark.parametrize(
    ("kind", "url", "address", "password"),
    [
        ("sentinel", "mymaster,one:26379,two:26380", "mymaster,redis://one:26379,redis://two:26380", ""),
        ("Sentinel", "m, redis://one:1/2 ,two:2", "m,redis://one:1/2,redis://two:2/2", ""),
        ("SENTINEL", "m,rediss://:p@one:1,two:2", "m,rediss://one:1,rediss://two:2", "p"),
        ("cluster", "one:1", "redis://one:1", ""),
        ("CLUSTER", "one:1,[::1]:2", "redis://one:1,redis://[::1]:2", ""),
        ("CLUSTER", "redis://:p@one:1,redis://:p@two", "redis://one:1,redis://two:6379", "p"),
    ],
)
def test_redis_type_gives_the_kind_of_the_servers_in_redis_url(
    kind: str, url: str, address: str, password: str
) -> None:
    """As in upstream: the name of the master and its sentinels, or some servers of the Cluster."""
    target = load_settings({"REDIS_TYPE": kind, "REDIS_URL": url}).redis
    assert (RedisType(kind.upper()), address, password) == (target.kind, target.address, target.password)


@pytest.mark.parametrize(
    ("kind", "url", "reason"),
    [
        ("SINGLE", "", "is not an address of Redis"),
        ("SINGLE", "redis", "is not an address of Redis"),
        ("SINGLE", "redis.sock", "is not an address of Redis"),
        ("SINGLE", "redis:0", "is not an address of Redis"),
        ("SINGLE", "redis:99999", "is not an address of Redis"),
        ("SINGLE", "redis://", "is not an address of Redis"),
        ("SINGLE", "http://redis:6379", "is not an address of Redis"),
        ("SINGLE", "unix://", "is not an address of Redis"),
        ("SINGLE", "one:6379,two:6379", "names several servers: set REDIS_TYPE"),
        ("SINGLE", "mymaster,one:26379,two:26379", "names several servers: set REDIS_TYPE"),
        ("SINGLE", "redis://redis:6379/two", "has more than a database after its address"),
        ("SINGLE", "unix:///run/redis.sock?timeout=2", "has more than a database after its address"),
        ("SINGLE", "me:secret@redis:6379", "has credentials but is not a URL"),
        ("SINGLE", ":se/cret@redis:6379", "has credentials but is not a URL"),
        ("SENTINEL", "mymaster", "is not a master and its sentinels: give mymaster,host:26379"),
        ("SENTINEL", "one:26379,two:26379", "is not a master and its sentinels: give mymaster,host:26379"),
        ("SENTINEL", "mymaster,one", "is not an address of Redis: give host:port"),
        ("SENTINEL", "mymaster,/run/redis.sock", "has a Unix socket, where SENTINEL needs servers"),
        ("CLUSTER", "/run/redis.sock", "has a Unix socket, where CLUSTER needs servers"),
        ("CLUSTER", "one:1,,two:2", "is not an address of Redis: give host:port"),
        ("CLUSTER", "redis://one:1/2", "has a database, and a Cluster has only database 0"),
    ],
)
def test_an_invalid_redis_address_is_refused(kind: str, url: str, reason: str) -> None:
    """With the reason, for both variables."""
    for name in ("REDIS", "REDIS_PERSECOND"):
        with pytest.raises(InvalidSetting) as refused:
            load_settings({f"{name}_TYPE": kind, f"{name}_URL": url, "REDIS_PERSECOND": "true"})
        assert str(refused.value).startswith(f"{name}_URL")
        assert reason in str(refused.value)


def test_the_address_of_a_disabled_redis_for_seconds_is_ignored() -> None:
    """As in upstream."""
    assert not load_settings({"REDIS_PERSECOND_URL": "nowhere"}).redis_persecond


def test_a_wrong_type_is_the_only_reported_problem() -> None:
    """One mistake gives one line."""
    with pytest.raises(InvalidSetting) as refused:
        load_settings({"REDIS_TYPE": "clustre", "REDIS_URL": "one:1,two:2"})
    assert 1 == len(str(refused.value).splitlines())

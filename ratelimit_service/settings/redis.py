"""The settings of Redis: the part of the table of settings whose names begin with REDIS_."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from .field import Context, setting
from .redis_target import RedisTarget, RedisType, redis_target
from .types import Bool, PositiveDuration, Secret, SecretText, Text, choice, read_text, whole_number

REDIS = "Redis"

SECRET = frozenset(
    ("REDIS_AUTH", "REDIS_SENTINEL_AUTH", "REDIS_PERSECOND_AUTH", "REDIS_PERSECOND_SENTINEL_AUTH")
)
MAY_HOLD_SECRET = frozenset(("REDIS_URL", "REDIS_PERSECOND_URL"))


def _read_url(text: str, context: Context) -> SecretText:
    second = "persecond_" if context.name == "redis_persecond_url" else ""
    needed = not second or context.values.get("redis_persecond", True)
    kind = context.values.get(f"redis_{second}type")
    if needed and kind is not None:  # where the type is wrong, that is said, and the URL cannot be judged
        redis_target(read_text(text), kind=kind)
    return SecretText(text)


def _read_auth_file(text: str, context: Context) -> str:
    auth = context.name.removesuffix("_file")
    given = context.values.get(auth)
    if text and given is not None and given.reveal():
        raise ValueError(f"is given beside {auth.upper()}: give one of them")
    return read_text(text)


def _read_client_key(text: str, context: Context) -> str:
    if text and not context.values.get("redis_tls_client_cert", "x"):
        raise ValueError("is the key of no certificate: give REDIS_TLS_CLIENT_CERT, too")
    return read_text(text)


_type = choice(*RedisType)
_pool_size = whole_number(1)

RedisUrl = Annotated[SecretText, _read_url]
AuthFile = Annotated[str, _read_auth_file]
ClientKey = Annotated[str, _read_client_key]
SocketType = Annotated[Literal["unix", "tcp"], choice("unix", "tcp")]


@dataclass(frozen=True, kw_only=True)
class RedisSettings:
    """Where counters are, where they are in Redis. Durations are seconds."""

    redis_type: Annotated[RedisType, _type] = setting(
        REDIS, "SINGLE", "SINGLE (one server), SENTINEL (a primary that sentinels watch) or CLUSTER."
    )
    redis_url: RedisUrl = setting(
        REDIS,
        "/var/run/nutcracker/ratelimit.sock",
        "Where Redis is. SINGLE: host:port, redis://user:password@host:port/database, rediss:// for TLS, unix:///path, or the "
        "path of a socket. SENTINEL: the name of the master and then the sentinels, mymaster,host:port,host:port. "
        "CLUSTER: some of its servers, host:port,host:port. Each server may be a URL.",
    )
    redis_auth: Secret = setting(REDIS, "", "The password, or user:password; wins over what REDIS_URL has.")
    redis_auth_file: AuthFile = setting(
        REDIS,
        "",
        "A file with that, in place of REDIS_AUTH; it is read whenever a connection is made. Ours.",
    )
    redis_sentinel_auth: Secret = setting(
        REDIS, "", "The password of the sentinels, or user:password, where they ask for one."
    )
    redis_socket_type: SocketType = setting(
        REDIS, "unix", "unix or tcp; what REDIS_URL looks like decides, so that it need not be set."
    )
    redis_tls: Bool = setting(
        REDIS,
        "false",
        "Whether connections are made with TLS, as with rediss://. Not those to a Unix socket.",
    )
    redis_tls_cacert: Text = setting(
        REDIS,
        "",
        "The file with the CAs that are trusted, in PEM, intermediate ones without their roots if need be; empty: the system's.",
    )
    redis_tls_client_cert: Text = setting(
        REDIS, "", "The file with the certificate that we show; it may hold the key, too."
    )
    redis_tls_client_key: ClientKey = setting(REDIS, "", "The file with its key.")
    redis_tls_skip_hostname_verification: Bool = setting(
        REDIS,
        "false",
        "Whether a certificate may be for another host than the one connected to. It is verified all the same.",
    )
    redis_tls_server_name: Text = setting(
        REDIS,
        "",
        "The name that certificates must be for, and that the server is asked for; empty: its host. Ours.",
    )
    redis_pool_size: Annotated[int, _pool_size] = setting(
        REDIS,
        "10",
        "The most connections to Redis beside the one that counts; in a Cluster, to each of its servers.",
    )
    redis_timeout: PositiveDuration = setting(
        REDIS,
        "1s",
        "How long Redis may take to answer before the connection is given up. envoyproxy/ratelimit: 10s, and to "
        "connect only.",
    )
    redis_connect_timeout: PositiveDuration = setting(REDIS, "1s", "How long connecting may take. Ours.")

    redis_persecond: Bool = setting(
        REDIS,
        "false",
        "Whether windows of seconds are counted in a Redis of their own, which the variables below describe. "
        "REDIS_TLS_ and REDIS_CONNECT_TIMEOUT hold for both.",
    )
    redis_persecond_type: Annotated[RedisType, _type] = setting(REDIS, "SINGLE", "As REDIS_TYPE.")
    redis_persecond_url: RedisUrl = setting(
        REDIS, "/var/run/nutcracker/ratelimitpersecond.sock", "As REDIS_URL."
    )
    redis_persecond_auth: Secret = setting(REDIS, "", "As REDIS_AUTH.")
    redis_persecond_auth_file: AuthFile = setting(REDIS, "", "As REDIS_AUTH_FILE. Ours.")
    redis_persecond_sentinel_auth: Secret = setting(REDIS, "", "As REDIS_SENTINEL_AUTH.")
    redis_persecond_socket_type: SocketType = setting(REDIS, "unix", "As REDIS_SOCKET_TYPE.")
    redis_persecond_tls: Bool = setting(REDIS, "false", "As REDIS_TLS.")
    redis_persecond_pool_size: Annotated[int, _pool_size] = setting(REDIS, "10", "As REDIS_POOL_SIZE.")
    redis_persecond_timeout: PositiveDuration = setting(
        REDIS, "1s", "As REDIS_TIMEOUT. envoyproxy/ratelimit: 10s."
    )

    @property
    def redis(self) -> RedisTarget:
        """Where Redis is, and who we are to it."""
        return redis_target(self.redis_url.reveal(), self.redis_auth.reveal(), self.redis_type)

    @property
    def redis_for_seconds(self) -> RedisTarget:
        """The same of the Redis for windows of seconds, where `redis_persecond` says that there is one."""
        return redis_target(
            self.redis_persecond_url.reveal(),
            self.redis_persecond_auth.reveal(),
            self.redis_persecond_type,
        )

"""The settings of Redis, whose names begin with REDIS_."""

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
    if needed and kind is not None:  # with an invalid type, only that is reported
        redis_target(read_text(text), kind=kind)
    return SecretText(text)


def _read_auth_file(text: str, context: Context) -> str:
    auth = context.name.removesuffix("_file")
    given = context.values.get(auth)
    if text and given is not None and given.reveal():
        raise ValueError(f"is set together with {auth.upper()}: give only one of them")
    return read_text(text)


def _read_client_key(text: str, context: Context) -> str:
    if text and not context.values.get("redis_tls_client_cert", "x"):
        raise ValueError("has no certificate: give REDIS_TLS_CLIENT_CERT as well")
    return read_text(text)


_type = choice(*RedisType)
_pool_size = whole_number(1)

RedisUrl = Annotated[SecretText, _read_url]
AuthFile = Annotated[str, _read_auth_file]
ClientKey = Annotated[str, _read_client_key]
SocketType = Annotated[Literal["unix", "tcp"], choice("unix", "tcp")]


DEFAULT_URL = "/var/run/nutcracker/ratelimit.sock"
"""The default of envoyproxy/ratelimit, whose image has a proxy for Redis there."""


@dataclass(frozen=True, kw_only=True)
class RedisSettings:
    """The fields of `table.Settings` for Redis. Durations are in seconds."""

    redis_type: Annotated[RedisType, _type] = setting(
        REDIS, "SINGLE", "SINGLE (one server), SENTINEL (a primary behind sentinels) or CLUSTER."
    )
    redis_url: RedisUrl = setting(
        REDIS,
        DEFAULT_URL,
        "The address of Redis. SINGLE: host:port, redis://user:password@host:port/database, rediss:// for"
        " TLS, unix:///path, or the path of a socket. SENTINEL: the name of the master, then the "
        "sentinels: mymaster,host:port,host:port. CLUSTER: some of the servers: host:port,host:port. Each"
        " server may be a URL.",
    )
    redis_auth: Secret = setting(REDIS, "", "The password, or user:password; overrides that of REDIS_URL.")
    redis_auth_file: AuthFile = setting(
        REDIS,
        "",
        "A file with the same, as an alternative to REDIS_AUTH; read for every new connection. Ours.",
    )
    redis_sentinel_auth: Secret = setting(
        REDIS, "", "The password of the sentinels, or user:password, if they need one."
    )
    redis_socket_type: SocketType = setting(
        REDIS, "unix", "unix or tcp. It need not be set: the form of REDIS_URL decides."
    )
    redis_tls: Bool = setting(
        REDIS,
        "false",
        "Whether connections use TLS, as with rediss://; Unix sockets do not.",
    )
    redis_tls_cacert: Text = setting(
        REDIS,
        "",
        "The file with the trusted CAs, in PEM; intermediate CAs need no root; empty: the CAs of the system.",
    )
    redis_tls_client_cert: Text = setting(
        REDIS, "", "The file with the client certificate to present; it may contain the key."
    )
    redis_tls_client_key: ClientKey = setting(REDIS, "", "The file with its key.")
    redis_tls_skip_hostname_verification: Bool = setting(
        REDIS,
        "false",
        "Whether the certificate may be for another host. Its signature is verified in any case.",
    )
    redis_tls_server_name: Text = setting(
        REDIS,
        "",
        "The name that certificates must have, also sent as SNI; empty: the host of the server. Ours.",
    )
    redis_pool_size: Annotated[int, _pool_size] = setting(
        REDIS,
        "10",
        "The most connections to Redis besides the one for counting; in a Cluster, to each server.",
    )
    redis_timeout: PositiveDuration = setting(
        REDIS,
        "1s",
        "How long Redis may take to answer before the connection is closed. envoyproxy/ratelimit: 10s, "
        "and for connecting only.",
    )
    redis_connect_timeout: PositiveDuration = setting(REDIS, "1s", "How long connecting may take. Ours.")

    redis_persecond: Bool = setting(
        REDIS,
        "false",
        "Whether windows of seconds are counted in a second Redis, which the variables below describe. "
        "REDIS_TLS_ and REDIS_CONNECT_TIMEOUT apply to both.",
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
        """The address and the credentials of Redis."""
        return redis_target(self.redis_url.reveal(), self.redis_auth.reveal(), self.redis_type)

    @property
    def redis_for_seconds(self) -> RedisTarget:
        """The same for the Redis of windows of seconds, if `redis_persecond` is set."""
        return redis_target(
            self.redis_persecond_url.reveal(),
            self.redis_persecond_auth.reveal(),
            self.redis_persecond_type,
        )

"""The start of the process: errors, warnings, and a start without Redis."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from testing.redis_servers import RedisServer, free_port
from testing.service import Service, calling, port_of, run
from testing.waiting import wait_for

from ..listening.test_addresses import needs_ipv6
from .conftest import probing, serving


def test_each_invalid_value_is_reported_in_a_line(config: str) -> None:
    """All invalid values are reported together, and nothing is started."""
    bad = {"GRPC_PORT": "http", "BACKEND_TYPE": "memcache", "LOG_FORMAT": "xml", "SHADOW_MODE": ""}
    code, out, err = run("serve", environment={"CONFIG_PATH": config, **bad})
    assert (1, "") == (code, out)
    assert [
        'BACKEND_TYPE="memcache" is not supported: give redis or memory',
        'GRPC_PORT="http" is not a port: give one from 0 to 65535',
        'LOG_FORMAT="xml" is not known here: give text or json',
        'SHADOW_MODE="" is not a boolean: give true or false (or 1, t, T, TRUE, True, 0, f, F, FALSE, '
        "False), "
        "or leave SHADOW_MODE unset",
    ] == sorted(err.splitlines())


def test_an_option_is_reported_like_its_variable() -> None:
    """Options and variables share one table of settings."""
    said = 'GRPC_PORT="eighty" is not a port: give one from 0 to 65535\n'
    assert (1, "", said) == run("serve", "--grpc-port", "eighty", environment={})


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which another process listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    ("variable", "value", "what"),
    [
        ("GRPC_PORT", "{}", "gRPC"),
        ("GRPC_PLAINTEXT_PORT", "{}", "plaintext gRPC"),
        ("PORT", "{}", "HTTP"),
        ("DEBUG_PORT", "{}", "debug HTTP"),
        ("PROMETHEUS_ADDR", "127.0.0.1:{}", "metrics"),
    ],
    ids=["gRPC", "plaintext", "HTTP", "debug", "metrics"],
)
def test_a_taken_port_is_reported_in_a_line(
    config: str, taken: int, variable: str, value: str, what: str
) -> None:
    """The line names the variable that chooses another port; those that were open are closed, and the process
    ends.
    """
    environment = {
        "BACKEND_TYPE": "memory",
        "CONFIG_PATH": config,
        "GRPC_HOST": "127.0.0.1",
        "HOST": "127.0.0.1",
        "LOG_LEVEL": "error",
        variable: value.format(taken),
    }
    said = (
        f"cannot listen for {what} on 127.0.0.1:{taken}: is the port taken? Choose another with {variable}\n"
    )
    assert (1, "", said) == run("serve", environment=environment)


@pytest.mark.parametrize(
    ("variable", "value", "where", "reason"),
    [
        ("GRPC_HOST", "192.0.2.1", "192.0.2.1:0", "Cannot assign requested address"),
        ("GRPC_UDS", "/nowhere/grpc.sock", "unix:/nowhere/grpc.sock", "No such file or directory"),
    ],
    ids=["host", "socket"],
)
def test_an_unavailable_address_is_reported_with_the_reason(
    config: str, variable: str, value: str, where: str, reason: str
) -> None:
    """The address belongs to another machine, or is in a missing directory."""
    environment = {"BACKEND_TYPE": "memory", "CONFIG_PATH": config, "LOG_LEVEL": "error", variable: value}
    said = f"cannot listen for gRPC on {where}: {reason}\n"
    assert (1, "", said) == run("serve", environment=environment)


@needs_ipv6
@pytest.mark.parametrize("transport", ["grpcio", "native"])
def test_all_ports_may_listen_on_both_ip_families(config: str, transport: str) -> None:
    """An IPv6 address, and an empty one, in each of the variables."""
    environment = {
        "BACKEND_TYPE": "memory",
        "CONFIG_PATH": config,
        "GRPC_TRANSPORT": transport,
        "GRPC_HOST": "::",
        "HOST": "",
        "DEBUG_HOST": "::",
        "PROMETHEUS_ADDR": "[::]:0",
    }
    with Service(environment) as service:
        ports = [port_of(at) for at in (service.grpc, service.http, service.debug, service.metrics)]
        assert ["[::]", "", "[::]", "[::]"] == [
            at.rpartition(":")[0] for at in (service.grpc, service.http, service.debug, service.metrics)
        ]
        for host in ("127.0.0.1", "[::1]"):
            with calling(f"{host}:{ports[0]}") as caller:
                assert 10 == caller.limit("d", "team", "dba")
            for port, path in zip(ports[1:], ("healthcheck", "rlconfig", "metrics"), strict=True):
                assert (
                    200 == httpx.get(f"http://{host}:{port}/{path}", trust_env=False, timeout=60).status_code
                )


def test_options_take_precedence_and_useless_settings_are_named(config: str, tmp_path: Path) -> None:
    """There are warnings for arguments of upstream, for variables without effect, and for counters that end
    with the process.
    """
    environment = {
        "BACKEND_TYPE": "redis",
        "CONFIG_PATH": str(tmp_path / "gone"),
        "GRPC_PORT": "http",
        "LOG_FORMAT": "text",
        "LOG_LEVEL": "panic",
        "PORT": "http",
        "REDIS_URL": "nowhere",
        "EXTRA_TAGS": "env:test",
        "USE_STATSD": "false",
    }
    options = {
        "--config": config,
        "--grpc-port": "0",
        "--log-format": "json",
        "--log-level": "info",
        "--port": "0",
        "--redis-url": "127.0.0.1:1",
        "--store": "memory",
    }
    arguments = [
        "-config",
        "/data/ratelimit.yaml",
        *(word for pair in options.items() for word in pair),
        "-v",
        "--",
        "--help",
    ]
    with Service(environment, arguments=arguments) as service:
        assert ("memory", (200, "OK")) == (service.store, service.health())
        assert [
            ("arguments ignored", ["-config", "/data/ratelimit.yaml", "-v", "--help"]),
            (
                "EXTRA_TAGS is set, but not supported: metrics have no additional labels",
                None,
            ),
            (
                "counters are kept in memory: they are not shared between replicas, and end with the process",
                None,
            ),
        ] == [
            (event["@message"], event.get("arguments"))
            for event in service.everything()
            if event["level"] == "warning"
        ]


def test_a_redis_without_an_address_is_named(config: str) -> None:
    """The default is a socket that hardly any machine has."""
    with Service({"BACKEND_TYPE": "redis", "CONFIG_PATH": config}) as service:
        warnings = [event["@message"] for event in service.everything() if event["level"] == "warning"]
        assert (
            "REDIS_URL is not set: Redis is expected at /var/run/nutcracker/ratelimit.sock, "
            "as by envoyproxy/ratelimit"
        ) == warnings[0]
    with Service({"CONFIG_PATH": config}, arguments=["--redis-url", "127.0.0.1:1"]) as service:
        assert "redis" == service.store
        assert [] == [event for event in service.everything() if "REDIS_URL" in event["@message"]]


def test_several_configuration_paths_can_be_given(tmp_path: Path, config: str) -> None:
    """--config may be repeated. Without a setting, the store is memory."""
    other = tmp_path / "other.yaml"
    other.write_text(Path(config).read_text().replace("domain: d", "domain: e"))
    with (
        Service({}, arguments=["--config", config, "--config", str(other)]) as service,
        calling(service.grpc) as caller,
    ):
        assert "memory" == service.store
        assert [10, 10, 0] == [caller.limit(domain, "team", "dba") for domain in ("d", "e", "f")]


def away(redis: RedisServer) -> int:
    """The port of a Redis that is not yet running."""
    redis.port = free_port()
    return redis.port


def test_the_service_starts_without_redis_and_connects_later(config: str) -> None:
    """A missing Redis is no reason to restart the pod: all ports are open, and report the state."""
    with (
        closing(RedisServer()) as redis,
        Service({"REDIS_URL": f"127.0.0.1:{away(redis)}", "CONFIG_PATH": config}) as service,
        calling(service.grpc) as caller,
        probing(service) as probe,
    ):

        def assert_unreachable() -> None:
            wait_for("unhealthy", lambda: service.health() == (500, "unhealthy: redis"))
            wait_for("NOT_SERVING", lambda: serving(probe, "ratelimit") == "NOT_SERVING")
            assert "SERVING" == serving(probe, "")
            assert "UNAVAILABLE" == caller.status("d", "team", "dba")

        assert "redis" == service.store
        assert_unreachable()
        redis.start()
        wait_for("healthy", lambda: service.health() == (200, "OK"))
        wait_for("SERVING", lambda: serving(probe, "ratelimit") == "SERVING")
        assert 10 == caller.limit("d", "team", "dba")
        redis.stop()
        assert_unreachable()
        wait_for(
            "a line in the log for each change",
            lambda: (
                [len(service.events(f"the store {what}")) for what in ("cannot be reached", "is reached")]
                == [2, 1]
            ),
        )

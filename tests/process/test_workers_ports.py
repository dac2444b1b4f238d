"""The ports of several workers: shared among the workers, and not with other processes."""

from __future__ import annotations

import os
from pathlib import Path

import grpc

from testing.certificates import Authority
from testing.service import Caller, calling
from testing.waiting import wait_for

from .workers import KILL, MANY, connections, processes, refused, shares, states, transports, workers


def test_a_port_in_use_stops_the_start(config: str, redis_url: str) -> None:
    """This includes another service with workers: a service shares its port only with its own workers."""
    with workers(config, redis_url, GRPC_HOST="127.0.0.1") as first:
        port = first.grpc.rpartition(":")[2]
        given = {"GRPC_PORT": port, "GRPC_HOST": "127.0.0.1"}
        others: list[dict[str, str]] = [
            {},
            *[{"WORKERS": "1", "GRPC_TRANSPORT": each} for each in ("grpcio", "native")],
        ]
        ended = [refused(config, redis_url, **given, **other) for other in others]
    assert [
        (1, f"cannot listen for gRPC on 127.0.0.1:{port}: is the port taken? Choose another with GRPC_PORT")
    ] * 3 == [(each.code, each.err.splitlines()[-1]) for each in ended]


def test_workers_share_a_unix_socket(config: str, redis_url: str, tmp_path: Path) -> None:
    """The supervisor owns the path: a second service cannot use it, a dead worker leaves it in place, and a
    stop removes it.
    """
    path = tmp_path / "grpc.sock"
    with workers(config, redis_url, GRPC_UDS=str(path)) as service:
        assert f"unix:{path}" == service.grpc
        with connections(service) as callers:
            assert {10} == {caller.limit("d", "team", "dba") for caller in callers}
        second = refused(config, redis_url, GRPC_UDS=str(path))
        assert (1, True) == (second.code, "another process has this path" in second.err)
        os.kill(processes(service)[0], KILL)
        with calling(service.grpc) as caller:
            assert 10 == caller.limit("d", "team", "dba")
        wait_for("both", lambda: states(service) == {"wanted": 2, "serving": 2})
        assert 0 == service.stop()
    assert [] == [
        each.name for each in tmp_path.iterdir() if "sock" in each.name or each.name.startswith(".")
    ]
    grpcio = refused(config, redis_url, GRPC_UDS=str(path), GRPC_TRANSPORT="grpcio")
    assert (1, True) == (
        grpcio.code,
        grpcio.err.startswith("GRPC_UDS with several workers needs GRPC_TRANSPORT=native"),
    )


@transports
def test_workers_share_the_ports_with_and_without_tls(
    config: str, redis_url: str, tmp_path: Path, transport: str
) -> None:
    """The supervisor reserves both ports, although it does not speak TLS."""
    authority = Authority()
    certificate, key = authority.server().write(tmp_path, "server")
    tls = {"GRPC_SERVER_USE_TLS": "true", "GRPC_SERVER_TLS_CERT": certificate, "GRPC_SERVER_TLS_KEY": key}
    settings = {"GRPC_HOST": "127.0.0.1", "GRPC_PLAINTEXT_PORT": "0", "GRPC_TRANSPORT": transport}
    with workers(config, redis_url, **tls, **settings) as service:
        plaintext = str(service.wait_for_event("serving")["grpc_plaintext"])
        assert plaintext != service.grpc
        credentials = authority.channel()
        for number in range(MANY):
            alone = [("grpc.use_local_subchannel_pool", 1)]
            with (
                grpc.insecure_channel(plaintext, options=alone) as open_one,
                grpc.secure_channel(
                    f"localhost:{service.grpc.rpartition(':')[2]}", credentials, options=alone
                ) as secure,
            ):
                assert [10, 10] == [
                    Caller(each).limit("d", "team", f"t{number}") for each in (open_one, secure)
                ]
        assert all(shares(service))

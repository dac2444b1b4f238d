"""Several real Redis servers: a primary with sentinels, and a Cluster."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from functools import partial
from types import TracebackType
from typing import Self

from .redis_servers import RedisServer, free_port
from .waiting import wait_for

SLOTS = 16_384
_BUS = 10_000
"""The distance from the port of a server to that of its cluster bus."""


class Sentinel(RedisServer):
    """A sentinel that watches `primary` under the name of `mymaster`."""

    def __init__(self, primary: RedisServer) -> None:
        super().__init__()
        self._primary = primary

    def _arguments(self) -> list[str]:
        file = self._directory / "sentinel.conf"
        file.write_text(
            f"""\
bind 127.0.0.1
port {self.port}
unixsocket {self.unixsocket}
dir {self._directory}
sentinel monitor mymaster 127.0.0.1 {self._primary.port} 2
sentinel down-after-milliseconds mymaster 500
sentinel failover-timeout mymaster 2000
"""
        )
        return [str(file), "--sentinel"]


class _Fleet:
    """Servers that are started and stopped together."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self) -> None:
        raise NotImplementedError


class RedisSentinels(_Fleet):
    """A primary, a replica, and three sentinels with a quorum of two."""

    primary: RedisServer
    replica: RedisServer
    sentinels: list[Sentinel]

    def _start(self) -> None:
        self.primary = self._stack.enter_context(RedisServer("--repl-diskless-sync-delay", "0"))
        self.replica = self._stack.enter_context(
            RedisServer("--replicaof", "127.0.0.1", str(self.primary.port))
        )
        self.sentinels = [self._stack.enter_context(Sentinel(self.primary)) for _ in range(3)]
        wait_for("the replica is in step", lambda: "link_status:up" in self.replica.replication())
        for sentinel in self.sentinels:
            wait_for(
                "the sentinels know of each other and of the replica", partial(self._knows_all, sentinel)
            )

    @staticmethod
    def _knows_all(sentinel: Sentinel) -> bool:
        return "slaves=1,sentinels=3" in sentinel.cli("INFO", "sentinel")

    @property
    def url(self) -> str:
        """Their address for REDIS_URL: the name of the master, and the sentinels."""
        return ",".join(["mymaster", *(sentinel.address for sentinel in self.sentinels)])

    def addresses(self) -> list[tuple[str, int]]:
        """The ports of the sentinels."""
        return [("127.0.0.1", sentinel.port) for sentinel in self.sentinels]

    def master_port(self) -> int:
        """Return the port of the primary, according to the sentinels."""
        return int(self.sentinels[0].cli("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster").splitlines()[1])


class _ClusterServer(RedisServer):
    def _choose_port(self) -> int:
        while True:
            port = free_port()
            if port + _BUS > 65_535:
                continue
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port + _BUS))
                return port

    def _arguments(self) -> list[str]:
        return [
            *super()._arguments(),
            *("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"),
            *("--cluster-node-timeout", "5000", "--repl-diskless-sync-delay", "0"),
            *("--cluster-require-full-coverage", "no"),  # the others serve while one is away
            # A replica may fail over however long it was cut off: these servers run for a minute, under load.
            *("--cluster-replica-validity-factor", "0"),
        ]


class RedisCluster(_Fleet):
    """Three primaries with a third of the slots each, and a replica of each."""

    def __init__(self, primaries: int = 3, replicas: int = 1) -> None:
        super().__init__()
        self._primaries = primaries
        self._replicas = replicas
        self.servers: list[RedisServer] = []

    def _start(self) -> None:
        count = self._primaries * (1 + self._replicas)
        self.servers = [self._stack.enter_context(_ClusterServer()) for _ in range(count)]
        command = ["redis-cli", "--cluster", "create", *(server.address for server in self.servers)]
        command += ["--cluster-replicas", str(self._replicas), "--cluster-yes"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8")
        assert 0 == done.returncode, done.stdout + done.stderr
        self.wait_until_whole()

    @property
    def url(self) -> str:
        """Their address for REDIS_URL: all servers."""
        return ",".join(server.address for server in self.servers)

    def addresses(self) -> list[tuple[str, int]]:
        """The ports of all servers."""
        return [("127.0.0.1", server.port) for server in self.servers]

    def primaries(self) -> list[RedisServer]:
        """The current primaries."""
        return [server for server in self.servers if server.is_primary()]

    def owner(self, slot: int) -> RedisServer:
        """Return the primary of a slot, according to the first server."""
        for line in self.servers[0].cli("CLUSTER", "NODES").splitlines():
            _, address, flags, _, _, _, _, _, *slots = line.split()
            ranges = [part.partition("-") for part in slots if not part.startswith("[")]
            if "fail" not in flags and any(int(a) <= slot <= int(b or a) for a, _, b in ranges):
                return self.at(int(address.partition("@")[0].rpartition(":")[2]))
        raise AssertionError(f"nobody has slot {slot}")

    def at(self, port: int) -> RedisServer:
        """Return the server at a port."""
        return next(server for server in self.servers if server.port == port)

    def flush(self) -> None:
        """Delete everything."""
        for server in self.primaries():
            server.cli("FLUSHALL")

    def configure(self, name: str, value: str) -> None:
        """Run CONFIG SET on every server."""
        for server in self.servers:
            server.cli("CONFIG", "SET", name, value)

    def wait_until_whole(self) -> None:
        """Wait until all servers see all others and all slots, and the replicas are in sync."""
        for server in self.servers:
            wait_for("the Cluster is whole", partial(self._is_well, server), patience=60)
        assert len(self.primaries()) == self._primaries

    def _is_well(self, server: RedisServer) -> bool:
        info, replication = server.cli("CLUSTER", "INFO"), server.replication()
        return (
            "cluster_state:ok" in info
            and f"cluster_known_nodes:{len(self.servers)}" in info
            and "fail" not in server.cli("CLUSTER", "NODES")
            and (
                f"connected_slaves:{self._replicas}" in replication or "master_link_status:up" in replication
            )
        )

    # Migration of a slot.

    def begin_to_move(self, slot: int) -> tuple[RedisServer, RedisServer]:
        """Begin to migrate a slot, and return both primaries.

        The owner redirects requests for missing keys.
        """
        source = self.owner(slot)
        target = next(server for server in self.primaries() if server is not source)
        target.cli("CLUSTER", "SETSLOT", str(slot), "IMPORTING", source.cli("CLUSTER", "MYID"))
        source.cli("CLUSTER", "SETSLOT", str(slot), "MIGRATING", target.cli("CLUSTER", "MYID"))
        return source, target

    def move_keys(self, slot: int, source: RedisServer, target: RedisServer, most: int = 10) -> int:
        """Migrate some of its keys, and return their number."""
        keys = source.cli("CLUSTER", "GETKEYSINSLOT", str(slot), str(most)).split()
        if keys:
            moved = source.cli("MIGRATE", "127.0.0.1", str(target.port), "", "0", "5000", "KEYS", *keys)
            assert moved in ("OK", "NOKEY"), moved
        return len(keys)

    def end_move(self, slot: int, target: RedisServer) -> None:
        """End the migration on all primaries, the new owner first."""
        name = target.cli("CLUSTER", "MYID")
        for server in sorted(self.primaries(), key=lambda server: server is not target):
            assert "OK" == server.cli("CLUSTER", "SETSLOT", str(slot), "NODE", name)

    def move(self, slot: int) -> None:
        """Migrate a whole slot."""
        source, target = self.begin_to_move(slot)
        while self.move_keys(slot, source, target):
            pass
        self.end_move(slot, target)

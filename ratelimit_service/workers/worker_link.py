"""A worker's end of its link to the supervisor."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from ..runtime.health import Health
from .link import Link, LinkError

Addresses = Mapping[str, str]
"""The addresses of the HTTP ports, by the name of the port."""

TakeRules = Callable[[Sequence[bytes], Callable[[], Awaitable[None]]], Awaitable[bool]]
"""Takes rules over, and puts them in force once the second argument returns (loading/rulebook.py).

Returns whether they are in force.
"""

Provide = Callable[..., Awaitable[Any]]

METRICS = "metrics"
"""What every worker shares: its metrics (observe/merging.py)."""


class Hello(NamedTuple):
    """The first message to a worker: what it needs to create its parts.

    `options` are those of the command line, by variable, and the ports that the supervisor has reserved.
    """

    number: int
    workers: int
    service: str
    """The name of the service, which its workers share."""
    options: Mapping[str, str]
    listening: int
    """The descriptor of the listening Unix socket, or -1."""
    log_lock: int
    """The descriptor of a file that is locked while lines are written."""

    @property
    def name(self) -> str:
        """The name of this worker in the register of replicas."""
        return f"{self.service}-{self.number}"


class Opening(NamedTuple):
    """The permission to open the ports: the gRPC port, and those of HTTP if the worker leads."""

    leads: bool
    addresses: Addresses


class Siblings(Protocol):
    """The other workers of this service."""

    def share(self, name: str, provide: Provide) -> None:
        """Let the other workers ask this one for `name`. Arguments and answers can be pickled."""
        ...

    async def ask(self, name: str, *arguments: Any) -> list[Any]:
        """Return the answers of the other workers that answer in time."""
        ...


class NoSiblings:
    """The Siblings of a process without any."""

    def share(self, name: str, provide: Provide) -> None:
        """See Siblings."""

    async def ask(self, name: str, *arguments: Any) -> list[Any]:
        """See Siblings."""
        return []


class Scrape(NamedTuple):
    """The data that the leading worker needs for the metrics of all workers."""

    others: Mapping[int, bytes]
    """The metrics of each other worker, by its number."""
    departed: bytes
    """The counts of workers that have ended or are about to end; may be empty."""
    restarts: int
    serving: Sequence[int]
    wanted: int
    generations: Mapping[int, int]


class WorkerLink:
    """One worker of several. `hello` is what the supervisor has sent over `end` already."""

    def __init__(self, hello: Hello, end: socket.socket) -> None:
        self.hello = hello
        self._end = end
        self._shared: dict[str, Provide] = {}
        self._pieces: dict[int, list[bytes]] = {}
        self._use: dict[int, asyncio.Event] = {}
        self._loads: dict[int, asyncio.Task[None]] = {}
        self._take: TakeRules | None = None
        self._health: Health | None = None
        self._lead: Callable[[Addresses], None] = lambda addresses: None
        self._link = Link({})

    def share(self, name: str, provide: Provide) -> None:
        """See Siblings."""
        self._shared[name] = provide

    async def ask(self, name: str, *arguments: Any) -> list[Any]:
        """See Siblings."""
        try:
            answers: list[Any] = await self._link.ask("gather", name, *arguments)
        except LinkError:  # the supervisor has ended, and so will this process
            return []
        return answers

    async def connect(
        self,
        health: Health,
        take: TakeRules,
        lead: Callable[[Addresses], None],
        resign: Callable[[], Awaitable[None]],
        ended: Callable[[], None],
    ) -> None:
        """Exchange messages from now on.

        `take` gets rules, `lead` is called if this worker has to open the HTTP ports at some later time,
        `resign` if it has to close them before it ends, `ended` when the supervisor has ended.
        """
        self._health, self._take, self._lead = health, take, lead
        handlers: dict[str, Callable[..., Any]] = {
            "piece": self._add_piece,
            "load": self._load,
            "use": self._in_force,
            "elsewhere": health.set_elsewhere,
            "lead": lead,
            "resign": resign,
            "share": self._provide,
        }
        self._link = Link(handlers, ended)
        await self._link.open(self._end)
        health.changed = self._tell_health
        self._tell_health()

    async def first_rules(self) -> None:
        """Put the rules of the other workers in force."""
        generation = await self._link.ask("join")
        if (load := self._loads.get(generation)) is not None:
            await load

    async def may_open(self) -> Opening:
        """Wait until the other workers can open their ports, too."""
        opening: Opening = await self._link.ask("open")
        return opening

    def serving(self, addresses: Addresses) -> None:
        """Report that the gRPC port is open."""
        self._link.tell("serving", addresses)

    def leading(self, addresses: Addresses) -> None:
        """Report that the HTTP ports are open."""
        self._link.tell("leading", addresses)

    async def scrape(self, own: bytes) -> Scrape:
        """Return the metrics of the others, in exchange for those of this worker. Raises LinkError."""
        scrape: Scrape = await self._link.ask("scrape", own)
        return scrape

    async def alone(self, patience: float) -> None:
        """Wait until no other worker runs, for at most so many seconds."""
        with suppress(LinkError):
            await self._link.ask("alone", patience=patience)

    async def close(self) -> None:
        """Close the link."""
        if self._health is not None:
            self._health.changed = lambda: None
        for load in self._loads.values():
            load.cancel()
        await self._link.close()

    def _tell_health(self) -> None:
        assert self._health is not None
        self._link.tell("health", self._health.unhealthy_here)

    def _add_piece(self, generation: int, piece: bytes) -> None:
        self._pieces.setdefault(generation, []).append(piece)

    def _load(self, generation: int) -> None:
        self._use[generation] = asyncio.Event()
        load = asyncio.get_running_loop().create_task(self._loaded(generation))
        self._loads[generation] = load

    def _in_force(self, generation: int) -> None:
        if generation in self._use:
            self._use[generation].set()

    async def _loaded(self, generation: int) -> None:
        assert self._take is not None
        use = self._use[generation]

        async def agreed() -> None:
            self._link.tell("ready", generation)
            await use.wait()

        in_force = False
        try:
            in_force = await self._take(self._pieces.pop(generation), agreed)
        finally:
            self._link.tell("ready", generation)
            self._link.tell("taken", generation, in_force)
            del self._use[generation], self._loads[generation]

    async def _provide(self, name: str, *arguments: Any) -> Any:
        return await self._shared[name](*arguments)

"""Serves with several workers (WORKERS): creates what they share; workers/supervisor.py runs them."""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import structlog

from ..assembly.rules import find_files, task_of
from ..core.errors import StartError
from ..listening.addresses import PLAINTEXT, Address, SocketPath, why
from ..loading import reloading
from ..observe.line_writer import lock_between_processes
from ..runtime import cpus, garbage
from ..runtime.tasks import Background
from ..runtime.threads import StuckError, Thread
from ..settings.table import Settings
from ..settings.types import AUTO
from ..sources import files
from ..transports.choice import native_server
from ..workers.rules import SharedRules
from ..workers.supervisor import Supervisor
from ..workers.worker_link import Hello

_BACKLOG = 1_024


def number_of_workers(settings: Settings) -> int:
    """Return how many workers to start. Raises StartError for a store that they cannot share."""
    if settings.workers == 1:
        return 1
    if settings.backend_type == "memory":
        raise StartError(
            f"WORKERS={settings.workers or 'auto'} needs BACKEND_TYPE=redis: the memory store counts in one "
            "process, so each worker would allow the whole limit. Give a Redis, or WORKERS=1"
        )
    if not hasattr(os, "memfd_create"):
        raise StartError("WORKERS needs Linux, whose kernel spreads connections over processes: give 1")
    return cpus.usable() if settings.workers == AUTO else settings.workers


async def supervise(settings: Settings, options: Mapping[str, str], number: int) -> int:
    """Serve until a signal, and return the exit code. Raises StartError."""
    log_lock = os.memfd_create("log")
    lock_between_processes(log_lock)
    name = f"{socket.gethostname()}-{uuid.uuid4().hex[:6]}"
    with _shared(settings) as shared:

        def hello(worker: int) -> Hello:
            return Hello(
                worker,
                number,
                name,
                {**options, **shared.ports},
                shared.listening.fileno() if shared.listening is not None else -1,
                log_lock,
            )

        return await _supervised(settings, number, hello, shared)


class _Shared(NamedTuple):
    """The sockets of the workers: ports, or a Unix socket."""

    ports: Mapping[str, str]
    """By variable."""
    listening: socket.socket | None

    def close(self) -> None:
        """Close the Unix socket, so that nothing connects to it once the workers have closed it."""
        if self.listening is not None:
            self.listening.close()


@contextmanager
def _shared(settings: Settings) -> Iterator[_Shared]:
    host = settings.grpc_host.strip("[]")
    reserved: list[socket.socket] = []

    def port(number: int, what: str) -> str:
        reserved.append(Address(host, number).reserve(what))
        return str(reserved[-1].getsockname()[1])

    ports = {}
    path: SocketPath | None = None
    try:
        if settings.grpc_plaintext_port is not None:
            ports["GRPC_PLAINTEXT_PORT"] = port(settings.grpc_plaintext_port, PLAINTEXT)
        if not settings.grpc_uds:
            ports["GRPC_PORT"] = port(settings.grpc_port, "gRPC")
            yield _Shared(ports, None)
            return
        if settings.grpc_transport == "grpcio" or native_server(required=False) is None:
            raise StartError(
                "GRPC_UDS with several workers needs GRPC_TRANSPORT=native: grpcio cannot share a socket. "
                "Give native, a port (GRPC_PORT), or WORKERS=1"
            )
        path = SocketPath(settings.grpc_uds)
        with _listening(path, settings.grpc_uds) as listening:
            yield _Shared(ports, listening)
    finally:
        if path is not None:
            path.release()
        for each in reserved:
            each.close()


def _listening(path: SocketPath, shown: str) -> socket.socket:
    """Return a socket that listens at this path. Raises StartError."""
    name = path.claim()
    listening = socket.socket(socket.AF_UNIX)
    try:
        listening.bind(name)
        listening.listen(_BACKLOG)
        path.publish()
    except OSError as error:
        listening.close()
        raise StartError(f"cannot listen for gRPC on unix:{shown}: {why(error)}") from None
    return listening


async def _supervised(settings: Settings, number: int, hello: Callable[[int], Hello], shared: _Shared) -> int:
    background = Background()
    asyncio.get_running_loop().set_exception_handler(partial(_failed, background))
    garbage.enable_for_serving()
    rules = None
    if "FILE" in settings.config_type:
        rules = SharedRules(task_of(settings))
        background.keep("rules", partial(_follow, settings, rules))
    try:
        return await Supervisor(number, hello, rules, shared.close).run()
    finally:
        await background.stop()


async def _follow(settings: Settings, rules: SharedRules) -> None:
    """Load the rules, and load them again whenever their files change."""
    thread, find = Thread("looking for changes of the rules"), find_files(settings)
    try:
        watcher = await thread.do(partial(files.Watcher, find), reloading.ANSWERS_WITHIN)
    except StuckError as error:
        log = structlog.get_logger("ratelimit_service")
        log.error("the files of the rules do not answer", error=str(error))
        watcher = files.Watcher(find, seen=())  # any file counts as changed once they answer
    again = await rules.load()
    await reloading.follow(watcher.changed, rules.load, thread, again=again)


def _failed(background: Background, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    background.failed("supervisor", context.get("message", "an unexpected error"), context.get("exception"))

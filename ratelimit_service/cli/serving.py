"""The command `serve`: runs the service, or one of its workers, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from ..core.errors import StartError
from ..observe import logs
from ..observe.line_writer import LineWriter, lock_between_processes, to_stderr
from ..runtime import descriptors
from ..settings.redis import DEFAULT_URL
from ..settings.table import Settings, load_settings
from ..settings.unsupported import unsupported

if TYPE_CHECKING:
    from ..workers.worker_link import WorkerLink

_MOST_OF_THE_LOG = 4 * 1024 * 1024
"""Bytes of the log that may wait to be written."""

_LAST_LINES = 2.0
"""Seconds at the end for writing the rest of the log."""


def serve(
    environ: Mapping[str, str],
    options: Mapping[str, str],
    ignored: Sequence[str] = (),
    member: WorkerLink | None = None,
) -> None:
    """Run the service, or one of its workers, until a signal stops it.

    If it cannot start, write a line for each reason and exit with 1.
    """
    log = structlog.get_logger("ratelimit_service")
    writer = LineWriter(
        to_stderr(),
        most_bytes=_MOST_OF_THE_LOG,
        caught_up=lambda dropped: log.warning("lines of the log were dropped", lines=dropped),
    )
    writer.start()
    try:
        settings = load_settings(environ, options)
        fields = {"worker": member.hello.number} if member is not None else {}
        logs.configure(settings.log_level, settings.log_format, writer=writer, fields=fields)
        logs.log_what_python_reports()
        descriptors.raise_limit()
        if member is not None:
            lock_between_processes(member.hello.log_lock)
            _run(partial(_serve, settings, writer, member))
            return
        if ignored:
            log.warning("arguments ignored", arguments=list(ignored))
        for line in unsupported(environ):
            log.warning(line)
        if settings.backend_type == "redis" and "REDIS_URL" not in {**environ, **options}:
            log.warning(
                f"REDIS_URL is not set: Redis is expected at {DEFAULT_URL}, as by envoyproxy/ratelimit"
            )
        if settings.workers != 1:
            from . import supervise

            if (number := supervise.number_of_workers(settings)) > 1:
                _run(partial(supervise.supervise, settings, options, number), asyncio.new_event_loop)
                return
        _run(partial(_serve, settings, writer))
    except StartError as error:
        writer.put([f"{error}\n".encode(errors="backslashreplace")])
        raise SystemExit(1) from None
    finally:
        writer.close(_LAST_LINES)


def _run(
    work: Callable[[], Coroutine[Any, Any, int]],
    new_event_loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> None:
    """Run until the end, and exit with the returned code unless that is 0."""
    if new_event_loop is None:
        import uvloop

        new_event_loop = uvloop.new_event_loop
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            code = runner.run(work())
    except StartError:
        raise
    except Exception:
        # Not `report`: the event loop has ended.
        structlog.get_logger("ratelimit_service").critical("the service has failed", exc_info=True)
        raise SystemExit(1) from None
    if code:
        raise SystemExit(code)


async def _serve(settings: Settings, writer: LineWriter, member: WorkerLink | None = None) -> int:
    from ..app import App

    await App(settings, writer, member).run()
    return 0

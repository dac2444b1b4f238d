"""The command `compare`: replays requests to two services, or mirrors live requests, and reports differences."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple, TextIO

import grpc
from grpc import aio

from ..core.errors import InvalidRequest
from ..proto.ratelimit_pb2 import RateLimitRequest
from ..runtime import garbage
from .ask import Tls, channel, content, target
from .comparison import generated
from .comparison.mirror import Mirror, run
from .comparison.recorded import Recording
from .comparison.replay import replay
from .comparison.report import Report

DIFFERENT = 3
"""The exit code if a difference has no reason; with --strict, if there is a difference."""


class Services(NamedTuple):
    """The two services, and the TLS and timeout of calls to them."""

    theirs: str
    ours: str
    theirs_tls: Tls | None = None
    ours_tls: Tls | None = None
    timeout: float = 5.0


def compare_replayed(
    services: Services,
    report: Report,
    *,
    recorded: Path | None,
    rules: Sequence[Path],
    many: int | None,
    seed: int,
    checks_only: bool,
) -> None:
    """Replay recorded requests, or requests that are generated for rules.

    Raises InvalidRequest, InvalidRules or StoreError.
    """
    if (recorded is None) == (not rules):
        raise InvalidRequest("give either --replay FILE or --rules PATH")
    garbage.enable_for_serving()  # a recording may be one of days
    with (
        channel(target(services.theirs), services.theirs_tls) as theirs,
        channel(target(services.ours), services.ours_tls) as ours,
        _lines(recorded) as lines,
    ):
        requests: Iterator[RateLimitRequest]
        recording = None
        if lines is not None:
            recording = Recording(lines, str(recorded))
            requests = itertools.islice(recording, many)
        else:
            requests = generated.requests(generated.load(rules), many or 1_000, seed)
        try:
            replay(requests, theirs, ours, report, timeout=services.timeout, checks_only=checks_only)
        finally:
            if recording is not None:
                report.not_compared.update(recording.skipped)


@contextmanager
def _lines(recorded: Path | None) -> Iterator[TextIO | None]:
    if recorded is None:
        yield None
        return
    if str(recorded) == "-":
        with nullcontext(sys.stdin) as file:
            yield file
        return
    try:
        opened = recorded.open(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise InvalidRequest(f"{recorded} cannot be read: {error.strerror or error}") from None
    with opened as file:
        yield file


def compare_mirrored(
    services: Services,
    report: Report,
    listen: str,
    *,
    listen_tls: tuple[Path | None, Path | None],
    every: float,
    notify: Callable[[str], None],
) -> None:
    """Serve until SIGTERM. Raises InvalidRequest or StartError."""
    certificate, key = map(content, listen_tls)
    if (certificate is None) != (key is None):
        raise InvalidRequest("--listen-cert and --listen-key belong together: give both, or none")
    credentials = grpc.ssl_server_credentials([(key, certificate)]) if certificate and key else None
    addresses = [target(listen), target(services.theirs), target(services.ours)]

    async def serve() -> None:
        async with (
            _aio_channel(addresses[1], services.theirs_tls) as theirs,
            _aio_channel(addresses[2], services.ours_tls) as ours,
        ):
            mirror = Mirror(theirs, ours, report, timeout=services.timeout)
            await mirror.start(addresses[0], credentials)
            notify(f"answering on {mirror.address} as {services.theirs} does, comparing with {services.ours}")
            await run(mirror, every, report.finish)

    import uvloop

    garbage.enable_for_serving()  # errors of grpc.aio are in cycles with their tracebacks
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


def _aio_channel(address: str, tls: Tls | None) -> aio.Channel:
    if tls is None:
        return aio.insecure_channel(address)
    return aio.secure_channel(address, tls.credentials())

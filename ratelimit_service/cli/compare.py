"""The command `compare`: replays requests to two services, or mirrors live requests, and reports
differences.
"""

from __future__ import annotations

import itertools
import ssl
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple, TextIO

from grpc import aio

from ..core.errors import InvalidRequest
from ..listening.certificates import Certificates
from ..proto.ratelimit_pb2 import RateLimitRequest
from ..runtime import garbage
from ..sources.xds.server import Tls as ClientTls
from .ask import Tls, channel, target
from .comparison import generated_requests, processes
from .comparison.recorded_requests import Recording
from .comparison.replay import replay
from .comparison.report import Report
from .comparison.tee import Target
from .comparison.tee import listen as listening

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
            requests = generated_requests.requests(generated_requests.load(rules), many or 1_000, seed)
        try:
            replay(
                requests,
                theirs,
                ours,
                report,
                addresses=(services.theirs, services.ours),
                timeout=services.timeout,
                checks_only=checks_only,
            )
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
    strict: bool,
) -> int:
    """Answer callers until SIGTERM, compare meanwhile, and return the exit code.

    Raises InvalidRequest or StartError.
    """
    certificate, key = listen_tls
    if (certificate is None) != (key is None):
        raise InvalidRequest("--listen-cert and --listen-key belong together: give both, or none")
    tls = Certificates("callers", str(certificate), str(key)).server_context("h2") if certificate else None
    theirs = Target.of(target(services.theirs))
    if services.theirs_tls is not None:
        theirs = theirs._replace(tls=_context(theirs.host, services.theirs_tls))
    ours = target(services.ours)
    if services.ours_tls is not None:
        services.ours_tls.check()
    return processes.run(
        processes.TeePort(listening(target(listen)), tls),
        theirs,
        processes.SecondService(lambda: _aio_channel(ours, services.ours_tls), services.timeout),
        report,
        every=every,
        notify=notify,
        started=lambda address: notify(
            f"answering on {address} as {services.theirs} does, comparing with {services.ours}"
        ),
        exit_code=lambda: exit_code(report, strict=strict),
    )


def exit_code(report: Report, *, strict: bool) -> int:
    """Return the exit code of a finished comparison."""
    return DIFFERENT if report.differs(strict=strict) else 0


def _context(host: str, tls: Tls) -> ssl.SSLContext:
    """Return a context for gRPC with a service. Raises InvalidRequest."""
    tls.check()
    files = (str(path) if path else "" for path in (tls.ca, tls.certificate, tls.key))
    try:
        return ClientTls(host, *files).context()
    except OSError as error:
        raise InvalidRequest(str(error)) from None


def _aio_channel(address: str, tls: Tls | None) -> aio.Channel:
    if tls is None:
        return aio.insecure_channel(address)
    return aio.secure_channel(address, tls.credentials())

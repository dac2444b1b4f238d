"""The commands `serve`, `check-config` and `convert`.

`serve` imports the service when it runs: gRPC, HTTP and Redis take a third of a second to import, and
`check-config`, which runs in pipelines and hooks, does not need them.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from ..core.errors import InvalidRequest, InvalidRules, Problem, StartError
from ..core.matching.tree import RuleTree
from ..core.model import Entry
from ..core.text import printable
from ..loading.task import load_rules
from ..observe import logs
from ..observe.line_writer import LineWriter, lock_between_processes, to_stderr
from ..runtime import descriptors
from ..settings.table import Settings, load_settings
from ..settings.unsupported import unsupported
from ..sources import files

if TYPE_CHECKING:
    from ..workers.worker_link import WorkerLink

_MOST_OF_THE_LOG = 4 * 1024 * 1024
"""Bytes of the log that may wait to be written."""

_of_addresses = re.compile(r"webhook(-[0-9]+)?").fullmatch
"""Match the name of a receiver that EVENTS_WEBHOOK_URL makes."""

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
        structlog.get_logger("ratelimit_service").critical("the service has failed", exc_info=True)
        raise SystemExit(1) from None
    if code:
        raise SystemExit(code)


async def _serve(settings: Settings, writer: LineWriter, member: WorkerLink | None = None) -> int:
    from ..app import App

    await App(settings, writer, member).run()
    return 0


def check_config(
    paths: Sequence[Path], *, strict: bool, merge_domains: bool, domain: str = "", receivers: str = ""
) -> int:
    """Load files as `serve` does, print every mistake, and return the exit code.

    `receivers` is a file of receivers of events; empty for none.
    """
    errors: Sequence[Problem] = ()
    rules = domains = limits = 0
    try:
        contents = files.read(files.named(paths), ", ".join(map(str, paths)), domain)
        loaded = load_rules(contents, merge_domains=merge_domains)
        warnings = loaded.warnings
        tree = RuleTree(loaded.domains)
        rules, domains = len(tree.rules), len(tree.domains)
        limits = sum(len(each.limits) for each in loaded.domains)
        if receivers:
            warnings = (*warnings, *_unknown_receivers(tree, receivers))
    except InvalidRules as error:
        errors, warnings = error.problems, error.warnings
    for problem in errors:
        print(f"error: {printable(str(problem))}")
    for problem in warnings:
        print(f"{'error' if strict else 'warning'}: {printable(str(problem))}")
    if errors or (strict and warnings):
        return 1
    data = f", and {_count(limits, 'limit')} as data" if limits else ""
    print(f"ok: {_count(rules, 'rule')} in {_count(domains, 'domain')}{data}")
    return 0


def _unknown_receivers(tree: RuleTree, file: str) -> list[Problem]:
    """Return a problem for each name in `notify` without a receiver. Raises InvalidRules for a file that cannot be used."""
    from ..events.receivers import receivers_of

    try:
        names = {receiver.name for receiver in receivers_of((), "", file)}
    except StartError as error:
        raise InvalidRules([Problem(file, 0, "", str(error))]) from None
    known = ", ".join(sorted(names)) or "none"
    return [
        Problem(rule.source, 0, "notify", f"{file} has no receiver {printable(name)!r}: it has {known}")
        for rule in tree.rules
        for name in rule.notify or ()
        if name not in names and not _of_addresses(name)
    ]


def convert(path: Path, *, merge_domains: bool, domain: str) -> int:
    """Print the rules at `path` as configuration files, one document for each, and return the exit code.

    Errors and warnings go to stderr.
    """
    from ..sources import yaml_writer as native

    contents = files.read(files.named([path]), str(path), domain)
    try:
        warnings = load_rules(contents, merge_domains=merge_domains).warnings
    except InvalidRules as error:
        for problem in error.problems:
            print(f"error: {printable(str(problem))}", file=sys.stderr)
        return 1
    for problem in warnings:
        print(f"warning: {printable(str(problem))}", file=sys.stderr)
    documents = [document for document in contents.documents if document.rows is None]
    sys.stdout.buffer.write("---\n".join(map(native.write, documents)).encode())
    sys.stdout.flush()
    if len(documents) > 1:
        note = "each document is a configuration: put it into a file of its own, because only the first document of a file is read"
        print(f"note: {note}", file=sys.stderr)
    return 0


def entries_of(text: str) -> tuple[Entry, ...]:
    r"""Read entries: `team=dba,model=gpt-x`; `\,` is a comma in a value, `\\` a backslash.

    Raises InvalidRequest.
    """
    pairs = [""]
    for char in re.findall(r"\\[\\,]|.", text, re.DOTALL):
        if char == ",":
            pairs.append("")
        else:
            pairs[-1] += char[-1]
    entries = []
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise InvalidRequest(f"a descriptor is key=value,key=value; {pair!r} is not key=value")
        entries.append(
            Entry(key.encode("utf-8", "surrogateescape"), value.encode("utf-8", "surrogateescape"))
        )
    return tuple(entries)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

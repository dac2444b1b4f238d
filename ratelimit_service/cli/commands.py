"""What the commands of the command line do.

What serves is imported where it is needed: gRPC, HTTP and Redis take a third of a second to import, and `check-config`,
which runs in pipelines and hooks, has no use for them.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from ..core.errors import InvalidRequest, InvalidRules, Problem, StartError
from ..core.matching import keys
from ..core.model import Entry
from ..core.text import printable
from ..loading.rulebook import compile_rules
from ..observe import logs
from ..observe.line_writer import LineWriter, to_stderr
from ..settings.table import Settings, load_settings, unsupported
from ..sources import files

_MOST_OF_THE_LOG = 4 * 1024 * 1024
"""Bytes of the log that wait to be written."""

_LAST_LINES = 2.0
"""Seconds that the reader of the log has, at the end, to take what is left of it."""


def serve(environ: Mapping[str, str], options: Mapping[str, str], ignored: Sequence[str] = ()) -> None:
    """Run the service until it is told to stop; exits with 1 and one line for each reason where it cannot start."""
    log = structlog.get_logger("ratelimit_service")
    writer = LineWriter(
        to_stderr(),
        most_bytes=_MOST_OF_THE_LOG,
        caught_up=lambda dropped: log.warning("lines of the log were dropped", lines=dropped),
    )
    writer.start()
    try:
        settings = load_settings(environ, options)
        logs.configure(settings.log_level, settings.log_format, writer=writer)
        logs.log_what_python_reports()
        if ignored:
            log.warning("arguments ignored", arguments=list(ignored))
        for line in unsupported(environ):
            log.warning(line)
        _run(settings, writer)
    except StartError as error:
        writer.put([f"{error}\n".encode(errors="backslashreplace")])
        raise SystemExit(1) from None
    finally:
        writer.close(_LAST_LINES)


def _run(settings: Settings, writer: LineWriter) -> None:
    import uvloop

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, writer))
    except StartError:
        raise
    except Exception:
        structlog.get_logger("ratelimit_service").critical("the service has failed", exc_info=True)
        raise SystemExit(1) from None


async def _serve(settings: Settings, writer: LineWriter) -> None:
    from ..app import App

    await App(settings, writer).run()


def check_config(paths: Sequence[Path], *, strict: bool, merge_domains: bool, domain: str = "") -> int:
    """Load files as `serve` does, and print all that is wrong; the exit code."""
    errors: Sequence[Problem] = ()
    rules = domains = 0
    try:
        contents = files.read(files.named(paths), ", ".join(map(str, paths)), domain)
        tree, warnings, _ = compile_rules(*contents, merge_domains=merge_domains)
        rules, domains = len(tree.rules), len(tree.domains)
    except InvalidRules as error:
        errors, warnings = error.problems, error.warnings
    for problem in errors:
        print(f"error: {printable(str(problem))}")
    for problem in warnings:
        print(f"{'error' if strict else 'warning'}: {printable(str(problem))}")
    if errors or (strict and warnings):
        return 1
    print(f"ok: {_count(rules, 'rule')} in {_count(domains, 'domain')}")
    return 0


def convert(path: Path, *, merge_domains: bool, domain: str) -> int:
    """Print what `serve` would load from `path` as configuration files, a document for each; the exit code.

    What is wrong, and what was noticed, goes to stderr.
    """
    from ..sources import yaml_writer as native

    contents = files.read(files.named([path]), str(path), domain)
    try:
        warnings = compile_rules(*contents, merge_domains=merge_domains).warnings
    except InvalidRules as error:
        for problem in error.problems:
            print(f"error: {printable(str(problem))}", file=sys.stderr)
        return 1
    for problem in warnings:
        print(f"warning: {printable(str(problem))}", file=sys.stderr)
    sys.stdout.buffer.write("---\n".join(map(native.write, contents.documents)).encode())
    sys.stdout.flush()
    if len(contents.documents) > 1:
        note = "each document is a configuration, and belongs into a file of its own: of a file, only the first is read"
        print(f"note: {note}", file=sys.stderr)
    return 0


async def reset(environ: Mapping[str, str], domain: str, descriptor: str, *, dry_run: bool) -> None:
    """Delete the counters of a bucket and print what they held. Raises InvalidRequest, StartError or StoreError."""
    from ..assembly import make_store

    settings = load_settings(environ)
    if settings.backend == "memory":
        raise StartError(
            "the memory store lives inside the serving process, and cannot be reached from here: "
            "set REDIS_URL to the store that the service counts in"
        )
    entries = entries_of(descriptor)
    bucket, doubt = bucket_of(settings, domain, entries)
    store = make_store(settings)
    try:
        held = await (store.look(bucket) if dry_run else store.forget(bucket))
    finally:
        await store.close()
    verb = "would delete" if dry_run else "deleted"
    for key, value in held.items():
        what = f"which held {'no number' if value is None else value}"
        if keys.is_marker(key):
            what = "the marker of a threshold, which will be told again"
        print(f"{verb} {printable(key)}, {what}")
    if not held:
        print(f"nothing is counted for {printable(bucket)}")
        if doubt:
            print(f"note: {doubt}", file=sys.stderr)


def bucket_of(settings: Settings, domain: str, entries: tuple[Entry, ...]) -> tuple[str, str]:
    """The bucket in which the service counts a descriptor; and why this may be another one, or nothing.

    Where values share a bucket, only the rules can tell which: they are those that the settings name.
    """
    from ..assembly import find_files, places_of

    match, doubt = None, ""
    try:
        contents = files.read(find_files(settings), places_of(settings), settings.manifest_domain)
        tree, *_ = compile_rules(
            *contents,
            merge_domains=settings.merge_domain_config,
            budget_domains=frozenset(settings.budget_domains),
        )
    except InvalidRules as error:
        doubt = f"the rules could not be loaded, which say what values share a counter: {error.problems[0]}"
    else:
        match = tree.match(domain, entries) if domain in tree.domains else None
    parts = match.parts if match else tuple(keys.part(*entry) for entry in entries)
    return keys.bucket(settings.cache_key_prefix, domain, parts), doubt


def entries_of(text: str) -> tuple[Entry, ...]:
    r"""`team=dba,model=gpt-x` as entries; `\,` is a comma in a value, `\\` a backslash. Raises InvalidRequest."""
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

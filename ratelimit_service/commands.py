"""What the commands of the command line do."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog
import uvloop

from .app import App, find_files, make_store
from .core import keys
from .core.errors import InvalidRequest, InvalidRules, Problem, StartError
from .core.matcher import RuleTree
from .core.model import Entry
from .core.rules import load
from .observe import logs
from .settings import Settings, load_settings, unsupported
from .sources import files


def serve(environ: Mapping[str, str], options: Mapping[str, str], ignored: Sequence[str] = ()) -> None:
    """Run the service until it is told to stop; exits with 1 and one line for each reason where it cannot start."""
    try:
        settings = load_settings(environ, options)
        logs.configure(settings.log_level, settings.log_format)
        log = structlog.get_logger("ratelimit_service")
        if ignored:
            log.info("arguments ignored", arguments=list(ignored))
        for line in unsupported(environ):
            log.warning(line)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings))
    except StartError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None


async def _serve(settings: Settings) -> None:
    await App(settings).run()


def check_config(paths: Sequence[Path], *, strict: bool, merge_domains: bool) -> int:
    """Load files as `serve` does, and print all that is wrong; the exit code."""
    missing = [Problem(str(path), 0, "", "does not exist") for path in paths if not path.exists()]
    errors: Sequence[Problem] = missing
    warnings: Sequence[Problem] = ()
    tree = RuleTree()
    if not missing:
        try:
            domains, warnings = load(files.read(files.named(paths)), merge_domains=merge_domains)
            tree = RuleTree(domains)
        except InvalidRules as error:
            errors, warnings = error.problems, error.warnings
    for problem in errors:
        print(f"error: {problem}")
    for problem in warnings:
        print(f"{'error' if strict else 'warning'}: {problem}")
    if errors or (strict and warnings):
        return 1
    print(f"ok: {_count(len(tree.rules), 'rule')} in {_count(len(tree.domains), 'domain')}")
    return 0


async def reset(environ: Mapping[str, str], domain: str, descriptor: str, *, dry_run: bool) -> None:
    """Delete the counters of a bucket and print what they held. Raises StartError or StoreError."""
    settings = load_settings(environ)
    if settings.backend == "memory":
        raise StartError(
            "the memory store lives inside the serving process, and cannot be reached from here: "
            "set REDIS_URL to the store that the service counts in"
        )
    bucket = bucket_of(settings, domain, entries_of(descriptor))
    store = make_store(settings)
    try:
        held = await (store.look(bucket) if dry_run else store.forget(bucket))
    finally:
        await store.close()
    if not held:
        print(f"nothing is counted for {bucket}")
    for key, value in held.items():
        print(
            f"{'would delete' if dry_run else 'deleted'} {key}, which held {'no number' if value is None else value}"
        )


def bucket_of(settings: Settings, domain: str, entries: tuple[Entry, ...]) -> str:
    """The bucket in which the service counts a descriptor, by the rules that the settings name where they can be read."""
    try:
        domains, _ = load(files.read(find_files(settings)), merge_domains=settings.merge_domain_config)
        tree = RuleTree(domains)
        match = tree.match(domain, entries) if domain in tree.domains else None
    except InvalidRules:
        match = None
    parts = match.parts if match else tuple(keys.part(*entry) for entry in entries)
    return keys.bucket(settings.cache_key_prefix, domain, parts)


def entries_of(text: str) -> tuple[Entry, ...]:
    """`team=dba,model=gpt-x` as entries; `\\,` is a comma in a value. Raises InvalidRequest."""
    entries = []
    for pair in re.split(r"(?<!\\),", text):
        key, equals, value = pair.replace("\\,", ",").partition("=")
        if not key or not equals:
            raise InvalidRequest(f"a descriptor is key=value,key=value; {pair!r} is not key=value")
        entries.append(
            Entry(key.encode("utf-8", "surrogateescape"), value.encode("utf-8", "surrogateescape"))
        )
    return tuple(entries)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

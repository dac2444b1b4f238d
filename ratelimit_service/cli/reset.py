"""The command `reset`: deletes the counters of a bucket, or of some of its windows."""

from __future__ import annotations

import re
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..core.amendments.model import Change, Reset, check
from ..core.amendments.target import exactly
from ..core.errors import InvalidRequest, InvalidRules, StartError
from ..core.matching import keys
from ..core.matching.tree import RuleTree
from ..core.model import Entry
from ..core.rules.hints import UNITS, unit_named
from ..core.text import printable
from ..ports import CounterStore
from ..settings.table import Settings, load_settings
from .arguments import user_name
from .entries import entries_of

_UNITS = [unit.name.lower() for unit in UNITS]
_window_name = re.compile(r"(|[1-9][0-9]*)([a-z]+)")


class Windows(NamedTuple):
    """The windows to reset, by their names in counter keys: `chosen`, or all if empty, without `spared`."""

    chosen: frozenset[str] = frozenset()
    spared: frozenset[str] = frozenset()

    def has(self, window: str) -> bool:
        """Return whether to reset a window."""
        return window not in self.spared and (not self.chosen or window in self.chosen)


EVERY = Windows()


def windows(chosen: Sequence[str], spared: Sequence[str]) -> Windows:
    """Return the windows that the options name. Raises InvalidRequest for the name of no window."""
    for name in (*chosen, *spared):
        found = _window_name.fullmatch(name)
        if found is None or found[1] == "1" or found[2] not in _UNITS:
            raise InvalidRequest(f"no window is called '{printable(name)}': {_window_meant(name)}")
    return Windows(frozenset(chosen), frozenset(spared))


def _window_meant(name: str) -> str:
    number = re.match("[0-9]{0,9}", name)
    digits = number[0] if number else ""
    unit = unit_named(name[len(digits) :])
    if unit is None:
        return "give it as it stands in the counter's key, such as hour, day or 15minute"
    return f"did you mean '{digits if int(digits or 1) > 1 else ''}{unit.name.lower()}'?"


async def reset(
    environ: Mapping[str, str],
    domain: str,
    descriptor: str,
    which: Windows = EVERY,
    *,
    author: str = "",
    reason: str = "",
    dry_run: bool,
) -> None:
    """Delete the counters of a bucket, and print their last values. Raises InvalidRequest, StartError or
    StoreError.

    `which` selects its windows. `author`, by default the user, and `reason` are for the audit.
    """
    from ..assembly.stores import make_store

    settings = load_settings(environ)
    if settings.backend_type == "memory":
        raise StartError(
            "the memory store lives inside the serving process, and cannot be reached from here: "
            "name the running service by --server, or set REDIS_URL to the store that the service counts in"
        )
    entries = entries_of(descriptor)
    bucket, doubt = bucket_of(settings, domain, entries)
    store = make_store(settings)
    try:
        there = await store.read_bucket(bucket)
        held = {key: value for key, value in there.items() if which.has(keys.window_of(key))}
        if not dry_run:
            change = Change(
                uuid.uuid4().hex,
                author or user_name(),
                reason or "the command reset",
                (Reset(exactly(domain, entries), _text_of(which), tuple(held.items())),),
                int(time.time()),
            )
            held = await _delete(store, change) if held else {}
    finally:
        await store.close()
    verb = "would delete" if dry_run else "deleted"
    for key, value in held.items():
        what = f"which held {'no number' if value is None else value}"
        if keys.is_marker(key):
            what = "the marker of a threshold, which may be reported again"
        print(f"{verb} {printable(key)}, {what}")
    if not held:
        others = sorted({keys.window_of(key) for key in there})
        but = f" in that window, but in {', '.join(others)}" if others else ""
        print(f"nothing is counted for {printable(bucket)}{but}")
        if doubt:
            print(f"note: {doubt}", file=sys.stderr)


async def _delete(store: CounterStore, change: Change) -> dict[str, int | None]:
    """Delete counters, with a line in the audit, and return their last values."""
    from ..amending.resetting import reset

    check(change)
    (edited,) = (await reset(store, change)).edits
    assert edited.reset is not None
    return dict(edited.reset.counters)


def _text_of(which: Windows) -> str:
    """Return the windows as the audit shows them; empty for all."""
    return ",".join([*sorted(which.chosen), *[f"all but {name}" for name in sorted(which.spared)]])


def bucket_of(settings: Settings, domain: str, entries: tuple[Entry, ...]) -> tuple[str, str]:
    """Return the bucket of a descriptor, and the reason if it may be a different one.

    The rules, from the files that the settings name, determine which values share a bucket.
    """
    from ..assembly.rules import task_of

    match, doubt = None, ""
    try:
        tree = RuleTree(task_of(settings).rules().domains)
    except InvalidRules as error:
        doubt = (
            "the rules could not be loaded, and they determine which values share a bucket: "
            f"{error.problems[0]}"
        )
    else:
        match = tree.match(domain, entries) if domain in tree.domains else None
    texts = match.bucket_entries if match else [keys.entry_text(*entry) for entry in entries]
    return keys.bucket(settings.cache_key_prefix, keys.domain_text(domain), texts), doubt

"""Rules from files: which ones, and when they have changed.

Changes are found by looking at the files' identities several times a second, not by inotify. It costs some microseconds
for each file, and it finds every kind of change alike: an edit, a rename, the swap of a symlink that Kubernetes makes when
a ConfigMap changes, on every file system, a network's too, and without the watches that a node has only so many of.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ..core.errors import Problem
from ..core.rules.document import Document

INTERVAL = 0.2
"""Seconds between two looks. A change is loaded once two looks in a row have seen the same."""

_YAML = (".yaml", ".yml")


class Found(NamedTuple):
    """A configuration file: its name for people, relative to where it was looked for, and where it is."""

    name: str
    path: Path


Find = Callable[[], list[Found]]
"""Lists the files, in the order of their names. Raises OSError where a directory cannot be read.

Those that are made here can be pickled: another process may be told to read the files (loading/).
"""

Fingerprint = tuple[tuple[str, int, int, int, int, int], ...]


def named(paths: Sequence[Path]) -> Find:
    """The files at `paths`; a directory there stands for the YAML files directly in it (CONFIG_PATH).

    A path at which there is nothing is a file that cannot be read: rules that have been asked for by name do not go
    missing in silence.
    """
    return partial(_named, tuple(paths))


def _named(paths: Sequence[Path]) -> list[Found]:
    found = []
    for path in paths:
        if path.is_dir():
            inside = sorted(entry for entry in path.iterdir() if entry.suffix in _YAML and entry.is_file())
            found += [Found(str(entry), entry) for entry in inside if not _is_kubernetes_own(entry.name)]
        else:
            found.append(Found(str(path), path))
    return found


def runtime(
    root: Path, subdirectory: str, app_directory: str, *, watch_root: bool, ignore_dot_files: bool
) -> Find:
    """The files of upstream's runtime directory (the RUNTIME_* variables), of whatever suffix, subdirectories included.

    With `watch_root` they are those below `root/subdirectory` whose path, with dots for slashes, begins with
    `app_directory` and a dot; without it those below `root/subdirectory/app_directory`. The entries that Kubernetes keeps
    beside the files of a mounted ConfigMap (`..data`) are left out in any case: they are the same files again.
    """
    top = root / subdirectory
    if not watch_root:
        return partial(_below, top / app_directory, ignore_dot_files)
    return partial(_below, top, ignore_dot_files, prefix=f"{app_directory}.")


def _below(directory: Path, ignore_dot_files: bool, prefix: str = "") -> list[Found]:
    everything = _walk(directory, Path(), ignore_dot_files, frozenset())
    return sorted(found for found in everything if found.name.replace("/", ".").startswith(prefix))


def _walk(directory: Path, relative: Path, ignore_dot_files: bool, above: frozenset[str]) -> list[Found]:
    """All files below, through links to directories too (a ConfigMap with paths in it has such), but never in a circle."""
    real = os.path.realpath(directory)
    if real in above:
        return []
    try:
        entries = list(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = []
    for entry in entries:
        if _is_kubernetes_own(entry.name) or (ignore_dot_files and entry.name.startswith(".")):
            continue
        if entry.is_dir():
            found += _walk(entry, relative / entry.name, ignore_dot_files, above | {real})
        elif entry.is_file():
            found.append(Found(str(relative / entry.name), entry))
    return found


def _is_kubernetes_own(name: str) -> bool:
    return name.startswith("..")


class Contents(NamedTuple):
    """What the files say, and what is wrong with those that do not say anything."""

    documents: list[Document]
    problems: list[Problem]


def read(find: Find, where: str = "configuration", manifest_domain: str = "") -> Contents:
    """Read and parse every file; that there is none is a problem too, of `where`.

    `manifest_domain` is that of the rules in manifests that name none (MANIFEST_DOMAIN).
    """
    # Here, because a process that only tells another one to read has no use for them.
    from . import manifests, yaml_text

    documents: list[Document] = []
    problems: list[Problem] = []
    try:
        files = find()
    except OSError as error:
        return Contents([], [Problem(str(error.filename or where), 0, "", _unreadable(error))])
    for name, path in files:
        try:
            text = path.read_bytes()
        except OSError as error:
            problems.append(Problem(name, 0, "", _unreadable(error)))
            continue
        found, wrong = manifests.expand(yaml_text.read_all(name, text), manifest_domain)
        documents += found
        problems += wrong
    if not files:
        problems.append(Problem(where, 0, "", "there is no configuration file"))
    return Contents(documents, problems)


def _unreadable(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}"


class Watcher:
    """Says when files have changed, and have stopped changing."""

    def __init__(self, find: Find) -> None:
        self._find = find
        self._loaded = self._last = self.look()

    def look(self) -> Fingerprint:
        """What tells this state of the files from another."""
        seen = []
        try:
            files = self._find()
        except OSError as error:  # a state like any other: what is wrong comes out when it is loaded
            return ((str(error), 0, 0, 0, 0, 0),)
        for name, path in files:
            try:
                status = path.stat()
            except OSError:  # gone between the two
                continue
            seen.append(
                (name, status.st_dev, status.st_ino, status.st_mode, status.st_mtime_ns, status.st_size)
            )
        return tuple(seen)

    def changed(self) -> bool:
        """Look once; True once for each change, at the first look that finds it at rest."""
        now = self.look()
        at_rest, self._last = now == self._last, now
        if not at_rest or now == self._loaded:
            return False
        self._loaded = now
        return True

    async def run(self, reload: Callable[[], Awaitable[None]]) -> None:
        """Call `reload` for each change, until cancelled."""
        import asyncio  # takes a third of the start of a process that only reads files

        while True:
            await asyncio.sleep(INTERVAL)
            if await asyncio.to_thread(self.changed):
                await reload()

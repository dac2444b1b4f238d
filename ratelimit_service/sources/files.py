"""Rules from files: which ones, and when they have changed.

Changes are found by looking at the files' identities several times a second, not by inotify. It costs some microseconds
for each file, and it finds every kind of change alike: an edit, a rename, the swap of a symlink that Kubernetes makes when
a ConfigMap changes, on every file system, a network's too, and without the watches that a node has only so many of.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ..core.errors import InvalidRules, Problem
from ..core.rules.document import Document

_YAML = (".yaml", ".yml")


class Found(NamedTuple):
    """A configuration file: its name for people, relative to where it was looked for, and where it is."""

    name: str
    path: Path


class Listing(NamedTuple):
    """The configuration files, in the order of their names; and the directories below which nothing could be read."""

    files: list[Found]
    skipped: Sequence[Problem] = ()


Find = Callable[[], Listing]
"""Lists the files. Raises OSError where the directory that was asked for cannot be read.

Those that are made here can be pickled: another process may be told to read the files (loading/).
"""

Fingerprint = tuple[tuple[str, int, int, int, int, int], ...]


def joined(*elements: str) -> Path:
    """Join paths as Go's filepath.Join does, and so as envoyproxy/ratelimit does.

    A later element never starts again at the root of the file system: `/a` and `/b` are `/a/b`. `..` is resolved by name,
    without looking where a link leads, and never leads above `/`.
    """
    path = os.path.normpath("/".join(filter(None, elements)) or ".")
    return Path(f"/{path.lstrip('/')}" if path.startswith("/") else path)


def named(paths: Sequence[Path]) -> Find:
    """The files at `paths`; a directory there stands for the YAML files directly in it (CONFIG_PATH).

    A path at which there is nothing is a file that cannot be read: rules that have been asked for by name do not go
    missing in silence.
    """
    return partial(_named, tuple(paths))


def _named(paths: Sequence[Path]) -> Listing:
    found = []
    for path in paths:
        if path.is_dir():
            inside = sorted(entry for entry in path.iterdir() if entry.suffix in _YAML and entry.is_file())
            found += [Found(str(entry), entry) for entry in inside if not _is_kubernetes_own(entry.name)]
        else:
            found.append(Found(str(path), path))
    return Listing(found)


def runtime(
    root: str, subdirectory: str, app_directory: str, *, watch_root: bool, ignore_dot_files: bool
) -> Find:
    """The files of upstream's runtime directory (the RUNTIME_* variables), of whatever suffix, subdirectories included.

    With `watch_root` they are those below `root/subdirectory` whose path, with dots for slashes, begins with
    `app_directory` and a dot; without it those below `root/subdirectory/app_directory`. The entries that Kubernetes keeps
    beside the files of a mounted ConfigMap (`..data`) are left out in any case: they are the same files again.

    A directory below, or on the way, that may not be read (`lost+found` of a volume) is skipped with a warning, as upstream
    does; only `root/subdirectory/app_directory` itself must be readable. Any other error fails the load: it may pass, and
    rules must not go missing until then.
    """
    top, directory = joined(root, subdirectory), joined(root, subdirectory, app_directory)
    wanted = directory.relative_to(top).parts if watch_root and directory.is_relative_to(top) else ()
    return partial(_below, top if wanted else directory, wanted, ignore_dot_files)


def _below(top: Path, wanted: tuple[str, ...], ignore_dot_files: bool) -> Listing:
    search = _Search(wanted, ignore_dot_files)
    search.walk(top, (), frozenset())
    return Listing(sorted(search.found), search.skipped)


class _Search:
    """Finds all files whose path, with dots for slashes, begins with `wanted`."""

    def __init__(self, wanted: tuple[str, ...], ignore_dot_files: bool) -> None:
        self._wanted = wanted
        self._prefix = _dotted(wanted)
        self._ignore_dot_files = ignore_dot_files
        self.found: list[Found] = []
        self.skipped: list[Problem] = []

    def walk(self, directory: Path, within: tuple[str, ...], above: frozenset[str]) -> None:
        """Look through a directory, and through links to directories (a ConfigMap with paths has such), but never in a circle.

        Only what can hold a wanted file is opened: `/` as RUNTIME_ROOT does not walk through the whole machine.
        """
        real = os.path.realpath(directory)
        if real in above:
            return
        try:
            with os.scandir(directory) as entries:
                names = sorted(entry.name for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            return
        except PermissionError as error:
            if within == self._wanted:
                raise
            self._skip(directory, error)
            # A directory on the way that can be passed through and not listed: what was asked for may be readable.
            names = [self._wanted[len(within)]] if self._wanted[: len(within)] == within else []
        for name in names:
            if _is_kubernetes_own(name) or (self._ignore_dot_files and name.startswith(".")):
                continue
            path, place = directory / name, (*within, name)
            try:
                mode = path.stat().st_mode
            except (FileNotFoundError, NotADirectoryError):
                continue
            except PermissionError as error:
                self._skip(path, error)
                continue
            except OSError as error:
                if error.errno == errno.ELOOP:
                    continue
                raise
            dotted = _dotted(place)
            if stat.S_ISDIR(mode):
                if dotted.startswith(self._prefix) or self._prefix.startswith(dotted):
                    self.walk(path, place, above | {real})
            elif stat.S_ISREG(mode) and ".".join(place).startswith(self._prefix):
                self.found.append(Found("/".join(place), path))

    def _skip(self, path: Path, error: OSError) -> None:
        self.skipped.append(Problem(str(path), 0, "", f"{_unreadable(error)}; what is in it is left out"))


def _dotted(parts: Sequence[str]) -> str:
    return "".join([f"{part}." for part in parts])


def _is_kubernetes_own(name: str) -> bool:
    return name.startswith("..")


class Contents(NamedTuple):
    """What the files say, what is wrong with those that do not say anything, and what else was noticed."""

    documents: list[Document]
    problems: list[Problem]
    warnings: Sequence[Problem] = ()


def read(find: Find, where: str = "configuration", manifest_domain: str = "") -> Contents:
    """Read and parse every file; that there is none is a problem too, of `where`.

    `manifest_domain` is that of the rules in manifests that name none (MANIFEST_DOMAIN). Meanwhile the name of the thread is
    the file that it reads, so that whatever waits for it can say which one does not answer. Raises InvalidRules where one
    cannot be read for a reason that may pass, such as a want of descriptors: its rules must not go missing until then.
    """
    # Here, because a process that only tells another one to read has no use for them.
    from . import manifests, yaml_text

    documents: list[Document] = []
    problems: list[Problem] = []
    with _busy_with(where):
        try:
            files, skipped = find()
        except OSError as error:
            return Contents([], [_problem(str(error.filename or where), error)])
    for name, path in files:
        with _busy_with(name):
            try:
                text = path.read_bytes()
            except OSError as error:
                problems.append(_problem(name, error))
                continue
        found, wrong = manifests.expand(yaml_text.read_all(name, text), manifest_domain)
        documents += found
        problems += wrong
    if not files:
        problems.append(Problem(where, 0, "", "there is no configuration file"))
    return Contents(documents, problems, skipped)


_STAYS = {
    errno.EACCES,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
}
"""Why a file cannot be read until somebody changes something, which the next look at the files sees."""


def _problem(name: str, error: OSError) -> Problem:
    problem = Problem(name, 0, "", _unreadable(error))
    if error.errno not in _STAYS:
        raise InvalidRules([problem], again=True)
    return problem


@contextmanager
def _busy_with(what: str) -> Iterator[None]:
    thread = threading.current_thread()
    before, thread.name = thread.name, what
    try:
        yield
    finally:
        thread.name = before


def _unreadable(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}"


class Watcher:
    """Says when files have changed, and have stopped changing: once two looks in a row have seen the same.

    Changed since they were `seen`, or else since now.
    """

    def __init__(self, find: Find, seen: Fingerprint | None = None) -> None:
        self._find = find
        self._loaded = self._last = self.look() if seen is None else seen

    def look(self) -> Fingerprint:
        """What tells this state of the files from another."""
        seen = []
        try:
            with _busy_with("looking for changes of the rules"):
                files = self._find().files
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

"""Configuration files: which files are read, and when they have changed.

Changes are found by polling the status of the files several times a second, not by inotify. Polling costs
some microseconds for each file. It finds every kind of change on every file system: an edit, a rename, the
symlink that Kubernetes swaps when a ConfigMap changes. It also needs none of the inotify watches of the node,
which are limited.
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
from ..core.rules.document import Contents, Document

_SUFFIXES = (".yaml", ".yml", ".csv")
"""Of the files that a directory stands for."""


class FoundFile(NamedTuple):
    """A configuration file: its name, relative to the directory that was searched, and its path."""

    name: str
    path: Path


class Listing(NamedTuple):
    """The configuration files by name, and the files and directories that were skipped."""

    files: list[FoundFile]
    skipped: Sequence[Problem] = ()


Find = Callable[[], Listing]
"""Lists the files. Raises OSError if the configured directory cannot be read.

The functions below return values that can be pickled, because another process may read the files (loading/).
"""


class FileState(NamedTuple):
    """What differs after a change of a file. `name` alone is an error about all files."""

    name: str
    device: int = 0
    inode: int = 0
    mode: int = 0
    modified: int = 0
    size: int = 0


Fingerprint = tuple[FileState, ...]


def joined(*elements: str) -> Path:
    """Join paths as Go's filepath.Join, and so envoyproxy/ratelimit, does.

    An absolute element does not replace the elements before it: `/a` and `/b` are `/a/b`. `..` is resolved by
    name, without following links, and never leads above `/`.
    """
    path = os.path.normpath("/".join(filter(None, elements)) or ".")
    return Path(f"/{path.lstrip('/')}" if path.startswith("/") else path)


def find_in(paths: Sequence[Path]) -> Find:
    """Return a Find for `paths`. A directory means the YAML and CSV files directly in it (CONFIG_PATH).

    A missing path counts as a file that cannot be read, so that missing rules are an error.
    """
    return partial(_named, tuple(paths))


def _named(paths: Sequence[Path]) -> Listing:
    found = []
    for path in paths:
        if path.is_dir():
            inside = sorted(
                entry for entry in path.iterdir() if entry.suffix in _SUFFIXES and entry.is_file()
            )
            found += [FoundFile(str(entry), entry) for entry in inside if not _is_kubernetes_own(entry.name)]
        else:
            found.append(FoundFile(str(path), path))
    return Listing(found)


def runtime(
    root: str, subdirectory: str, app_directory: str, *, watch_root: bool, ignore_dot_files: bool
) -> Find:
    """Return a Find for all files in upstream's runtime directory (the RUNTIME_* variables).

    With `watch_root`, these are the files below `root/subdirectory` whose path, with dots for slashes, begins
    with `app_directory` and a dot. Without it, they are the files below `root/subdirectory/app_directory`.
    The entries that Kubernetes adds to a mounted ConfigMap (`..data`) are skipped, because they are the same
    files again.

    A directory without read permission (`lost+found` of a volume) is skipped with a warning, as with
    upstream. Only `root/subdirectory/app_directory` itself must be readable. Any other error may be
    temporary, and fails the load, so that no rules go missing.
    """
    top, directory = joined(root, subdirectory), joined(root, subdirectory, app_directory)
    wanted = directory.relative_to(top).parts if watch_root and directory.is_relative_to(top) else ()
    return partial(_below, top if wanted else directory, wanted, ignore_dot_files)


def _below(top: Path, wanted: tuple[str, ...], ignore_dot_files: bool) -> Listing:
    search = _Search(wanted, ignore_dot_files)
    search.walk(top, (), frozenset())
    return Listing(sorted(search.found), search.skipped)


class _Search:
    """Finds the files whose path, with dots for slashes, begins with `wanted`."""

    def __init__(self, wanted: tuple[str, ...], ignore_dot_files: bool) -> None:
        self._wanted = wanted
        self._prefix = _dotted(wanted)
        self._ignore_dot_files = ignore_dot_files
        self.found: list[FoundFile] = []
        self.skipped: list[Problem] = []

    def walk(self, directory: Path, within: tuple[str, ...], above: frozenset[str]) -> None:
        """Search a directory and its links to directories, which a ConfigMap with paths has, without cycles.

        It opens only directories that can contain a wanted file, so `/` as RUNTIME_ROOT does not search the
        whole machine.
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
            # This directory may still be traversed: the wanted one below it may be readable.
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
                self.found.append(FoundFile("/".join(place), path))

    def _skip(self, path: Path, error: OSError) -> None:
        self.skipped.append(Problem(str(path), 0, "", f"{_unreadable(error)}; its content is skipped"))


def _dotted(parts: Sequence[str]) -> str:
    return "".join([f"{part}." for part in parts])


def _is_kubernetes_own(name: str) -> bool:
    return name.startswith("..")


def read(find: Find, where: str = "configuration", manifest_domain: str = "") -> Contents:
    """Read and parse every file. If there is none, this is a problem about `where`.

    `manifest_domain` is the domain of rules in manifests without one (MANIFEST_DOMAIN). During the read, the
    name of the thread is that of the current file, so that a waiter can name a file that blocks. Raises
    InvalidRules if a file cannot be read for a temporary reason, such as a lack of file descriptors: its
    rules must not go missing meanwhile.
    """
    # Imported here, because a process that leaves reading to another process needs neither.
    from . import csv_text, manifests, yaml_text

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
        if path.suffix == csv_text.SUFFIX:
            try:
                documents.append(csv_text.read(name, text))
            except InvalidRules as error:
                problems += error.problems
            continue
        found, wrong = manifests.expand(yaml_text.read_all(name, text), manifest_domain)
        documents += found
        problems += wrong
    if not files:
        problems.append(Problem(where, 0, "", "there is no configuration file"))
    return Contents(documents, problems, skipped)


_PERMANENT = {
    errno.EACCES,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
}
"""The errors that last until a change that the Watcher notices."""


def _problem(name: str, error: OSError) -> Problem:
    problem = Problem(name, 0, "", _unreadable(error))
    if error.errno not in _PERMANENT:
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
    """Notices when files have changed since `seen`, or since it was made, and have stopped changing.

    A change has ended when two fingerprints in a row are equal.
    """

    def __init__(self, find: Find, seen: Fingerprint | None = None) -> None:
        self._find = find
        self._loaded = self._last = self.fingerprint() if seen is None else seen

    def fingerprint(self) -> Fingerprint:
        """Return a value that differs if any of the files has changed."""
        seen = []
        try:
            with _busy_with("looking for changes of the rules"):
                files = self._find().files
        except OSError as error:  # also a state: loading it reports the error
            return (FileState(str(error)),)
        for name, path in files:
            try:
                status = path.stat()
            except OSError:  # deleted since it was listed
                continue
            seen.append(
                FileState(
                    name,
                    status.st_dev,
                    status.st_ino,
                    status.st_mode,
                    modified=status.st_mtime_ns,
                    size=status.st_size,
                )
            )
        return tuple(seen)

    def changed(self) -> bool:
        """Return True once for each change, as soon as the change has ended."""
        now = self.fingerprint()
        has_ended, self._last = now == self._last, now
        if not has_ended or now == self._loaded:
            return False
        self._loaded = now
        return True

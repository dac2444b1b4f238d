"""A Dockerfile as data: its stages and their steps.

It supports what deploy/Dockerfile uses, and refuses everything else: a skipped step would not be tested.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

KNOWN = frozenset(
    "ARG CMD COPY ENV EXPOSE FROM HEALTHCHECK LABEL RUN STOPSIGNAL USER WORKDIR".split(),
)


class Instruction(NamedTuple):
    """`COPY --chmod=0755 a b/` is name "COPY", flags {"chmod": "0755"}, text "a b/"."""

    name: str
    flags: dict[str, str]
    text: str
    line: int

    @property
    def words(self) -> list[str]:
        """Return its text as words: split by the rules of the shell, as far as Docker has them, or read as a
        JSON array.
        """
        if self.text.startswith("["):
            words: list[str] = json.loads(self.text)
            return words
        return [word.replace('"', "") for word in re.findall(r'(?:"[^"]*"|\S)+', self.text)]

    @property
    def pairs(self) -> dict[str, str]:
        """Return A=1 B="two words" as a mapping, as in ENV, ARG and LABEL."""
        return dict(word.split("=", 1) for word in self.words)


class Stage(NamedTuple):
    """The steps after a FROM. `base` is the name of an image, or of an earlier stage."""

    name: str
    base: str
    instructions: Sequence[Instruction]

    def all(self, name: str) -> list[Instruction]:
        """Return its instructions of one kind, in order."""
        return [instruction for instruction in self.instructions if instruction.name == name]


def parse(text: str) -> tuple[Stage, ...]:
    """Return the stages of a Dockerfile with their bases. Raises ValueError for an unsupported
    instruction.
    """
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    current: list[Instruction] = []
    for instruction in _instructions(text):
        if instruction.name == "FROM":
            base, *named = instruction.words
            current = []
            stages.append(Stage(named[1] if named else str(len(stages)), filled_in(base, arguments), current))
        elif stages:
            current.append(instruction)
        elif instruction.name == "ARG":
            arguments |= instruction.pairs
        else:
            raise ValueError(f"line {instruction.line}: {instruction.name} before the first FROM")
    return tuple(stages)


def _instructions(text: str) -> Iterator[Instruction]:
    """Yield each instruction with its continuation lines joined; comments may be between them."""
    started, parts = 0, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or (not line.strip() and not parts):
            continue
        if not parts:
            started = number
        if line.endswith("\\"):
            parts.append(line.removesuffix("\\"))
            continue
        yield _instruction("".join([*parts, line]), started)
        parts = []
    if parts:
        raise ValueError(f"line {started}: ends with a backslash")


def _instruction(text: str, line: int) -> Instruction:
    name, _, rest = text.strip().partition(" ")
    if name not in KNOWN or "<<" in rest:
        raise ValueError(f"line {line}: cannot carry out {text.strip()!r}")
    flags = {}
    rest = rest.strip()
    while match := re.match(r"--([a-z-]+)=(\S+)\s+", rest):
        flags[match[1]] = match[2]
        rest = rest[match.end() :]
    return Instruction(name, flags, rest, line)


def filled_in(text: str, variables: Mapping[str, str]) -> str:
    """Return a text in which ${A} and $A are replaced. Raises KeyError for an unknown name."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda match: variables[match[1] or match[2]], text)


class Context:
    """The files that a build may copy: those below `root`, except for those that .dockerignore excludes."""

    def __init__(self, root: Path, ignore: Iterable[str]) -> None:
        self.root = root
        self._patterns = [
            (line.removeprefix("!"), line.startswith("!"))
            for line in (line.strip() for line in ignore)
            if line and not line.startswith("#")
        ]

    def has(self, path: str) -> bool:
        """Return whether a file with this path, relative to the root, is in the context: the last matching
        line decides.
        """
        parts = path.split("/")
        above = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
        kept = True
        for pattern, keeps in self._patterns:
            if any(_fits(pattern, name) for name in above):
                kept = keeps
        return kept

    def files(self, source: str) -> list[str]:
        """Return all files that a COPY of `source` takes, relative to the root."""
        start = self.root / source
        if not start.is_dir():
            return [source] if start.exists() and self.has(source) else []
        below = (
            os.path.relpath(Path(directory, name), self.root)
            for directory, _, names in os.walk(start)
            for name in names
        )
        return sorted(path for path in below if self.has(path))


def _fits(pattern: str, path: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatch.fnmatchcase(path.rpartition("/")[2], pattern.removeprefix("**/"))
    depth = pattern.count("/") == path.count("/")
    return depth and fnmatch.fnmatchcase(path, pattern)

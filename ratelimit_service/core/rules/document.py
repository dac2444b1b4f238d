"""A configuration as plain data with line numbers: what a source passes to reader.py.

Sources make documents from YAML or from xDS. A scalar keeps its raw text beside its kind, because `010` or
`yes` is text for a key that expects text, and a number or a truth value for a key that expects one.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..errors import Problem


class Kind(enum.Enum):
    """The kind of a scalar in YAML 1.1, as upstream's parser resolves it."""

    STRING = "text"
    INT = "a whole number"
    FLOAT = "a number with a fraction"
    BOOL = "true or false"
    NULL = "nothing"


@dataclass(slots=True)
class ScalarNode:
    """A scalar: its `text` as written, and its `value` (str, int, float, bool or None).

    Each line of a `block` (YAML's `|`) is a line of the file, and the first of them follows `line`.
    """

    line: int
    kind: Kind
    text: str
    value: Any = None
    block: bool = False


@dataclass(slots=True)
class SequenceNode:
    """A list of nodes."""

    line: int
    items: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class MappingNode:
    """A mapping: its `items` in the order of the file, each key once. The last value of a key wins.

    `repeated` has the keys whose values lost.
    """

    line: int
    items: list[tuple[ScalarNode, Node]] = field(default_factory=list)
    repeated: list[ScalarNode] = field(default_factory=list)


Node = ScalarNode | SequenceNode | MappingNode


@dataclass(slots=True)
class Document:
    """One configuration: a file, or a part of a file such as a key of a ConfigMap.

    `root` is None if it is empty. `extra_documents` is the line of a second YAML document in it, or 0. `path`
    and `line` are the place of a part in its file. `warnings` are those of the source, which reader.load
    reports with its own.

    A document that is not from a file has no lines (0), and its places are paths. With an `overlay`, lines
    are those of that file.
    """

    file: str
    root: Node | None
    extra_documents: int = 0
    path: str = ""
    line: int = 0
    warnings: tuple[Problem, ...] = ()
    overlay: str = ""
    rows: tuple[Row, ...] | None = None
    """The rows of a table in place of a root: limits as data (data.py)."""


class Row(NamedTuple):
    """One row of a table: its line, and its fields."""

    line: int
    fields: tuple[str, ...]


class Contents(NamedTuple):
    """What a source has read: its documents, the problems of those that it cannot read, and warnings."""

    documents: Sequence[Document] = ()
    problems: Sequence[Problem] = ()
    warnings: Sequence[Problem] = ()


Read = Callable[[], Contents]
"""Reads the documents of a source. It can be pickled, because another process may call it (loading/)."""

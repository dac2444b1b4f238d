"""A configuration file as plain data that remembers where it stood: what a source hands to rules.py.

Sources make these from YAML or from xDS. A scalar keeps its raw text beside its kind, because an identifier written as
`010` or `yes` means those characters where text is asked for, and a number or a truth value where one of them is.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from ..errors import Problem


class Kind(enum.Enum):
    """What a scalar is taken for by YAML 1.1, as upstream's parser reads it."""

    STRING = "text"
    INT = "a whole number"
    FLOAT = "a number with a fraction"
    BOOL = "true or false"
    NULL = "nothing"


@dataclass(slots=True)
class Scalar:
    """`text` as written; `value` as its kind has it (str, int, float, bool or None).

    Where it is a `block` (YAML's `|`), each line of the text is a line of the file; the first is the one after `line`.
    """

    line: int
    kind: Kind
    text: str
    value: Any = None
    block: bool = False


@dataclass(slots=True)
class Sequence:
    """A list of nodes."""

    line: int
    items: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class Mapping:
    """`items` in the order of the file, each key once (the last one wins); `repeated` has the lines of keys given before."""

    line: int
    items: list[tuple[Scalar, Node]] = field(default_factory=list)
    repeated: list[Scalar] = field(default_factory=list)


Node = Scalar | Sequence | Mapping


@dataclass(slots=True)
class Document:
    """One file, or what stands for one within a file, such as a key of a ConfigMap.

    `root` is None where it is empty; `extra_documents` is the line of a second document in it, or 0. Of what stands within
    a file, `path` and `line` say where. `warnings` are those of the source; rules.load tells them with its own.
    """

    file: str
    root: Node | None
    extra_documents: int = 0
    path: str = ""
    line: int = 0
    warnings: tuple[Problem, ...] = ()

"""A line of the table of settings: a field of a dataclass, whose annotation says how the text of the variable
is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Context(NamedTuple):
    """What a reader may need beside the text: the field's name, and the values that were read before it
    without a problem.
    """

    name: str
    values: Mapping[str, Any]


Reader = Callable[[str, Context], Any]
"""Returns the value of a text. Raises ValueError with the rest of a sentence that begins with the name and
the text."""


def reader(read: Callable[[str], Any]) -> Reader:
    """Return a reader that needs nothing but the text."""
    return lambda text, context: read(text)


def setting(group: str, default: str, meaning: str) -> Any:
    """Return a field. Its default is written as in the environment, and read in the same way."""
    return dataclasses.field(metadata={"group": group, "default": default, "meaning": meaning})

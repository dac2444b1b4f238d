"""A JSON document with holes: written once, filled in again and again.

    Template({"used": hole("used"), "limit": 5000}).fill({"used": "5200"}) -> b'{"used": 5200, "limit": 5000}'

Writing the JSON of a refusal takes several times as long as the decision; filling in what has changed does not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from json.encoder import encode_basestring
from typing import Any

_HOLE = re.compile(r'"\\u0000(\w+)"')


def hole(name: str) -> str:
    """A value of the document that is filled in later."""
    return f"\0{name}"


def encoded(text: str) -> str:
    """A text as JSON, with letters beyond ASCII as they are."""
    return encode_basestring(text)


class Template:
    """A document with holes, each of which is a whole value of it."""

    __slots__ = ("_fixed", "_order")

    def __init__(self, document: Mapping[str, Any]) -> None:
        pieces = _HOLE.split(json.dumps(document, ensure_ascii=False))
        self._fixed, self._order = pieces[::2], pieces[1::2]

    def fill(self, values: Mapping[str, str]) -> bytes:
        """The document with `values`, which are JSON already, in its holes."""
        pieces = [self._fixed[0]]
        for name, fixed in zip(self._order, self._fixed[1:], strict=True):
            pieces.append(values[name])
            pieces.append(fixed)
        return "".join(pieces).encode()

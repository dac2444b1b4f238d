"""A JSON document with slots: encoded once, and filled in for each refusal.

    Template({"used": slot("used"), "limit": 5000}).fill({"used": "5200"}) -> b'{"used": 5200, "limit": 5000}'

Encoding the JSON of a refusal takes several times as long as deciding on the request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from json.encoder import encode_basestring
from typing import Any

_SLOT = re.compile(r'"\\u0000(\w+)"')


def slot(name: str) -> str:
    """Return a value for the document that `fill` replaces."""
    return f"\0{name}"


def encoded(text: str) -> str:
    """Return a text as JSON, without escapes for letters beyond ASCII."""
    return encode_basestring(text)


class Template:
    """A document with slots, each of which is a whole value of it."""

    __slots__ = ("_fixed", "_order")

    def __init__(self, document: Mapping[str, Any]) -> None:
        pieces = _SLOT.split(json.dumps(document, ensure_ascii=False))
        self._fixed, self._order = pieces[::2], pieces[1::2]

    def fill(self, values: Mapping[str, str]) -> bytes:
        """Return the document with `values`, which are JSON already, in its slots."""
        pieces = [self._fixed[0]]
        for name, fixed in zip(self._order, self._fixed[1:], strict=True):
            pieces.append(values[name])
            pieces.append(fixed)
        return "".join(pieces).encode()

r"""Keys and values of descriptors as text that can be read back: in JSON, and on a terminal.

A byte that is no UTF-8, and a character that cannot be printed, is `\xFF`; a backslash is `\\`. So the text
is one line that does nothing to a terminal, and two different values never have the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ..amendments.target import exactly
from ..errors import InvalidRequest
from ..model import Entry

_escape = re.compile(r"\\(?:\\|x([0-9A-Fa-f]{2})|)")


def text_of(value: bytes) -> str:
    """Return a key or value as text."""
    text = value.decode("utf-8", "surrogateescape").replace("\\", r"\\")
    if text.isprintable():
        return text
    return "".join([char if char.isprintable() else _bytes_of(char) for char in text])


def bytes_of(text: str) -> bytes:
    """Return the key or value that a text says. Raises InvalidRequest."""
    return _escape.sub(_unescape, text).encode("utf-8", "surrogateescape") if "\\" in text else _encoded(text)


def descriptor_text(entries: tuple[Entry, ...]) -> str:
    """Return a descriptor as the text that amendments and the command line read: `team=dba,model=x`."""
    return exactly("", entries).text


def pairs(entries: Iterable[Entry]) -> list[list[str]]:
    """Return a descriptor as JSON has it: `[["team", "dba"]]`."""
    return [[text_of(key), text_of(value)] for key, value in entries]


def entries_in(found: object) -> tuple[Entry, ...]:
    """Return the descriptor in JSON. Raises InvalidRequest."""
    if not isinstance(found, Sequence) or isinstance(found, str) or not found:
        raise InvalidRequest('a descriptor is a list of keys and values, such as [["team", "dba"]]')
    entries = []
    for pair in found:
        if not (
            isinstance(pair, Sequence)
            and not isinstance(pair, str)
            and len(pair) == 2
            and all(isinstance(each, str) for each in pair)
        ):
            raise InvalidRequest('an entry of a descriptor is a key and a value, such as ["team", "dba"]')
        key, value = pair
        if not key:
            raise InvalidRequest("the key of an entry is empty")
        entries.append(Entry(bytes_of(key), bytes_of(value)))
    return tuple(entries)


def _unescape(found: re.Match[str]) -> str:
    if found[0] == "\\":
        raise InvalidRequest(r"a backslash stands before another one or xFF: write it as \\")
    return "\\" if found[1] is None else bytes.fromhex(found[1]).decode("latin-1").translate(_TO_BYTES)


_TO_BYTES = {code: 0xDC00 + code for code in range(0x80, 0x100)}


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest("a key or value has half of a surrogate pair: write bytes as \\xFF") from None


def _bytes_of(char: str) -> str:
    return "".join([f"\\x{byte:02X}" for byte in char.encode("utf-8", "surrogateescape")])

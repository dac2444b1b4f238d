r"""The target of an amendment: one descriptor, a pattern of descriptors, or a whole domain.

    team=dba            the descriptor with this one entry
    user=premium_*      every descriptor whose only key is `user` and whose value begins with `premium_`
    team=dba,model=*    every descriptor with the keys `team` and `model`, in this order, of this team
    *                   every descriptor of the domain

A key is never a pattern, and a target has all keys of the descriptors that it matches. In a value, `*`
matches any bytes, or none; `\*`, `\,` and `\\` stand for these characters, and `\xFF` for the byte FF.

For a rule with `share_threshold`, the bucket's value is the pattern of the rule, as in the counter's key. A
target must match that text (`path=/api/*`), because requests that share a counter also share its limit.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ..errors import InvalidRequest
from ..model import Entry

WHOLE_DOMAIN = "*"
"""The text of a target that matches all descriptors of its domain."""

MOST_TEXT = 16_384
"""Characters of the text of a target."""

_MOST_ENTRIES = 64

_token = re.compile(rb"\\x([0-9A-Fa-f]{2})|\\([*,\\])|(\*)|(,)|([^\\])", re.DOTALL)
_ESCAPES = {ord(char): f"\\{char}" for char in "\\,*"}


class TargetEntry(NamedTuple):
    """One entry of a target: its key, and the pieces of its value between the `*`."""

    key: bytes
    pieces: tuple[bytes, ...]

    @property
    def exact(self) -> bool:
        """Whether the value is not a pattern."""
        return len(self.pieces) == 1


class Target(NamedTuple):
    """The target of an amendment; without entries, the whole domain."""

    domain: str
    entries: tuple[TargetEntry, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether it matches one descriptor only."""
        return bool(self.entries) and all(entry.exact for entry in self.entries)

    @property
    def text(self) -> str:
        """Return the text that `parse` reads."""
        if not self.entries:
            return WHOLE_DOMAIN
        return ",".join(f"{_text(key, '=')}={'*'.join(map(_text, pieces))}" for key, pieces in self.entries)

    @property
    def specificity(self) -> tuple[bool, int, int, int, str]:
        """Return a key that sorts the most specific target first, and the whole domain last.

        More exact entries come first, then more literal bytes, then fewer `*`; ties are sorted by text.
        """
        exact = sum(entry.exact for entry in self.entries)
        given = sum(len(piece) for entry in self.entries for piece in entry.pieces)
        stars = sum(len(entry.pieces) - 1 for entry in self.entries)
        return (not self.entries, -exact, -given, stars, self.text)

    def matches(self, entries: tuple[Entry, ...]) -> bool:
        """Return whether it matches the bucket with these entries."""
        if not self.entries:
            return True
        return len(entries) == len(self.entries) and all(
            wanted.key == entry.key and fits(wanted.pieces, entry.value)
            for wanted, entry in zip(self.entries, entries, strict=True)
        )


def exactly(domain: str, entries: tuple[Entry, ...]) -> Target:
    """Return the target that matches one descriptor."""
    return Target(domain, tuple([TargetEntry(key, (value,)) for key, value in entries]))


def exact_entries(target: Target) -> tuple[Entry, ...]:
    """Return the entries of an exact target; none for another one."""
    return tuple([Entry(entry.key, entry.pieces[0]) for entry in target.entries]) if target.exact else ()


def fits(pieces: tuple[bytes, ...], value: bytes) -> bool:
    """Return whether `value` contains the pieces in order, begins with the first and ends with the last."""
    first, last = pieces[0], pieces[-1]
    if len(pieces) == 1:
        return value == first
    at, end = len(first), len(value) - len(last)
    if at > end or not (value.startswith(first) and value.endswith(last)):
        return False
    for piece in pieces[1:-1]:
        found = value.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def parse(domain: str, text: str) -> Target:
    """Return the target that `text` names in a domain.

    Raises InvalidRequest with a correction.
    """
    if not domain:
        raise InvalidRequest("an amendment needs a domain, such as token-budgets")
    if len(text) > MOST_TEXT:
        raise InvalidRequest(f"a descriptor has at most {MOST_TEXT} characters, not {len(text)}")
    if text == WHOLE_DOMAIN:
        return Target(domain)
    entries = _entries(text.encode("utf-8", "surrogateescape"))
    if len(entries) > _MOST_ENTRIES:
        raise InvalidRequest(f"a descriptor has at most {_MOST_ENTRIES} entries, not {len(entries)}")
    return Target(domain, tuple(entries))


def _entries(text: bytes) -> list[TargetEntry]:
    entries: list[TargetEntry] = []
    key: bytes | None = None
    pieces = [bytearray()]
    at = 0
    while at < len(text):
        token = _token.match(text, at)
        if token is None:
            raise InvalidRequest(r"a backslash stands before *, a comma, a backslash or xFF: write it as \\")
        at = token.end()
        hexadecimal, escaped, star, comma, plain = token.groups()
        if star:
            pieces.append(bytearray())
        elif comma:
            entries.append(_entry(key, pieces))
            key, pieces = None, [bytearray()]
        elif plain == b"=" and key is None:
            if len(pieces) > 1:
                raise InvalidRequest(r"a key is not a pattern: write user=premium_*, or \* for the character")
            key, pieces = bytes(pieces[0]), [bytearray()]
        else:
            pieces[-1] += bytes.fromhex(hexadecimal.decode()) if hexadecimal else escaped or plain
    entries.append(_entry(key, pieces))
    return entries


def _entry(key: bytes | None, pieces: list[bytearray]) -> TargetEntry:
    if not key:
        raise InvalidRequest("a descriptor is key=value,key=value, with * for a whole domain")
    if len(pieces) > 2:  # `a**b` is `a*b`
        pieces = [pieces[0], *filter(None, pieces[1:-1]), pieces[-1]]
    return TargetEntry(key, tuple(map(bytes, pieces)))


def _text(value: bytes, hidden: str = "") -> str:
    """Return `value` on one line, safe for terminals; characters in `hidden` are escaped as well."""
    shown = value.decode("utf-8", "surrogateescape").translate(_ESCAPES)
    if shown.isprintable() and not hidden:
        return shown
    return "".join([char if char.isprintable() and char not in hidden else _bytes_of(char) for char in shown])


def _bytes_of(char: str) -> str:
    return "".join([f"\\x{byte:02X}" for byte in char.encode("utf-8", "surrogateescape")])

"""The ids of holds: a check's answer carries one, and its gateway brings it back with the charge.

An id contains all that is needed to end its holds: the domain, and for each bucket the entries, the tokens
and the expiry. So no store keeps issued ids. It ends with a code that requires the secret (keyed BLAKE2b, 96
bits), so an id that a caller has invented or changed is invalid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct
from typing import Final, NamedTuple

from ..model import Entry
from .codes import CODE, LONGEST, NONCE, VERSION

try:
    from ._codes import Codes, text_of
except ImportError:  # not built
    from .codes import Codes, text_of

VALID: Final = 86_400
"""The seconds for which an id is valid."""

_AHEAD = 300
"""The seconds by which the clock of the replica that issued an id may be ahead."""

_MOST_BYTES = LONGEST // 4 * 3
_HEAD = Struct(f">BI{NONCE}sB")
_HOLD = Struct(">QI")
_LENGTH = Struct(">H")


class IssuedHold(NamedTuple):
    """A hold that an id names."""

    entries: tuple[Entry, ...]
    tokens: int
    expiry: int


class IssuedId(NamedTuple):
    """An id that this service issued."""

    name: str
    """The part that no other id has."""
    made: int
    domain: str
    holds: tuple[IssuedHold, ...]


class HoldIds:
    """Issues ids, and reads those that come back. `nonce` returns 12 bytes that it has not returned before.

    It needs `secret`, which all replicas share; until it is set, no id is issued, and every id is invalid.
    """

    __slots__ = ("_codes", "_nonce", "_secret")

    def __init__(self, nonce: Callable[[], bytes], secret: bytes = b"") -> None:
        self._nonce = nonce
        self._codes: tuple[Codes, ...] = ()
        """Those of the current secret and of the previous one."""
        self._secret = b""
        if secret:
            self.use(secret)

    @property
    def ready(self) -> bool:
        """Whether there is a secret."""
        return bool(self._codes)

    def use(self, secret: bytes) -> None:
        """Issue ids with this secret from now on. Ids with the previous secret stay valid."""
        if secret != self._secret:
            self._secret = secret
            self._codes = (Codes(secret), *self._codes[:1])

    def issue(self, now: int, holds: Sequence[tuple[int, int]], names: bytes) -> str:
        """Return a new id of holds, each with its tokens and its expiry, of the buckets that `names_of`
        returned; empty without a secret.
        """
        if not self._codes:
            return ""
        head = _HEAD.pack(VERSION, now, self._nonce(), len(holds))
        return self._codes[0].write(b"".join([head, *[_HOLD.pack(*hold) for hold in holds], names]))

    def issue_one(self, now: int, tokens: int, expiry: int, names: bytes) -> str:
        """Return a new id of one hold; empty without a secret."""
        if not self._codes:
            return ""
        return self._codes[0].write_one(now, self._nonce(), tokens, expiry, names)

    def read(self, text: bytes, now: int) -> IssuedId | None:
        """Return the content of an id; None if it is invalid or too old."""
        for codes in self._codes:
            data = codes.read(text)
            if data is not None:
                break
        else:
            return None
        version, made, nonce, many = _HEAD.unpack_from(data)
        if version != VERSION or not now - VALID <= made <= now + _AHEAD:
            return None
        amounts = [_HOLD.unpack_from(data, _HEAD.size + number * _HOLD.size) for number in range(many)]
        domain, at = _text(data, _HEAD.size + many * _HOLD.size)
        holds = []
        for tokens, expiry in amounts:
            entries = []
            size, at = data[at], at + 1
            for _ in range(size):
                end = at + 2 + (data[at] << 8) + data[at + 1]
                key, at = data[at + 2 : end], end
                end = at + 2 + (data[at] << 8) + data[at + 1]
                entries.append(Entry(key, data[at + 2 : end]))
                at = end
            holds.append(IssuedHold(tuple(entries), tokens, expiry))
        name = text_of(nonce)
        return IssuedId(name, made, domain.decode("utf-8", "surrogateescape"), tuple(holds))


def names_of(domain: str, buckets: Sequence[Sequence[Entry]]) -> bytes:
    """Return the part of an id that names the buckets of its holds; empty if the id would be too long."""
    if len(buckets) > 255 or any([len(entries) > 255 for entries in buckets]):
        return b""
    parts = [_packed(domain.encode("utf-8", "surrogateescape"))]
    for entries in buckets:
        parts.append(bytes([len(entries)]))
        parts += [_packed(text[:_MOST_BYTES]) for entry in entries for text in entry]
    names = b"".join(parts)
    size = _HEAD.size + len(buckets) * _HOLD.size + len(names) + CODE
    return names if size <= _MOST_BYTES else b""


def _packed(text: bytes) -> bytes:
    return _LENGTH.pack(len(text)) + text


def _text(data: bytes, at: int) -> tuple[bytes, int]:
    (length,) = _LENGTH.unpack_from(data, at)
    at += _LENGTH.size
    return data[at : at + length], at + length

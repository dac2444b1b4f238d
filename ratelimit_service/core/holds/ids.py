"""The ids of holds: a check's answer carries one, and its gateway brings it back with the charge.

An id contains all that is needed to end its holds: the domain, and for each bucket the entries, the tokens
and the expiry. So no store keeps issued ids. It ends with a code that requires the secret (keyed BLAKE2b, 96
bits), so an id that a caller has invented or changed is invalid.
"""

from __future__ import annotations

from binascii import Error, a2b_base64, b2a_base64
from collections.abc import Callable, Sequence
from hashlib import blake2b
from hmac import compare_digest
from struct import Struct
from typing import Final, NamedTuple

from ..model import Entry

LONGEST: Final = 2_048
"""The characters of an id. A request whose id would be longer has no hold."""

VALID: Final = 86_400
"""The seconds for which an id is valid."""

_AHEAD = 300
"""The seconds by which the clock of the replica that issued an id may be ahead."""

_VERSION = 1
_MOST_BYTES = LONGEST // 4 * 3
_NONCE, _CODE = 12, 12
_HEAD = Struct(f">BI{_NONCE}sB")
_HOLD = Struct(">QI")
_ONE = Struct(f">BI{_NONCE}sBQI")
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

    def __init__(self, nonce: Callable[[], bytes], secret: bytes = b"") -> None:
        self._nonce = nonce
        self._codes: tuple[blake2b, ...] = ()
        """The initial state of the code for each secret, to be copied: the current secret, and the previous
        one.
        """
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
            self._codes = (blake2b(key=secret, digest_size=_CODE), *self._codes[:1])

    def issue(self, now: int, holds: Sequence[tuple[int, int]], names: bytes) -> str:
        """Return a new id of holds, each with its tokens and its expiry, of the buckets that `names_of`
        returned.
        """
        if len(holds) == 1:
            tokens, expiry = holds[0]
            data = _ONE.pack(_VERSION, now, self._nonce(), 1, tokens, expiry) + names
        else:
            head = _HEAD.pack(_VERSION, now, self._nonce(), len(holds))
            data = b"".join([head, *[_HOLD.pack(*hold) for hold in holds], names])
        code = self._codes[0].copy()
        code.update(data)
        return _text_of(data + code.digest()).decode("ascii")

    def read(self, text: bytes, now: int) -> IssuedId | None:
        """Return the content of an id; None if it is invalid or too old."""
        if not _HEAD.size + _CODE < len(text) <= LONGEST:
            return None
        try:
            whole = a2b_base64(text.translate(_STANDARD) + b"==")
        except Error:
            return None
        if _text_of(whole) != text:  # other texts decode to the same bytes
            return None
        data, code = whole[:-_CODE], whole[-_CODE:]
        for blank in self._codes:
            own = blank.copy()
            own.update(data)
            if compare_digest(code, own.digest()):
                break
        else:
            return None
        version, made, nonce, many = _HEAD.unpack_from(data)
        if version != _VERSION or not now - VALID <= made <= now + _AHEAD:
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
        name = _text_of(nonce).decode("ascii")
        return IssuedId(name, made, domain.decode("utf-8", "surrogateescape"), tuple(holds))


_URL_SAFE, _STANDARD = bytes.maketrans(b"+/", b"-_"), bytes.maketrans(b"-_", b"+/")


def _text_of(data: bytes) -> bytes:
    """Return bytes in base64 for URLs, without padding."""
    return b2a_base64(data, newline=False).rstrip(b"=").translate(_URL_SAFE)


def names_of(domain: str, buckets: Sequence[Sequence[Entry]]) -> bytes:
    """Return the part of an id that names the buckets of its holds; empty if the id would be too long."""
    if len(buckets) > 255 or any([len(entries) > 255 for entries in buckets]):
        return b""
    parts = [_packed(domain.encode("utf-8", "surrogateescape"))]
    for entries in buckets:
        parts.append(bytes([len(entries)]))
        parts += [_packed(text[:_MOST_BYTES]) for entry in entries for text in entry]
    names = b"".join(parts)
    size = _HEAD.size + len(buckets) * _HOLD.size + len(names) + _CODE
    return names if size <= _MOST_BYTES else b""


def _packed(text: bytes) -> bytes:
    return _LENGTH.pack(len(text)) + text


def _text(data: bytes, at: int) -> tuple[bytes, int]:
    (length,) = _LENGTH.unpack_from(data, at)
    at += _LENGTH.size
    return data[at : at + length], at + length

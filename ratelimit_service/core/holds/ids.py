"""The ids of holds: a check's answer carries one, and its gateway brings it back with the charge.

An id carries all that ending its hold takes: the domain, and for each bucket the entries, the tokens and when
the hold expires. So no store keeps what was issued. It ends with a code that nobody without the secret can
make (keyed BLAKE2b, 96 bits), so an id that a caller made up, or changed, is none.
"""

from __future__ import annotations

from base64 import b64decode, urlsafe_b64encode
from binascii import Error
from collections.abc import Callable, Sequence
from hashlib import blake2b
from hmac import compare_digest
from struct import Struct
from typing import Final, NamedTuple

from ..model import Entry

LONGEST: Final = 2_048
"""The characters of an id. A request whose id would be longer has no hold."""

VALID: Final = 86_400
"""The seconds for which an id is known."""

_AHEAD = 300
"""The seconds by which the clock of the replica that issued an id may be ahead."""

_VERSION = 1
_NONCE, _CODE = 12, 12
_HEAD = Struct(f">BI{_NONCE}s")
_HOLD = Struct(">QI")
_LENGTH = Struct(">H")


class IssuedHold(NamedTuple):
    """A hold that an id names."""

    entries: tuple[Entry, ...]
    tokens: int
    expiry: int


class Issued(NamedTuple):
    """An id that this service issued."""

    name: str
    """What tells it from every other id."""
    made: int
    domain: str
    holds: tuple[IssuedHold, ...]


class HoldIds:
    """Issues ids, and reads those that come back. `nonce` returns 12 bytes that it has not returned before.

    It needs `secret`, which all replicas share; until it is set nothing is issued, and no id is known.
    """

    def __init__(self, nonce: Callable[[], bytes], secret: bytes = b"") -> None:
        self._nonce = nonce
        self._secrets: tuple[bytes, ...] = ()
        if secret:
            self.use(secret)

    @property
    def ready(self) -> bool:
        """Whether there is a secret."""
        return bool(self._secrets)

    def use(self, secret: bytes) -> None:
        """Issue ids by this secret from now on. Those by the one before it stay known."""
        if secret not in self._secrets[:1]:
            self._secrets = (secret, *self._secrets[:1])

    def issue(self, now: int, domain: bytes, holds: Sequence[tuple[bytes, int, int]]) -> str:
        """Return a new id: `domain` and the first of each hold by `packed_*`, its tokens, and its expiry."""
        parts = [_HEAD.pack(_VERSION, now, self._nonce()), domain]
        for entries, tokens, expiry in holds:
            parts += (_HOLD.pack(tokens, expiry), entries)
        data = b"".join(parts)
        code = blake2b(data, key=self._secrets[0], digest_size=_CODE).digest()
        return urlsafe_b64encode(data + code).rstrip(b"=").decode("ascii")

    def read(self, text: bytes, now: int) -> Issued | None:
        """Return what an id says; None for anything else, and for one that is too old."""
        if not _HEAD.size + _CODE < len(text) <= LONGEST:
            return None
        try:
            whole = b64decode(text + b"=" * (-len(text) % 4), b"-_", validate=True)
        except Error:
            return None
        data, code = whole[:-_CODE], whole[-_CODE:]
        for secret in self._secrets:
            if compare_digest(code, blake2b(data, key=secret, digest_size=_CODE).digest()):
                break
        else:
            return None
        version, made, nonce = _HEAD.unpack_from(data)
        if version != _VERSION or not now - VALID <= made <= now + _AHEAD:
            return None
        domain, at = _text(data, _HEAD.size)
        holds = []
        while at < len(data):
            tokens, expiry = _HOLD.unpack_from(data, at)
            many, at = data[at + _HOLD.size], at + _HOLD.size + 1
            entries = []
            for _ in range(many):
                key, at = _text(data, at)
                value, at = _text(data, at)
                entries.append(Entry(key, value))
            holds.append(IssuedHold(tuple(entries), tokens, expiry))
        name = urlsafe_b64encode(nonce).decode("ascii")
        return Issued(name, made, domain.decode("utf-8", "surrogateescape"), tuple(holds))


def packed_domain(domain: str) -> bytes:
    """Return a domain as `issue` takes it."""
    return _packed(domain.encode("utf-8", "surrogateescape"))


def packed_entries(entries: Sequence[Entry]) -> bytes:
    """Return the entries of a descriptor as `issue` takes them; empty where they are too long for an id."""
    if len(entries) > 255 or sum([len(key) + len(value) + 4 for key, value in entries]) > LONGEST // 2:
        return b""
    return bytes([len(entries)]) + b"".join([_packed(key) + _packed(value) for key, value in entries])


def fits(domain: bytes, holds: Sequence[bytes]) -> bool:
    """Return whether an id for these is short enough."""
    size = _HEAD.size + len(domain) + sum([_HOLD.size + len(entries) for entries in holds]) + _CODE
    return all(holds) and size * 4 // 3 + 2 <= LONGEST


def _packed(text: bytes) -> bytes:
    return _LENGTH.pack(len(text)) + text


def _text(data: bytes, at: int) -> tuple[bytes, int]:
    (length,) = _LENGTH.unpack_from(data, at)
    at += _LENGTH.size
    return data[at : at + length], at + length

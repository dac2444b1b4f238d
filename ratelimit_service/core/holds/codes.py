"""The text of an id: its data and a code that requires the secret, in base64 for URLs.

The code is keyed BLAKE2b of 96 bits (RFC 7693). `_codes.pyx` is the compiled twin of this module, with which
tests/core/holds/test_codes.py compares it.
"""

from __future__ import annotations

from binascii import Error, a2b_base64, b2a_base64
from hashlib import blake2b
from hmac import compare_digest
from struct import Struct
from typing import Final

LONGEST: Final = 2_048
"""The characters of an id."""

VERSION: Final = 1
NONCE: Final = 12
CODE: Final = 12
_ONE = Struct(f">BI{NONCE}sBQI")


class Codes:
    """Writes ids with a secret of 64 bytes at most, and reads those that were written with it."""

    __slots__ = ("_blank",)

    def __init__(self, secret: bytes) -> None:
        self._blank = blake2b(key=secret, digest_size=CODE)
        """The initial state of the code, to be copied."""

    def write(self, data: bytes) -> str:
        """Return the id with this data."""
        code = self._blank.copy()
        code.update(data)
        return text_of(data + code.digest())

    def write_one(self, now: int, nonce: bytes, tokens: int, expiry: int, names: bytes) -> str:
        """Return the id of one hold. Nearly all ids are such."""
        return self.write(_ONE.pack(VERSION, now, nonce, 1, tokens, expiry) + names)

    def read(self, text: bytes) -> bytes | None:
        """Return the data of an id; None if it was not written with this secret."""
        if not CODE < len(text) <= LONGEST:
            return None
        try:
            whole = a2b_base64(text.translate(_STANDARD) + b"==")
        except Error:
            return None
        if len(whole) <= CODE or text_of(whole).encode() != text:  # other texts decode to the same bytes
            return None
        code = self._blank.copy()
        code.update(whole[:-CODE])
        return whole[:-CODE] if compare_digest(whole[-CODE:], code.digest()) else None


_URL_SAFE, _STANDARD = bytes.maketrans(b"+/", b"-_"), bytes.maketrans(b"-_", b"+/")


def text_of(data: bytes) -> str:
    """Return bytes in base64 for URLs, without padding."""
    return b2a_base64(data, newline=False).rstrip(b"=").translate(_URL_SAFE).decode("ascii")

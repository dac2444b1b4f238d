"""The key of a counter, `<prefix>{<domain>|<key>=<value>|…}:<window>:<start>`, and of a marker beside it.

The grammar is public (docs/keys.md has it, with test vectors): people read and reset these keys with
redis-cli. Different descriptors never share a counter. No byte of a caller acts as a separator, a glob, a
quote, a space or a control character. The braces are Redis Cluster's hash tag: all windows of one bucket
share a slot.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import NewType

DomainText = NewType("DomainText", str)
"""The name of a domain, escaped for keys."""

LONGEST = 128
"""A digest replaces a value with more bytes than this."""

_ESCAPED = frozenset(b"%{}|=:*?[]\\~\"' ")
_TEXT = [
    chr(byte) if 0x21 <= byte <= 0x7E and byte not in _ESCAPED else f"%{byte:02X}" for byte in range(256)
]
_plain = re.compile(rb"[^%{}|=:*?\[\]\\~\"' \x00-\x20\x7f-\xff]*").fullmatch


def escape(value: bytes) -> str:
    """Return `value` as text for a key. Different values have different texts."""
    if len(value) > LONGEST:
        return "~sha256:" + hashlib.sha256(value).hexdigest()
    if value.isalnum() or _plain(
        value
    ):  # of bytes, isalnum is about ASCII; most values are, and it is faster
        return value.decode("ascii")
    return "".join([_TEXT[byte] for byte in value])


def unescape(text: str) -> bytes | None:
    """Return the bytes that `escape` has made `text` of; None for any other text, such as a digest."""
    if "%" not in text:
        value = text.encode("utf-8", "surrogatepass")
    else:
        plain, *escaped = text.split("%")
        try:
            value = plain.encode() + b"".join(
                [bytes.fromhex(each[:2]) + each[2:].encode() for each in escaped]
            )
        except ValueError:
            return None
    return value if escape(value) == text else None


def escape_pattern(pattern: bytes) -> str:
    """Return a wildcard pattern as `escape` does, but with its `*` unescaped."""
    if len(pattern) > LONGEST:
        return "~sha256*:" + hashlib.sha256(pattern).hexdigest()
    return "*".join(map(escape, pattern.split(b"*")))


def entry_text(key: bytes, value: bytes) -> str:
    """Return one entry of a descriptor as text for a bucket."""
    return f"{escape(key)}={escape(value)}"


def shared_entry_text(key: bytes, pattern: bytes) -> str:
    """Return an entry as text for a bucket that all values of a wildcard share.

    `pattern` is that of the joined `key_value`. The part of it that is about the value replaces the value. A
    pattern with a wildcard in the key is used whole, after a `~`. Otherwise `a_*` and `a__a_*` would share
    the bucket of an entry with the key `a_`, because both leave `a_*`.
    """
    before = key + b"_"
    if pattern.startswith(before):
        return f"{escape(key)}={escape_pattern(pattern[len(before) :])}"
    return f"{escape(key)}=~{escape_pattern(pattern)}"


def domain_text(name: str) -> DomainText:
    """Return the name of a domain as text for a bucket."""
    return DomainText(escape(name.encode()))


def bucket(prefix: str, domain: DomainText, entries: Iterable[str]) -> str:
    """Return the name of a bucket. A counter's key is `<bucket>:<label of the span>`.

    `prefix` is CACHE_KEY_PREFIX, which is not escaped. `entries` are entry_text or shared_entry_text.
    """
    return f"{prefix}{{{domain}|{'|'.join(entries)}}}"


def threshold_marker(counter: str, percent: str) -> str:
    """Return the key that marks a threshold of a counter as reported. `percent` is `80`, or `12.5`."""
    return f"{counter}:warned-{percent}"


def window_of(key: str) -> str:
    """Return the window in the key of a counter or marker: `hour`, `15minute`; empty for other keys."""
    _, bucket_ends, span = key.rpartition("}:")
    return span.partition(":")[0] if bucket_ends else ""


def is_marker(key: str) -> bool:
    """Return whether a key in a bucket is that of a marker, not of a counter."""
    return ":warned-" in key.rpartition("}")[2]

"""The counter key: `<prefix>{<domain>|<key>=<value>|…}:<window>:<start>`, and that of a marker beside it.

The grammar is public (docs/keys.md has it with test vectors): people read and reset these keys with redis-cli. Whatever
a caller sends, two different descriptors never share a counter, and no byte of theirs can act as a separator, a glob, a
quote, a space or a control character. The braces are Redis Cluster's hash tag: all windows of one bucket share a slot.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache

LONGEST = 128
"""Values of more bytes than this are replaced by their digest."""

_ESCAPED = frozenset(b"%{}|=:*?[]\\~\"' ")
_TEXT = [
    chr(byte) if 0x21 <= byte <= 0x7E and byte not in _ESCAPED else f"%{byte:02X}" for byte in range(256)
]
_plain = re.compile(rb"[^%{}|=:*?\[\]\\~\"' \x00-\x20\x7f-\xff]*").fullmatch


def escape(value: bytes) -> str:
    """`value` as it stands in a key. Different values have different texts."""
    if len(value) > LONGEST:
        return "~sha256:" + hashlib.sha256(value).hexdigest()
    if _plain(value):
        return value.decode("ascii")
    return "".join([_TEXT[byte] for byte in value])


def escape_pattern(pattern: bytes) -> str:
    """A wildcard pattern that stands for all values that it matches: as `escape`, but its `*` stay as they are."""
    if len(pattern) > LONGEST:
        return "~sha256*:" + hashlib.sha256(pattern).hexdigest()
    return "*".join(map(escape, pattern.split(b"*")))


def part(key: bytes, value: bytes) -> str:
    """One entry of a descriptor, as it stands in a bucket."""
    return f"{escape(key)}={escape(value)}"


def shared_part(key: bytes, joined: bytes) -> str:
    """One entry whose values share a bucket: what `joined` (a pattern of `key_value`) says of the value stands in its place.

    A pattern that reaches into the key stands there whole, behind a `~`: else `a_*` and `a__a_*`, which both leave `a_*`
    of an entry with the key `a_`, would share one bucket.
    """
    before = key + b"_"
    if joined.startswith(before):
        return f"{escape(key)}={escape_pattern(joined[len(before) :])}"
    return f"{escape(key)}=~{escape_pattern(joined)}"


@lru_cache(maxsize=1_000)
def _domain(name: str) -> str:
    # Only domains of the configuration come here, so what is remembered is theirs.
    return escape(name.encode())


def bucket(prefix: str, domain: str, parts: Iterable[str]) -> str:
    """What all windows of one descriptor have in common; a counter's key is `<bucket>:<span label>`.

    `prefix` is CACHE_KEY_PREFIX, as the operator wrote it.
    """
    return f"{prefix}{{{_domain(domain)}|{'|'.join(parts)}}}"


def warned(counter: str, percent: str) -> str:
    """The key of the marker that somebody has told of a threshold of a counter: `percent` is `80`, or `12.5`."""
    return f"{counter}:warned-{percent}"


def window_of(key: str) -> str:
    """The name of the window that a counter, or a marker beside one, is of: `hour`, `15minute`; empty where it has none."""
    _, bucket_ends, span = key.rpartition("}:")
    return span.partition(":")[0] if bucket_ends else ""


def is_marker(key: str) -> bool:
    """Whether a key of a bucket is a marker, and no counter."""
    return ":warned-" in key.rpartition("}")[2]

"""From the key of a counter back to its bucket, and from a bucket to the rule that limits it.

    read_key(prefix)(key) -> Counter                 the texts of the bucket, and the window
    find(domain, counter.entries) -> Found | None    the entries of a descriptor counted there, and its rule

The way back goes through the tree that made the key (tree.py), so a rule is found only if a request with
these entries would count in this very bucket by it. Keys may come from anybody who can write to the store:
what is no key of a counter is None, and never an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from ..model import Entry, Rule, Unit
from . import keys
from .tree import Domain, RuleNode

_DIGEST = "~sha256:"

_UNITS = "|".join(unit.name.lower() for unit in Unit if unit is not Unit.UNKNOWN)
_START = r"[0-9]{4,6}-[0-9]{2}-[0-9]{2}(?:T[0-9]{2}(?::[0-9]{2}){0,2}Z)?"


class Counter(NamedTuple):
    """What the key of a counter says. `domain` and `entries` are texts, escaped as in the key."""

    bucket: str
    domain: str
    entries: tuple[str, ...]
    window: str
    start: str


class BucketRule(NamedTuple):
    """The rule that limits a bucket, and the entries of the bucket, as amendments see them
    (Domain.entries_of_bucket).

    With `hashed`, a value is known by its digest alone, and the text of the digest stands in its place.
    """

    rule: Rule
    entries: tuple[Entry, ...]
    hashed: bool


def read_key(prefix: str) -> Callable[[str], Counter | None]:
    """Return a function from the key of a counter to what it says; None for any other key, such as that of a
    marker.

    `prefix` is CACHE_KEY_PREFIX.
    """
    pattern = re.compile(
        re.escape(prefix) + r"(?P<bucket>\{([^{}|]*)\|([^{}]*)\}):((?:[1-9][0-9]{0,9})?(?:" + _UNITS + r")):"
        rf"({_START})",
        re.ASCII,
    ).fullmatch

    def read(key: str) -> Counter | None:
        found = pattern(key)
        if found is None:
            return None
        bucket, domain, entries, window, start = found.groups()
        return Counter(f"{prefix}{bucket}", domain, tuple(entries.split("|")), window, start)

    return read


def domain_name(text: str) -> str:
    """Return the name of a domain by its text in a key; the text itself where that is a digest."""
    name = keys.unescape(text)
    return text if name is None else name.decode("utf-8", "replace")


def entries_of(texts: tuple[str, ...]) -> tuple[Entry, ...]:
    """Return the entries of a bucket without a rule; texts that cannot be decoded stay as they are in the
    key.
    """
    entries = []
    for text in texts:
        key, _, value = text.partition("=")
        entries.append(Entry(_plain(key), _plain(value)))
    return tuple(entries)


def _unknown(digest: str) -> bytes | None:
    return None


def find(
    domain: Domain, texts: tuple[str, ...], value_of: Callable[[str], bytes | None] = _unknown
) -> BucketRule | None:
    """Return the rule by which a descriptor counts in the bucket with these texts; None if there is none, or
    it is unknown.

    `value_of` returns a long value by the text of its digest, if it is known from elsewhere.
    """
    node = domain.root
    entries: list[Entry] = []
    hashed = False
    for text in texts:
        key_text, equals, value_text = text.partition("=")
        key = _key(node, key_text)
        if not equals or key is None:
            return None
        if value_text.startswith(_DIGEST):
            value = value_of(value_text)
            if value is None:
                found = _by_digest(node, key, value_text)
                if found is None:
                    return None
                node, value = found
                hashed = hashed or value is None
                entries.append(Entry(key, value_text.encode() if value is None else value))
                continue
        elif "*" in value_text:
            shared = _shared(node, key, text)
            if shared is None:
                return None
            node = shared
            entries.append(Entry(key, node.shared_value(Entry(key, b""))))
            continue
        else:
            value = keys.unescape(value_text)
        following = node.next(Entry(key, value)) if value is not None else None
        if value is None or following is None or following.shares:
            return None
        node = following
        entries.append(Entry(key, value))
    return (
        BucketRule(node.rule, tuple(entries), hashed) if node.rule is not None and node.rule.limits else None
    )


def _plain(text: str) -> bytes:
    value = keys.unescape(text)
    return text.encode("utf-8", "surrogateescape") if value is None else value


def _key(node: RuleNode, text: str) -> bytes | None:
    """Return the key of an entry by its text; a key that is known by its digest alone has to be that of a
    rule.
    """
    if text.startswith(_DIGEST):
        below = node.digests.get(text)
        return None if below is None else below.key
    return keys.unescape(text)


def _shared(node: RuleNode, key: bytes, text: str) -> RuleNode | None:
    """Return the wildcard whose values share the bucket with this text."""
    for _, below in node.wildcards:
        if below.shares and keys.shared_entry_text(key, below.composite) == text:
            return below
    return None


def _by_digest(node: RuleNode, key: bytes, text: str) -> tuple[RuleNode, bytes | None] | None:
    """Return the node that a value with this digest matches, and the value if a rule has it.

    None where that depends on the value: where a pattern might match it.
    """
    before = key + b"_"
    below = node.digests.get(text)
    if below is not None and below.composite.startswith(before):
        return None if below.shares else (below, below.composite[len(before) :])
    for _, pattern in node.wildcards:
        first = pattern.composite.partition(b"*")[0]
        if first.startswith(before) or before.startswith(first):
            return None
    default = node.children.get(key)
    return None if default is None else (default, None)

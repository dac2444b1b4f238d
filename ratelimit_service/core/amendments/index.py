"""The amendments in force, found by the entries of a bucket.

    put(amendment), remove(id)      apply a change
    find(domain, entries) -> Stack  the amendments of one bucket, the most specific first

`find` takes a few lookups, independent of the number of amendments: targets with the same keys and the same
form of pattern (the number of bytes before the first `*` and after the last) share a dictionary. It is not
called for every request: plans keep the result until `version` changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ..matching.keys import LONGEST, escape
from ..model import Entry
from .model import Amendment, Kind
from .target import Target, TargetEntry, fits

MOST_STEPS = 500
"""The most lookups and comparisons of `find` in one domain, if amendments are put one by one."""

_Signature = tuple[tuple[int, int] | None, ...]
"""For each entry of a pattern, the number of bytes before the first `*` and after the last; None for an exact
value."""

_Key = tuple[bytes | tuple[bytes, bytes], ...]


class Stack(NamedTuple):
    """The amendments of one bucket: overrides, of which the first one for a window applies to it, and
    top-ups, which are added.
    """

    overrides: tuple[Amendment, ...]
    top_ups: tuple[Amendment, ...]


UNAMENDED = Stack((), ())


class Amendments:
    """All amendments. `version` grows with every change, and `version_of` with every change in a domain.

    Both are local to this process, and independent of the versions in the store.
    """

    def __init__(self) -> None:
        self.version = 0
        self._by_id: dict[str, Amendment] = {}
        self._domains: dict[str, Targets] = {}
        self._versions: dict[str, int] = {}
        """By domain, including domains without amendments: plans with earlier amendments must notice their
        removal."""

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Amendment]:
        return iter(tuple(self._by_id.values()))

    def get(self, name: str) -> Amendment | None:
        """Return the amendment with an id."""
        return self._by_id.get(name)

    def put(self, amendment: Amendment) -> None:
        """Put an amendment in force, in place of one with the same id."""
        self._drop(amendment.id)
        self._by_id[amendment.id] = amendment
        domain = amendment.target.domain
        targets = self._domains.get(domain)
        if targets is None:
            targets = self._domains[domain] = Targets()
        targets.put(amendment)
        self._changed(domain)

    def remove(self, name: str) -> None:
        """Remove the amendment with an id, if there is one."""
        amendment = self._drop(name)
        if amendment is not None:
            self._changed(amendment.target.domain)

    def find(
        self,
        domain: str,
        entries: tuple[Entry, ...],
        data: Targets | None = None,
        instead: Mapping[str, Amendment | None] | None = None,
    ) -> Stack:
        """Return the amendments of the bucket with these entries.

        `data` are the limits as data of the domain, which rank below all others. `instead` replaces
        amendments by id, for previews; None removes one.
        """
        found = self._domains.get(domain)
        if found is None and data is None and not instead:
            return UNAMENDED
        amendments = found.find(entries) if found is not None else []
        if instead:
            amendments = [one for one in amendments if one.id not in instead]
            amendments += [
                one
                for one in instead.values()
                if one is not None and one.target.domain == domain and one.target.matches(entries)
            ]
        top_ups = tuple([one for one in amendments if one.kind is Kind.TOP_UP])
        overrides = [one for one in amendments if one.kind is Kind.OVERRIDE]
        overrides.sort(key=_precedence)
        if data is not None:
            overrides += sorted(data.find(entries), key=_precedence)
        if not overrides and not top_ups:
            return UNAMENDED
        return Stack(tuple(overrides), top_ups)

    def long_value(self, domain: str, text: str) -> bytes | None:
        """Return a value of a target in a domain by its digest in the keys of counters, if there is one."""
        found = self._domains.get(domain)
        return found.long_value(text) if found is not None else None

    def version_of(self, domain: str) -> int:
        """Return the version of the last change in a domain."""
        return self._versions.get(domain, 0)

    def steps(self, target: Target) -> int:
        """Return how many lookups and comparisons `find` would take for buckets with the keys of a target, if
        that were added.
        """
        found = self._domains.get(target.domain)
        return 1 if found is None else found.steps(target)

    def _drop(self, name: str) -> Amendment | None:
        amendment = self._by_id.pop(name, None)
        if amendment is not None:
            domain = amendment.target.domain
            targets = self._domains[domain]
            targets.remove(amendment)
            if not targets:
                del self._domains[domain]
        return amendment

    def _changed(self, domain: str) -> None:
        self.version += 1
        self._versions[domain] = self.version


def _precedence(amendment: Amendment) -> tuple[object, ...]:
    """Sort by target, the most specific first; then amendments for one window first; then the latest
    first.
    """
    target = amendment.target
    return (not target.exact, target.specificity, not amendment.window, -amendment.since, amendment.id)


class Targets:
    """The amendments of one domain, by their targets."""

    __slots__ = ("_count", "_long", "_shapes", "_whole")

    def __init__(self) -> None:
        self._count = 0
        self._long: dict[str, list[bytes]] = {}
        """The values that are too long for keys of counters, by their digests there; once for each entry."""
        self._whole: list[Amendment] = []
        self._shapes: dict[tuple[bytes, ...], _Shape] = {}

    def __len__(self) -> int:
        return self._count

    def put(self, amendment: Amendment) -> None:
        """Add an amendment."""
        self._count += 1
        target = amendment.target
        if not target.entries:
            self._whole.append(amendment)
            return
        for value in _long_values(target):
            self._long.setdefault(escape(value), []).append(value)
        keys = _keys(target.entries)
        shape = self._shapes.get(keys)
        if shape is None:
            shape = self._shapes[keys] = _Shape()
        shape.put(amendment)

    def remove(self, amendment: Amendment) -> None:
        """Remove one that was added."""
        self._count -= 1
        target = amendment.target
        if not target.entries:
            self._whole.remove(amendment)
            return
        for text in map(escape, _long_values(target)):
            self._long[text].pop()
            if not self._long[text]:
                del self._long[text]
        keys = _keys(target.entries)
        shape = self._shapes[keys]
        shape.remove(amendment)
        if not shape.signatures:
            del self._shapes[keys]

    def find(self, entries: tuple[Entry, ...]) -> list[Amendment]:
        """Return the amendments that match the bucket with these entries, in no order."""
        shape = self._shapes.get(tuple([entry.key for entry in entries])) if self._shapes else None
        if shape is None:
            return list(self._whole)
        return [*self._whole, *shape.find(entries)]

    def long_value(self, text: str) -> bytes | None:
        """Return a value of a target by its digest in the keys of counters; None if no target has it."""
        found = self._long.get(text)
        return found[0] if found else None

    def steps(self, target: Target) -> int:
        """As Amendments.steps."""
        shape = self._shapes.get(_keys(target.entries))
        return len(self._whole) + 1 + (0 if shape is None else shape.steps(target))


class _Shape:
    """The amendments of descriptors with the same keys, by the parts of their values that are not
    patterns.
    """

    __slots__ = ("signatures",)

    def __init__(self) -> None:
        self.signatures: dict[_Signature, dict[_Key, list[Amendment]]] = {}

    def put(self, amendment: Amendment) -> None:
        entries = amendment.target.entries
        by_key = self.signatures.setdefault(_signature(entries), {})
        by_key.setdefault(_key_of_target(entries), []).append(amendment)

    def remove(self, amendment: Amendment) -> None:
        entries = amendment.target.entries
        signature, key = _signature(entries), _key_of_target(entries)
        by_key = self.signatures[signature]
        by_key[key].remove(amendment)
        if not by_key[key]:
            del by_key[key]
        if not by_key:
            del self.signatures[signature]

    def find(self, entries: tuple[Entry, ...]) -> Iterable[Amendment]:
        for signature, by_key in self.signatures.items():
            found = by_key.get(_key_of_bucket(signature, entries))
            if found is None:
                continue
            for amendment in found:
                if all(
                    wanted.exact or fits(wanted.pieces, entry.value)
                    for wanted, entry in zip(amendment.target.entries, entries, strict=True)
                ):
                    yield amendment

    def steps(self, target: Target) -> int:
        """Return the lookups and comparisons of `find`: one lookup for each signature, and a comparison for
        each amendment with the same key.
        """
        signature = _signature(target.entries)
        alike = self.signatures.get(signature, {}).get(_key_of_target(target.entries), ())
        return len(self.signatures) + (signature not in self.signatures) + len(alike)


def _long_values(target: Target) -> list[bytes]:
    return [entry.pieces[0] for entry in target.entries if entry.exact and len(entry.pieces[0]) > LONGEST]


def _keys(entries: tuple[TargetEntry, ...]) -> tuple[bytes, ...]:
    return tuple([entry.key for entry in entries])


def _signature(entries: tuple[TargetEntry, ...]) -> _Signature:
    return tuple([None if len(pieces) == 1 else (len(pieces[0]), len(pieces[-1])) for _, pieces in entries])


def _key_of_target(entries: tuple[TargetEntry, ...]) -> _Key:
    return tuple([pieces[0] if len(pieces) == 1 else (pieces[0], pieces[-1]) for _, pieces in entries])


def _key_of_bucket(signature: _Signature, entries: tuple[Entry, ...]) -> _Key:
    key: list[bytes | tuple[bytes, bytes]] = []
    for lengths, (_, value) in zip(signature, entries, strict=True):
        if lengths is None:
            key.append(value)
        else:
            first, last = lengths
            key.append((value[:first], value[len(value) - last :] if last else b""))
    return tuple(key)

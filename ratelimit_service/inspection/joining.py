"""Joins counters with the rules and amendments that are in force: from the key of a counter to a budget."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from ..core.amendments.index import Amendments
from ..core.amendments.target import exact_entries
from ..core.budgets.bucket import BucketNow, Budget, BudgetWindow, bucket_now, budget
from ..core.holds.hit import SUFFIX
from ..core.matching import keys
from ..core.matching.buckets import domain_name, entries_of, find, read_key
from ..core.matching.tree import Domain, RuleNode, RuleTree
from ..core.model import Entry
from ..core.windows.blocks import Spans

Tree = Callable[[], RuleTree | None]
"""Returns the rules in force; None before the first are loaded."""


class KnownBucket(NamedTuple):
    """A bucket whose rule is known, before its counters are read."""

    domain: str
    entries: tuple[Entry, ...]
    now: BucketNow
    hashed: bool = False

    @property
    def counters(self) -> list[str]:
        """Return the keys of its counters in the windows that run."""
        return [window.key for window in self.now.windows]

    @property
    def holds(self) -> str:
        """Return the key of its holds; empty where its rule has none."""
        return f"{self.now.bucket}:{SUFFIX}" if self.now.rule.hold is not None else ""


class Joiner:
    """Joins by the rules and amendments that are in force at each call. `prefix` is CACHE_KEY_PREFIX.

    It keeps no reference to the rules: those that a reload replaces are released little by little
    (loading/rulebook.py), and the last reference would release them all at once.
    """

    def __init__(self, tree: Tree, amendments: Amendments, prefix: str = "", near_ratio: float = 0.8) -> None:
        self._tree = tree
        self.prefix = prefix
        self.read_key = read_key(prefix)
        self._amendments = amendments
        self._near_ratio = near_ratio
        self._spans = Spans()
        self._names: dict[str, str] = {}
        self._names_of: weakref.ref[RuleTree] | None = None

    @property
    def tree(self) -> RuleTree | None:
        """Return the rules in force."""
        return self._tree()

    @property
    def texts(self) -> list[str]:
        """Return the domains in force, by their texts in keys."""
        tree = self._tree()
        return list(self._texts(tree)) if tree is not None else []

    def domain(self, text: str) -> Domain | None:
        """Return a domain by its text in keys."""
        tree = self._tree()
        name = self._texts(tree).get(text) if tree is not None else None
        return tree.domains.get(name) if tree is not None and name is not None else None

    def _texts(self, tree: RuleTree) -> dict[str, str]:
        if self._names_of is None or self._names_of() is not tree:
            self._names_of = weakref.ref(tree)
            self._names = {domain.name_in_keys: name for name, domain in tree.domains.items()}
        return self._names

    def known(self, domain_text: str, texts: tuple[str, ...], now: int) -> KnownBucket | None:
        """Return a bucket by its texts in keys; None where no rule is known for it."""
        domain = self.domain(domain_text)
        if domain is None:
            return None

        def long_value(text: str) -> bytes | None:
            value = self._amendments.long_value(domain.name, text)
            return domain.limits.long_value(text) if value is None and domain.limits is not None else value

        found = find(domain, texts, long_value)
        if found is None:
            return None
        stack = self._amendments.find(domain.name, found.entries, domain.limits)
        bucket = keys.bucket(self.prefix, domain.name_in_keys, texts)
        state = bucket_now(found.rule, bucket, stack, now, self._spans)
        return KnownBucket(domain.name, found.entries, state, found.hashed)

    def matched(self, domain_name: str, entries: tuple[Entry, ...], now: int) -> KnownBucket | None:
        """Return the bucket of a descriptor; None where no rule limits it."""
        tree = self._tree()
        domain = tree.domains.get(domain_name) if tree is not None else None
        match = domain.match(entries) if domain is not None else None
        if domain is None or match is None or not match.rule.limits:
            return None
        of_bucket = domain.entries_of_bucket(entries)
        stack = self._amendments.find(domain.name, of_bucket, domain.limits)
        bucket = keys.bucket(self.prefix, domain.name_in_keys, match.bucket_entries)
        return KnownBucket(domain.name, of_bucket, bucket_now(match.rule, bucket, stack, now, self._spans))

    def budget(
        self, known: KnownBucket, used: Mapping[str, int | None], holds: Mapping[str, int] | None = None
    ) -> Budget:
        """Return a bucket with the values of its counters and the tokens of its holds."""
        held = (holds or {}).get(known.holds, 0) if known.holds else None
        return budget(
            known.domain, known.entries, known.now, used, self._near_ratio, hashed=known.hashed, held=held
        )

    def stray(self, domain_text: str, texts: tuple[str, ...], used: Mapping[str, int | None]) -> Budget:
        """Return a bucket for which no rule is known, with those of its counters that are in `used`."""
        bucket = keys.bucket(self.prefix, keys.DomainText(domain_text), texts)
        windows = []
        for key, value in used.items():
            counter = self.read_key(key)
            if counter is not None and counter.bucket == bucket:
                windows.append(BudgetWindow(counter.window, key, value, 0, 0))
        return Budget(domain_name(domain_text), entries_of(texts), bucket, None, tuple(windows))

    def named(self, domain: Domain) -> Iterator[tuple[str, ...]]:
        """Yield the texts of the buckets that rules and amendments name, and an empty tuple for each step
        without one.
        """
        for entries in _with_values(domain):
            match = domain.match(entries) if entries else None
            yield match.bucket_entries if match is not None else ()
        for amendment in self._amendments:
            target = amendment.target
            entries = exact_entries(target) if target.domain == domain.name else ()
            match = domain.match(entries) if entries else None
            yield match.bucket_entries if match is not None else ()


def _with_values(domain: Domain) -> Iterator[tuple[Entry, ...]]:
    """Yield the entries of each limited node that only one descriptor reaches, and an empty tuple for any
    other node.
    """
    pending: list[tuple[RuleNode, tuple[Entry, ...]]] = [(domain.root, ())]
    while pending:
        node, above = pending.pop()
        for below in node.children.values():
            value = below.composite[len(below.key) + 1 :]
            if not value or b"*" in below.composite:
                yield ()
                continue
            entries = (*above, Entry(below.key, value))
            pending.append((below, entries))
            yield entries if below.rule is not None and below.rule.limits else ()

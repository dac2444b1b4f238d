"""From rules to the rule that a descriptor meets.

The tree is upstream's. At each level the entry `(key, value)` is looked up by the joined `key_value`, then against the
wildcards of that level in the order of the file, then by `key` alone. There is no way back: once a node is chosen, only
what is below it counts. A rule holds only where the descriptor ends exactly at its node. Looking up costs what the depth
of the descriptor costs, whatever the number of rules.

Looking up joins with `_`, as upstream does; counters do not, so that `(a, b_c)` and `(a_b, c)` never share one.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import NamedTuple

from ..answers.statkeys import stat_level, stat_levels
from ..model import DescriptorRule, DomainRules, Entry, Rule, StatKey
from . import keys

Steps = Generator[None, None, None]
"""Work that may be interrupted wherever it yields, because others want their turn."""


class Match(NamedTuple):
    """The rule that a descriptor meets, the bucket that it counts in, and what its statistics are kept under."""

    rule: Rule
    parts: tuple[str, ...]
    stat: StatKey


class Pattern:
    """A text with `*` in it, each of which stands for any bytes, or none."""

    __slots__ = ("_first", "_last", "_middle", "_shortest")

    def __init__(self, text: bytes) -> None:
        self._first, *self._middle, self._last = text.split(b"*")
        self._shortest = len(text) - text.count(b"*")

    def matches(self, value: bytes) -> bool:
        """Whether the whole of `value` fits."""
        if len(value) < self._shortest or not (value.startswith(self._first) and value.endswith(self._last)):
            return False
        at, end = len(self._first), len(value) - len(self._last)
        for piece in self._middle:
            found = value.find(piece, at, end)
            if found < 0:
                return False
            at = found + len(piece)
        return True


class Node:
    """One descriptor of the configuration, ready for look-ups."""

    __slots__ = ("children", "composite", "level", "rule", "shares", "value_to_metric", "wildcards")

    def __init__(self, source: DescriptorRule | None = None) -> None:
        self.composite = source.composite if source else b""
        self.level = stat_level(self.composite)
        self.rule = source.rule if source else None
        self.shares = bool(source and source.share_threshold)
        self.value_to_metric = bool(source and source.value_to_metric)
        self.children: dict[bytes, Node] = {}
        self.wildcards: tuple[tuple[Pattern, Node], ...] = ()

    def grow(self, below: Iterable[DescriptorRule]) -> Steps:
        """Take in the descriptors below this one, a step for each of them."""
        wildcards: dict[bytes, tuple[Pattern, Node]] = {}
        for source in below:
            node = Node(source)
            yield from node.grow(source.children)
            name = node.composite
            self.children[name] = node
            if b"*" in name:
                wildcards[name] = Pattern(name), node
            yield
        self.wildcards = tuple(wildcards.values())

    def next(self, entry: Entry) -> Node | None:
        """The node that `entry` leads to from here."""
        joined = entry.key + b"_" + entry.value
        node = self.children.get(joined)
        if node is not None:
            return node
        for pattern, node in self.wildcards:
            if pattern.matches(joined):
                return node
        return self.children.get(entry.key)

    def pattern_for(self, entry: Entry) -> bytes:
        """What stands for the value of `entry` where all values that match this node share a bucket."""
        return self.composite.removeprefix(entry.key + b"_")


class Domain:
    """The rules of one domain, compiled, and what holds for all of them."""

    __slots__ = (
        "_root",
        "budgets",
        "deny_unmatched",
        "error_details",
        "error_format",
        "name",
        "required_keys",
        "rules",
        "zone",
    )

    def __init__(self, source: DomainRules) -> None:
        self.name = source.name
        self.deny_unmatched = source.deny_unmatched
        self.required_keys = source.required_keys
        self.budgets = source.budgets
        self.zone = source.zone
        self.error_format = source.error_format
        self.error_details = source.error_details
        self._root = Node()
        self.rules: tuple[Rule, ...] = ()

    def grow(self, descriptors: Iterable[DescriptorRule]) -> Steps:
        """Take in the descriptors of the domain."""
        yield from self._root.grow(descriptors)
        rules = []
        for node in self.nodes():
            if node.rule is not None:
                rules.append(node.rule)
            yield
        self.rules = tuple(rules)

    def nodes(self) -> Iterator[Node]:
        """All of the tree, in the order of the file, each before those below it."""
        pending = [self._root]
        while pending:
            node = pending.pop()
            yield node
            pending.extend(list(node.children.values())[::-1])

    def match(self, entries: tuple[Entry, ...]) -> Match | None:
        """The rule that a descriptor with these entries meets, or None."""
        node = self._root
        path: list[Node] = []
        for entry in entries:
            following = node.next(entry)
            if following is None:
                return None
            path.append(following)
            node = following
        rule = node.rule
        if rule is None:  # the root has none, so no entries meet nothing
            return None
        parts = tuple(
            [
                keys.shared_part(entry.key, node.composite) if node.shares else keys.part(*entry)
                for entry, node in zip(entries, path, strict=True)
            ]
        )
        return Match(rule, parts, _stat(rule, entries, path))


class RuleTree:
    """The rules of every domain, compiled. Never mutated once it is made: a reload makes a new one."""

    def __init__(self, domains: Iterable[DomainRules] = ()) -> None:
        self.domains: Mapping[str, Domain] = {}
        self.rules: tuple[Rule, ...] = ()
        for _ in self._grow(domains):
            pass

    @classmethod
    def in_steps(cls, domains: Iterable[DomainRules]) -> Generator[None, None, RuleTree]:
        """The same in steps of some microseconds, for where calls are waiting."""
        tree = cls()
        yield from tree._grow(domains)
        return tree

    def _grow(self, sources: Iterable[DomainRules]) -> Steps:
        domains = {}
        for source in sources:
            domain = domains[source.name] = Domain(source)
            yield from domain.grow(source.descriptors)
        self.domains = domains
        self.rules = tuple([rule for domain in domains.values() for rule in domain.rules])

    def match(self, domain: str, entries: tuple[Entry, ...]) -> Match | None:
        """The rule that a descriptor with these entries meets in `domain`, or None."""
        rules = self.domains.get(domain)
        return rules.match(entries) if rules is not None else None


def stat_of_entries(domain: str, entries: tuple[Entry, ...]) -> StatKey:
    """What the statistics of a limit that the request brought with it are kept under: every value as it came."""
    return StatKey(domain, stat_levels(map(_joined, entries)))


def _joined(entry: Entry) -> bytes:
    return entry.key + b"_" + entry.value if entry.value else entry.key


def _stat(rule: Rule, entries: tuple[Entry, ...], path: list[Node]) -> StatKey:
    if rule.detailed_metric:
        return StatKey(
            rule.path.domain,
            stat_levels(
                entry.key + b"_" + (node.pattern_for(entry) if node.shares else entry.value)
                for entry, node in zip(entries, path, strict=True)
            ),
        )
    if any(node.value_to_metric for node in path):
        levels = [
            stat_level(_joined(entry)) if node.value_to_metric and not node.shares else node.level
            for entry, node in zip(entries, path, strict=True)
        ]
        return StatKey(rule.path.domain, tuple(levels))
    return rule.path

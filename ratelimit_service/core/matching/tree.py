"""The tree of rules, and the rule that a descriptor matches.

The tree works as upstream's does. Each level looks up the entry `(key, value)` by the joined `key_value`,
then by the wildcards of that level in the order of the file, then by `key` alone. The search never
backtracks: after choosing a node, it continues below that node only. A rule applies only if the descriptor
ends exactly at its node. The cost grows with the depth of the descriptor, not with the number of rules.

The lookup joins key and value with `_`, as upstream does. Counter keys do not, so that `(a, b_c)` and
`(a_b, c)` never share a counter.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping

from ..amendments.index import Targets
from ..amendments.model import Amendment
from ..answers.statkeys import stat_level, stat_levels
from ..model import DescriptorRule, DomainRules, Entry, Rule, StatKey
from . import keys
from .keys import escape

Steps = Generator[None, None, None]
"""Long work in steps: it can pause at each yield, so that calls need not wait for the end."""


_NO_DIGESTS: dict[str, RuleNode] = {}
_NO_PATH = StatKey("", ())


class Match:
    """The rule that a descriptor matches, the entries of its bucket (keys.bucket), and its statistics."""

    __slots__ = ("bucket_entries", "rule", "stat")

    def __init__(self, rule: Rule, bucket_entries: tuple[str, ...], stat: StatKey) -> None:
        self.rule = rule
        self.bucket_entries = bucket_entries
        self.stat = stat


class Pattern:
    """A text in which each `*` stands for any number of bytes."""

    __slots__ = ("_first", "_last", "_middle", "_shortest")

    def __init__(self, text: bytes) -> None:
        self._first, *self._middle, self._last = text.split(b"*")
        self._shortest = len(text) - text.count(b"*")

    def matches(self, value: bytes) -> bool:
        """Return whether the pattern matches all of `value`."""
        if len(value) < self._shortest or not (value.startswith(self._first) and value.endswith(self._last)):
            return False
        at, end = len(self._first), len(value) - len(self._last)
        for piece in self._middle:
            found = value.find(piece, at, end)
            if found < 0:
                return False
            at = found + len(piece)
        return True


class RuleNode:
    """One descriptor of the configuration, ready for lookups."""

    __slots__ = (
        "_key_text",
        "children",
        "composite",
        "detailed",
        "digests",
        "key",
        "level",
        "path",
        "rule",
        "shares",
        "value_to_metric",
        "wildcards",
    )

    def __init__(self, source: DescriptorRule | None = None) -> None:
        self.key = source.key if source else b""
        self._key_text = keys.escape(self.key)
        self.composite = source.composite if source else b""
        self.level = stat_level(self.composite)
        self.rule = source.rule if source else None
        self.path = self.rule.path if self.rule else _NO_PATH
        self.detailed = self.rule is not None and self.rule.detailed_metric
        """The fields of the rule that each match needs, copied: they are found faster here."""
        self.shares = bool(source and source.share_threshold)
        self.value_to_metric = bool(source and source.value_to_metric)
        self.children: dict[bytes, RuleNode] = {}
        self.digests: dict[str, RuleNode] = _NO_DIGESTS
        """The nodes below whose key or value is so long that a digest stands for it in counter keys, by the
        digest.
        """
        self.wildcards: tuple[tuple[Pattern, RuleNode], ...] = ()

    def grow(self, below: Iterable[DescriptorRule]) -> Steps:
        """Add the descriptors below this one, one at each step."""
        wildcards: dict[bytes, tuple[Pattern, RuleNode]] = {}
        for source in below:
            node = RuleNode(source)
            yield from node.grow(source.children)
            name = node.composite
            self.children[name] = node
            if b"*" in name:
                wildcards[name] = Pattern(name), node
            for text in (source.key, source.value):
                if len(text) > keys.LONGEST:
                    if self.digests is _NO_DIGESTS:
                        self.digests = {}
                    self.digests[keys.escape(text)] = node
            yield
        self.wildcards = tuple(wildcards.values())

    def next(self, entry: Entry) -> RuleNode | None:
        """Return the node below this one that `entry` matches, or None."""
        key, value = entry
        return self.find(key, value)

    def find(self, key: bytes, value: bytes) -> RuleNode | None:
        """Return the same for the key and the value of an entry."""
        children = self.children
        joined = key + b"_" + value
        node = children.get(joined)
        if node is None:
            if self.wildcards:
                for pattern, below in self.wildcards:
                    if pattern.matches(joined):
                        return below
            node = children.get(key)
        return node

    def entry_text(self, key: bytes, value: bytes) -> str:
        """Return the text for a bucket of an entry that matches this node."""
        if self.shares:
            return keys.shared_entry_text(key, self.composite)
        if key == self.key:  # escaped before
            return f"{self._key_text}={escape(value)}"
        return keys.entry_text(key, value)

    def shared_value(self, entry: Entry) -> bytes:
        """Return the replacement for the value of `entry` in counter keys, unescaped."""
        before = entry.key + b"_"
        if self.composite.startswith(before):
            return self.composite[len(before) :]
        return b"~" + self.composite

    def pattern_for(self, entry: Entry) -> bytes:
        """Return the part of this node's wildcard that is about the value of `entry`."""
        return self.composite.removeprefix(entry.key + b"_")


class Domain:
    """The compiled rules of one domain, and its settings."""

    __slots__ = (
        "_root",
        "budgets",
        "deny_unmatched",
        "error_details",
        "error_format",
        "holds",
        "limits",
        "name",
        "name_in_keys",
        "replaces",
        "required_keys",
        "rules",
        "signals",
        "zone",
    )

    def __init__(self, source: DomainRules) -> None:
        self.name = source.name
        self.name_in_keys = keys.domain_text(source.name)
        self.deny_unmatched = source.deny_unmatched
        self.required_keys = source.required_keys
        self.budgets = source.budgets
        self.zone = source.zone
        self.error_format = source.error_format
        self.error_details = source.error_details
        self.limits: Targets | None = None
        """The limits as data; None if there are none."""
        self._root = RuleNode()
        self.rules: tuple[Rule, ...] = ()
        self.signals = False
        """Whether one of its rules has `signal`."""
        self.holds = False
        """Whether one of its rules has `hold`."""
        self.replaces = False
        """Whether one of its rules has `replaces`."""

    def grow(self, descriptors: Iterable[DescriptorRule]) -> Steps:
        """Add the descriptors of the domain, one at each step."""
        yield from self._root.grow(descriptors)
        rules = []
        for node in self.nodes():
            if node.rule is not None:
                rules.append(node.rule)
                if node.rule.signal:
                    self.signals = True
                if node.rule.hold is not None:
                    self.holds = True
                if node.rule.replaces:
                    self.replaces = True
            yield
        self.rules = tuple(rules)

    def limit(self, limits: Iterable[Amendment]) -> Steps:
        """Add limits as data, one at each step."""
        for amendment in limits:
            if self.limits is None:
                self.limits = Targets()
            self.limits.put(amendment)
            yield

    def nodes(self) -> Iterator[RuleNode]:
        """Yield every node in the order of the file, parents before children."""
        pending = [self._root]
        while pending:
            node = pending.pop()
            yield node
            pending.extend(list(node.children.values())[::-1])

    @property
    def root(self) -> RuleNode:
        """Return the node above all descriptors of the domain."""
        return self._root

    def match(self, entries: tuple[Entry, ...]) -> Match | None:
        """Return the rule that a descriptor with these entries matches, or None."""
        node = self._root
        texts: list[str] = []
        named_by_values = False
        for entry in entries:
            key, value = entry
            following = node.find(key, value)
            if following is None:
                return None
            node = following
            texts.append(node.entry_text(key, value))
            named_by_values = named_by_values or node.value_to_metric
        rule = node.rule
        if rule is None:  # the root has none, so a descriptor without entries matches nothing
            return None
        named_by_values = named_by_values or node.detailed
        return Match(rule, tuple(texts), _stat(rule, entries, self._root) if named_by_values else node.path)

    def entries_of_bucket(self, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        """Return the entries of a descriptor with the pattern for each value that shares a bucket with
        others.
        """
        node = self._root
        found: list[Entry] = []
        for entry in entries:
            following = node.next(entry)
            if following is None:
                return entries
            node = following
            found.append(Entry(entry.key, node.shared_value(entry)) if node.shares else entry)
        return tuple(found)


class RuleTree:
    """The compiled rules of every domain. Immutable: a reload makes a new tree."""

    def __init__(self, domains: Iterable[DomainRules] = ()) -> None:
        self.domains: Mapping[str, Domain] = {}
        self.rules: tuple[Rule, ...] = ()
        for _ in self._grow(domains, {}):
            pass

    @classmethod
    def in_steps(
        cls, domains: Iterable[DomainRules], compiled: Mapping[str, Domain] | None = None
    ) -> Generator[None, None, RuleTree]:
        """Compile rules in steps of some microseconds. Domains in `compiled` are used as they are."""
        tree = cls()
        yield from tree._grow(domains, compiled or {})
        return tree

    def _grow(self, sources: Iterable[DomainRules], compiled: Mapping[str, Domain]) -> Steps:
        domains = {}
        for source in sources:
            if source.name in compiled:
                domains[source.name] = compiled[source.name]
                continue
            domain = domains[source.name] = Domain(source)
            yield from domain.grow(source.descriptors)
            yield from domain.limit(source.limits)
        self.domains = domains
        self.rules = tuple([rule for domain in domains.values() for rule in domain.rules])

    def match(self, domain: str, entries: tuple[Entry, ...]) -> Match | None:
        """Return the rule that a descriptor with these entries matches in `domain`, or None."""
        rules = self.domains.get(domain)
        return rules.match(entries) if rules is not None else None


def stat_of_entries(domain: str, entries: tuple[Entry, ...]) -> StatKey:
    """Return the name of a limit override in the statistics. It contains every value of the descriptor."""
    return StatKey(domain, stat_levels(map(_joined, entries)))


def _joined(entry: Entry) -> bytes:
    return entry.key + b"_" + entry.value if entry.value else entry.key


def _stat(rule: Rule, entries: tuple[Entry, ...], root: RuleNode) -> StatKey:
    """Return the name in the statistics of a rule that is named by values."""
    path: list[RuleNode] = []
    node: RuleNode | None = root
    for entry in entries:
        assert node is not None
        node = node.next(entry)
        assert node is not None
        path.append(node)
    if rule.detailed_metric:
        return StatKey(
            rule.path.domain,
            stat_levels(
                entry.key + b"_" + (node.pattern_for(entry) if node.shares else entry.value)
                for entry, node in zip(entries, path, strict=True)
            ),
        )
    levels = [
        stat_level(_joined(entry)) if node.value_to_metric and not node.shares else node.level
        for entry, node in zip(entries, path, strict=True)
    ]
    return StatKey(rule.path.domain, tuple(levels))

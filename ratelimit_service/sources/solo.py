"""From Solo's RateLimitConfig to a configuration.

Its rules have the form of a configuration, with other names:
`rateLimit: {requestsPerUnit: 100, unit: MINUTE}`. Its `type` is not in the rules, but in the entries that the
gateway sends (`rateLimits`): TOKEN makes the rules that match these entries token budgets. Weights and sets,
which choose among matching rules, have no equivalent here and are errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..core.model import UINT32_MAX
from ..core.rules.document import Document, Kind, MappingNode, Node, ScalarNode, SequenceNode
from ..core.rules.fields import describe, quoted
from ..core.rules.hints import UNITS, amount_hint, unit_named
from ..core.text import either
from .manifest_mapping import ManifestMapping

_MANIFEST = ("apiVersion", "kind", "metadata", "spec", "status")
_RAW = ("descriptors", "rateLimits", "setDescriptors")
_DESCRIPTOR = ("key", "value", "rateLimit", "descriptors", "weight", "alwaysApply")
_RATE_LIMIT = ("requestsPerUnit", "unit", "type")

_UNITS = [unit.name for unit in UNITS]
_AMOUNTS = {"REQUEST": "requests_per_unit", "TOKEN": "tokens_per_unit"}
_TYPES = either(_AMOUNTS)

_KEYS = {
    "sourceCluster": "source_cluster",
    "destinationCluster": "destination_cluster",
    "remoteAddress": "remote_address",
    "genericKey": "generic_key",
    "headerValueMatch": "header_match",
}
"""The default keys of the entries that actions make."""

_NO_DOMAIN = (
    "a RateLimitConfig has no domain: set the domain that the gateway sends, with MANIFEST_DOMAIN or --domain"
)
_NO_WEIGHT = (
    "must be removed: there are no weights here, because only the best matching rule counts a descriptor"
)
_NO_ALWAYS = "must be removed: the best matching rule always applies here"
_NO_SETS = (
    "must be removed: entries are ordered here, so write sets as descriptors, nested in the gateway's order"
)
_GATEWAYS_SIDE = "only `type` is read from this list: configure in the gateway what it sends"


def documents(manifest: ManifestMapping, file: str, domain: str) -> list[Document]:
    """Return a RateLimitConfig as a configuration of `domain`; none if it cannot be read."""
    spec = manifest.only(_MANIFEST).child("spec")
    raw = spec.only(("raw",)).child("raw") if spec else None
    if not domain:
        manifest.problem(manifest.line, manifest.path, _NO_DOMAIN)
    if manifest.node("spec") is None:
        manifest.error("spec", "is missing: it has the rules, under raw.descriptors")
    elif spec and spec.node("raw") is None:
        spec.error("raw", "is missing: it has the rules, under descriptors")
    if raw is None or not domain:
        return []
    return [Document(file, _Reader(raw.only(_RAW)).configuration(domain), path=raw.path, line=raw.line)]


class _EntryPattern(NamedTuple):
    """An entry of a rule, or one that the gateway sends. None means that the request determines it."""

    key: str | None
    value: str | None

    def may_match(self, rule: _EntryPattern) -> bool:
        """Return whether an entry that the gateway sends may match an entry of a rule."""
        any_value = not rule.value or "*" in rule.value
        return self.key in (None, rule.key) and (any_value or self.value in (None, rule.value))


class _Sent(NamedTuple):
    """An item of `rateLimits`: the entries that the gateway sends, and their type."""

    entries: tuple[_EntryPattern, ...]
    type: str

    def may_match(self, path: Sequence[_EntryPattern]) -> bool:
        """Return whether the rule at `path` may match these entries."""
        return len(self.entries) == len(path) and all(map(_EntryPattern.may_match, self.entries, path))


class _Reader:
    """Reads one RateLimitConfig."""

    def __init__(self, raw: ManifestMapping) -> None:
        self._raw = raw
        self._sent = set(_sent(raw))
        self._types = {sent.type for sent in self._sent}

    def configuration(self, domain: str) -> MappingNode:
        """Return the root of the configuration."""
        raw = self._raw
        if raw.given("setDescriptors"):
            raw.error("setDescriptors", _NO_SETS)
        if raw.given("rateLimits"):
            raw.warn("rateLimits", _GATEWAYS_SIDE)
        return _mapping(
            raw.line,
            domain=ScalarNode(raw.line, Kind.STRING, domain, domain),
            descriptors=self._descriptors(raw, ()),
        )

    def _descriptors(self, mapping: ManifestMapping, above: tuple[_EntryPattern, ...]) -> SequenceNode | None:
        items: list[Node] = [
            self._descriptor(item.only(_DESCRIPTOR), above) for item in mapping.children("descriptors")
        ]
        return SequenceNode(mapping.line_of("descriptors"), items) if items else None

    def _descriptor(self, mapping: ManifestMapping, above: tuple[_EntryPattern, ...]) -> MappingNode:
        if mapping.given("weight"):
            mapping.error("weight", _NO_WEIGHT)
        if mapping.given("alwaysApply"):
            mapping.error("alwaysApply", _NO_ALWAYS)
        key, value = mapping.node("key"), mapping.node("value")
        path = (*above, _EntryPattern(_text(key), _text(value)))
        if "*" in (path[-1].value or ""):
            mapping.warn("value", "'*' stands for any text here")
        limit = mapping.child("rateLimit")
        return _mapping(
            mapping.line,
            key=key,
            value=value,
            rate_limit=self._rate_limit(limit.only(_RATE_LIMIT), path) if limit else None,
            descriptors=self._descriptors(mapping, path),
        )

    def _rate_limit(self, limit: ManifestMapping, path: Sequence[_EntryPattern]) -> MappingNode | None:
        unit = limit.text("unit")
        if unit is not None and unit.upper() not in _UNITS:
            what = f"unknown unit {quoted(unit)}" if unit else "is missing"
            meant = unit_named(unit)
            hint = f"did you mean {meant.name!r}?" if meant else f"use one of {', '.join(_UNITS)}"
            limit.error("unit", f"{what}: {hint}")
            unit = None
        amount = limit.node("requestsPerUnit")
        if amount is None:
            limit.warn("requestsPerUnit", "is missing and read as 0: every request is over the limit")
            amount = ScalarNode(limit.line, Kind.INT, "0", 0)
        elif not (
            isinstance(amount, ScalarNode) and amount.kind is Kind.INT and 0 <= amount.value <= UINT32_MAX
        ):
            hint = amount_hint(amount, 0, UINT32_MAX, endless=False) if isinstance(amount, ScalarNode) else ""
            message = f"must be a whole number from 0 to {UINT32_MAX}, not {describe(amount)}"
            limit.error("requestsPerUnit", f"{message}: {hint}" if hint else message)
            amount = None
        kind = self._type(limit, path)
        if not unit or not amount or not kind:
            return None
        name = ScalarNode(limit.line_of("unit"), Kind.STRING, unit.lower(), unit.lower())
        return _mapping(limit.line, unit=name, **{_AMOUNTS[kind]: amount})

    def _type(self, limit: ManifestMapping, path: Sequence[_EntryPattern]) -> str | None:
        """Return the type of a rule: its own, or that of entries that may match it; None after an error."""
        own = limit.text("type")
        if own != "":
            if own is not None and own not in _AMOUNTS:
                limit.error("type", f"must be {_TYPES}, not {quoted(own)}")
            return own if own in _AMOUNTS else None
        if len(self._types) < 2:
            return next(iter(self._types), "REQUEST")
        matching = {sent.type for sent in self._sent if sent.may_match(path)}
        if len(matching) == 1:
            return matching.pop()
        what = (
            "entries of both types match"
            if matching
            else "rateLimits has both types, and no entry of it matches"
        )
        limit.error("type", f"{what} this rule: set its type to {_TYPES}")
        return None


def _sent(raw: ManifestMapping) -> Iterator[_Sent]:
    for item in raw.children("rateLimits"):
        kind = item.text("type")
        if kind and kind not in _AMOUNTS:
            item.error("type", f"must be {_TYPES}, not {quoted(kind)}")
        elif kind is not None:
            actions = item.node("actions")
            entries = map(_entry, actions.items) if isinstance(actions, SequenceNode) else ()
            yield _Sent(tuple(entries), kind or "REQUEST")


def _entry(action: Node) -> _EntryPattern:
    """Return the entry of an action: `genericKey: {descriptorValue: gold}` makes generic_key=gold."""
    if not isinstance(action, MappingNode) or len(action.items) != 1:
        return _EntryPattern(None, None)
    [(name, node)] = action.items
    fields = {key.text: _text(value) for key, value in node.items} if isinstance(node, MappingNode) else {}
    key = fields.get("descriptorKey") or fields.get("key") or _KEYS.get(name.text)
    return _EntryPattern(key, fields.get("descriptorValue"))


def _text(node: Node | None) -> str | None:
    return node.text if isinstance(node, ScalarNode) else None


def _mapping(line: int, **nodes: Node | None) -> MappingNode:
    """Return a mapping of the nodes that are not None."""
    return MappingNode(
        line,
        [(ScalarNode(node.line, Kind.STRING, name, name), node) for name, node in nodes.items() if node],
    )

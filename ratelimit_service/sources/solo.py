"""Solo's RateLimitConfig -> a configuration.

Its rules are those of a configuration under other names: `rateLimit: {requestsPerUnit: 100, unit: MINUTE}`. Its `type` stands
apart from them, at the entries that the gateway is to send (`rateLimits`): TOKEN makes the rules that these reach budgets of
tokens. What chooses among the rules that match (weights, sets) has no like here and is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..core.model import UINT32_MAX
from ..core.rules.document import Document, Kind, Mapping, Node, Scalar
from ..core.rules.document import Sequence as SequenceNode
from ..core.rules.fields import describe, quoted
from ..core.rules.hints import UNITS, amount_hint, unit_named
from .manifest_parts import Part

_MANIFEST = ("apiVersion", "kind", "metadata", "spec", "status")
_RAW = ("descriptors", "rateLimits", "setDescriptors")
_DESCRIPTOR = ("key", "value", "rateLimit", "descriptors", "weight", "alwaysApply")
_RATE_LIMIT = ("requestsPerUnit", "unit", "type")

_UNITS = [unit.name for unit in UNITS]
_AMOUNTS = {"REQUEST": "requests_per_unit", "TOKEN": "tokens_per_unit"}
_TYPES = " or ".join(_AMOUNTS)

_KEYS = {
    "sourceCluster": "source_cluster",
    "destinationCluster": "destination_cluster",
    "remoteAddress": "remote_address",
    "genericKey": "generic_key",
    "headerValueMatch": "header_match",
}
"""The keys of the entries that actions make, where an action does not say another."""

_NO_DOMAIN = (
    "a RateLimitConfig has no domain: give the one that the gateway sends, with MANIFEST_DOMAIN or --domain"
)
_NO_WEIGHT = "must be removed: the rule that fits a descriptor best is the one that counts it here, there are no weights"
_NO_ALWAYS = "must be removed: the rule that fits a descriptor best always applies here"
_NO_SETS = "must be removed: entries have an order here, so write sets as descriptors, nested as the gateway sends them"
_GATEWAYS_SIDE = "what the gateway sends is set up in the gateway: of this, only `type` is read here"


def documents(manifest: Part, file: str, domain: str) -> list[Document]:
    """The configuration that a RateLimitConfig is for `domain`, which it does not name; none where it cannot be read."""
    spec = manifest.only(_MANIFEST).part("spec")
    raw = spec.only(("raw",)).part("raw") if spec else None
    if not domain:
        manifest.problem(manifest.line, manifest.path, _NO_DOMAIN)
    if manifest.node("spec") is None:
        manifest.error("spec", "is missing: it has the rules, under raw.descriptors")
    elif spec and spec.node("raw") is None:
        spec.error("raw", "is missing: it has the rules, under descriptors")
    if raw is None or not domain:
        return []
    return [Document(file, _Reader(raw.only(_RAW)).configuration(domain), path=raw.path, line=raw.line)]


class _Entry(NamedTuple):
    """An entry that the gateway sends, or that a rule asks for. None is what a request alone can tell, or any."""

    key: str | None
    value: str | None

    def reaches(self, rule: _Entry) -> bool:
        """Whether an entry that is sent may match one of a rule."""
        any_value = not rule.value or "*" in rule.value
        return self.key in (None, rule.key) and (any_value or self.value in (None, rule.value))


class _Sent(NamedTuple):
    """The entries of an item of `rateLimits`, and its type."""

    entries: tuple[_Entry, ...]
    type: str

    def reaches(self, path: Sequence[_Entry]) -> bool:
        """Whether the rule at `path` may match what is sent."""
        return len(self.entries) == len(path) and all(map(_Entry.reaches, self.entries, path))


class _Reader:
    """Reads one RateLimitConfig."""

    def __init__(self, raw: Part) -> None:
        self._raw = raw
        self._sent = set(_sent(raw))
        self._types = {sent.type for sent in self._sent}

    def configuration(self, domain: str) -> Mapping:
        """The root of the configuration."""
        raw = self._raw
        if raw.given("setDescriptors"):
            raw.error("setDescriptors", _NO_SETS)
        if raw.given("rateLimits"):
            raw.warn("rateLimits", _GATEWAYS_SIDE)
        return _mapping(
            raw.line,
            domain=Scalar(raw.line, Kind.STRING, domain, domain),
            descriptors=self._descriptors(raw, ()),
        )

    def _descriptors(self, part: Part, above: tuple[_Entry, ...]) -> SequenceNode | None:
        items: list[Node] = [
            self._descriptor(item.only(_DESCRIPTOR), above) for item in part.parts("descriptors")
        ]
        return SequenceNode(part.line_of("descriptors"), items) if items else None

    def _descriptor(self, part: Part, above: tuple[_Entry, ...]) -> Mapping:
        if part.given("weight"):
            part.error("weight", _NO_WEIGHT)
        if part.given("alwaysApply"):
            part.error("alwaysApply", _NO_ALWAYS)
        key, value = part.node("key"), part.node("value")
        path = (*above, _Entry(_text(key), _text(value)))
        if "*" in (path[-1].value or ""):
            part.warn("value", "'*' stands for any text here")
        limit = part.part("rateLimit")
        return _mapping(
            part.line,
            key=key,
            value=value,
            rate_limit=self._rate_limit(limit.only(_RATE_LIMIT), path) if limit else None,
            descriptors=self._descriptors(part, path),
        )

    def _rate_limit(self, limit: Part, path: Sequence[_Entry]) -> Mapping | None:
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
            amount = Scalar(limit.line, Kind.INT, "0", 0)
        elif not (isinstance(amount, Scalar) and amount.kind is Kind.INT and 0 <= amount.value <= UINT32_MAX):
            hint = amount_hint(amount, 0, UINT32_MAX, endless=False) if isinstance(amount, Scalar) else ""
            message = f"must be a whole number from 0 to {UINT32_MAX}, not {describe(amount)}"
            limit.error("requestsPerUnit", f"{message}: {hint}" if hint else message)
            amount = None
        kind = self._type(limit, path)
        if not unit or not amount or not kind:
            return None
        name = Scalar(limit.line_of("unit"), Kind.STRING, unit.lower(), unit.lower())
        return _mapping(limit.line, unit=name, **{_AMOUNTS[kind]: amount})

    def _type(self, limit: Part, path: Sequence[_Entry]) -> str | None:
        """The type of a rule: its own, or that of what reaches it. None where there is none, which is reported."""
        own = limit.text("type")
        if own != "":
            if own is not None and own not in _AMOUNTS:
                limit.error("type", f"must be {_TYPES}, not {quoted(own)}")
            return own if own in _AMOUNTS else None
        if len(self._types) < 2:
            return next(iter(self._types), "REQUEST")
        reaching = {sent.type for sent in self._sent if sent.reaches(path)}
        if len(reaching) == 1:
            return reaching.pop()
        what = (
            "entries of both types reach" if reaching else "rateLimits has both types, and none of it reaches"
        )
        limit.error("type", f"{what} this rule: say here which it is, {_TYPES}")
        return None


def _sent(raw: Part) -> Iterator[_Sent]:
    for item in raw.parts("rateLimits"):
        kind = item.text("type")
        if kind and kind not in _AMOUNTS:
            item.error("type", f"must be {_TYPES}, not {quoted(kind)}")
        elif kind is not None:
            actions = item.node("actions")
            entries = map(_entry, actions.items) if isinstance(actions, SequenceNode) else ()
            yield _Sent(tuple(entries), kind or "REQUEST")


def _entry(action: Node) -> _Entry:
    """The entry that an action makes: `genericKey: {descriptorValue: gold}` makes generic_key=gold."""
    if not isinstance(action, Mapping) or len(action.items) != 1:
        return _Entry(None, None)
    [(name, node)] = action.items
    says = {key.text: _text(value) for key, value in node.items} if isinstance(node, Mapping) else {}
    key = says.get("descriptorKey") or says.get("key") or _KEYS.get(name.text)
    return _Entry(key, says.get("descriptorValue"))


def _text(node: Node | None) -> str | None:
    return node.text if isinstance(node, Scalar) else None


def _mapping(line: int, **nodes: Node | None) -> Mapping:
    """A mapping of those nodes that are there."""
    return Mapping(
        line,
        [(Scalar(node.line, Kind.STRING, name, name), node) for name, node in nodes.items() if node],
    )

"""Documents -> validated rules: what the configuration language means.

The language is upstream's, exactly: what it accepts is accepted here, and means the same. What it accepts although it is
surely a mistake is a warning. All errors of all files are found and told together; one mistake is one message, so what
cannot be judged because of another error is left alone.

Ours beyond upstream: `unit_multiplier` in a rate_limit, so that `unit: minute, unit_multiplier: 15` is a quarter of an hour.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .document import Document, Kind, Mapping, Scalar
from .errors import InvalidRules, Problem
from .model import UINT32_MAX, DescriptorRule, DomainRules, Limit, Rule, StatKey, Unit, Window
from .reading import Fields, Level, Report, describe, quoted
from .statkeys import stat_level

UNITS = (Unit.SECOND, Unit.MINUTE, Unit.HOUR, Unit.DAY, Unit.WEEK, Unit.MONTH, Unit.YEAR)

_UNIT_NAMES = ", ".join(unit.name.lower() for unit in UNITS)
_LIMIT_ONLY = ("shadow_mode", "quota_mode", "detailed_metric")


class Loaded(NamedTuple):
    """The rules of all domains, in the order in which the documents name them, and what is surely a mistake in them."""

    domains: tuple[DomainRules, ...]
    warnings: tuple[Problem, ...]


def load(documents: Sequence[Document], *, merge_domains: bool = False) -> Loaded:
    """The rules that `documents` say, in their order; raises InvalidRules with every error of all of them.

    With `merge_domains` (MERGE_DOMAIN_CONFIG) several documents may name one domain: their descriptors are siblings, those
    of an earlier document first.
    """
    report = Report()
    domains: dict[str, _Domain] = {}
    for document in documents:
        for warning in document.warnings:
            report.warn(warning)
        _Reader(document.file, report).file(document, domains, merge_domains)
    if not report.failed:
        for domain in domains.values():
            domain.warn_of_strangers()
    problems, warnings = report.told(document.file for document in documents)
    if problems:
        raise InvalidRules(problems, warnings)
    return Loaded(
        tuple(
            [
                DomainRules(domain.name, tuple(domain.descriptors), source=domain.source)
                for domain in domains.values()
            ]
        ),
        warnings,
    )


def header_text(name: str) -> str:
    """`name` as it can stand between the quotes of Envoy's x-ratelimit headers, which nobody else escapes."""
    return "".join([char if " " <= char <= "~" and char not in '"\\' else "_" for char in name])


class _Domain:
    """A domain while its documents are read."""

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.source = source
        self.descriptors: list[DescriptorRule] = []
        self.siblings: dict[bytes, str] = {}
        self.names: set[str] = set()
        self.replaced: list[tuple[str, Fields]] = []

    def warn_of_strangers(self) -> None:
        """Warns where a `replaces` names what no rate_limit of the domain is called."""
        for name, fields in self.replaced:
            if name not in self.names:
                fields.warn(
                    "name", f"no rate_limit of domain {quoted(self.name)} has the name {quoted(name)}"
                )


class _Reader:
    """Reads one document."""

    def __init__(self, file: str, report: Report) -> None:
        self._file = file
        self._report = report
        self._domain = _Domain("", "")

    def file(self, document: Document, domains: dict[str, _Domain], merge_domains: bool) -> None:
        """Adds what `document` says to `domains`."""
        if document.extra_documents:
            message = (
                "only the first document of a file is read: move what begins here into a file of its own"
            )
            self._report.warn(Problem(self._file, document.extra_documents, document.path, message))
        root = document.root
        if isinstance(root, Mapping):
            fields = Fields(self._report, self._file, Level.FILE, document.path, root)
        elif root is None or (isinstance(root, Scalar) and root.kind is Kind.NULL):
            message = "the file is empty: it must have a domain and descriptors"
            self._report.error(Problem(self._file, document.line, document.path, message))
            return
        else:
            message = f"must be a mapping with a domain and descriptors, not {describe(root)}"
            self._report.error(Problem(self._file, root.line, document.path, message))
            return
        self._domain = self._enter(fields, domains, merge_domains)
        descriptors = fields.mappings("descriptors", Level.DESCRIPTOR)
        self._domain.descriptors += self._descriptors(descriptors, self._domain.siblings, ())

    def _enter(self, fields: Fields, domains: dict[str, _Domain], merge_domains: bool) -> _Domain:
        """The domain that the document is about; one that nobody will see where its name is wrong."""
        name = fields.text("domain")
        if name == "":
            fields.error(
                "domain",
                "is missing or empty: it must be the domain that the gateway sends, such as 'domain: token-budgets'",
            )
        here = self._source(fields.line_of("domain"))
        fresh = _Domain(name or "", here)
        if not name:
            return fresh
        if name not in domains:
            domains[name] = fresh
        elif not merge_domains:
            message = f"{quoted(name)} has its rules at {domains[name].source} already: put them together into one file"
            fields.error("domain", message + ", or set MERGE_DOMAIN_CONFIG=true")
            return fresh
        return domains[name]

    def _descriptors(
        self, items: list[Fields], siblings: dict[bytes, str], above: tuple[str, ...]
    ) -> tuple[DescriptorRule, ...]:
        return tuple([self._descriptor(fields, siblings, above) for fields in items])

    def _descriptor(
        self, fields: Fields, siblings: dict[bytes, str], above: tuple[str, ...]
    ) -> DescriptorRule:
        source = self._source(fields.line)
        key, value = fields.raw_text("key"), fields.raw_text("value")
        if key == "":
            fields.error(
                "key", "is missing or empty: every descriptor needs the key of an entry, such as 'key: team'"
            )
        named = DescriptorRule(_bytes(key or ""), _bytes(value or ""))
        path = (*above, stat_level(named.composite))
        share_threshold = fields.flag("share_threshold")
        if key and value is not None:
            self._check_duplicate(fields, named.composite, siblings, source)
            if share_threshold and b"*" not in named.composite:
                fields.error(
                    "share_threshold",
                    "is for values that match a wildcard: give this descriptor a value with '*'",
                )
        rule = self._rule(fields, path, source)
        return DescriptorRule(
            named.key,
            named.value,
            rule,
            self._descriptors(fields.mappings("descriptors", Level.DESCRIPTOR), {}, path),
            share_threshold=bool(share_threshold),
            value_to_metric=bool(fields.flag("value_to_metric")),
            source=source,
        )

    def _check_duplicate(
        self, fields: Fields, composite: bytes, siblings: dict[bytes, str], source: str
    ) -> None:
        if composite not in siblings:
            siblings[composite] = source
            return
        shown = quoted(composite.decode("utf-8", "surrogateescape"))
        fields.error(
            "",
            f"{shown} (key, or key_value) stands at {siblings[composite]} already: siblings must differ in it",
        )

    def _rule(self, fields: Fields, path: tuple[str, ...], source: str) -> Rule | None:
        flags = {name: bool(fields.flag(name)) for name in _LIMIT_ONLY}
        metadata = fields.struct("metadata")
        limit = fields.mapping("rate_limit", Level.RATE_LIMIT)
        if limit is None:
            if not fields.given("rate_limit"):
                for name in (
                    *(name for name, on in flags.items() if on),
                    *(["metadata"] if metadata else []),
                ):
                    fields.warn(name, "has no effect: this descriptor has no rate_limit")
            return None
        return self._limited(limit, path, source, flags, metadata)

    def _limited(
        self,
        limit: Fields,
        path: tuple[str, ...],
        source: str,
        flags: dict[str, bool],
        metadata: dict[str, Any] | None,
    ) -> Rule:
        name = limit.text("name")
        unlimited = limit.flag("unlimited")
        amount = limit.whole("requests_per_unit", 0, UINT32_MAX, absent=0)
        multiplier = limit.whole("unit_multiplier", 1, UINT32_MAX, absent=1)
        unit = self._unit(limit, unlimited)
        if unlimited is False and not limit.given("requests_per_unit"):
            limit.warn("requests_per_unit", "is missing and read as 0: every request is over the limit")
        limits: tuple[Limit, ...] = ()
        if unit and amount is not None and multiplier is not None:
            limits = (Limit(amount, Window(unit, multiplier), header_text(name or "")),)
        if name:
            self._domain.names.add(name)
        return Rule(
            path=StatKey(self._domain.name, path),
            limits=limits,
            unlimited=bool(unlimited),
            name=name or "",
            replaces=self._replaces(limit, name),
            shadow=flags["shadow_mode"],
            quota=flags["quota_mode"],
            detailed_metric=flags["detailed_metric"],
            metadata=metadata,
            source=source,
        )

    def _unit(self, limit: Fields, unlimited: bool | None) -> Unit | None:
        """The unit of the window, or None where there is none to count in."""
        text = limit.text("unit")
        if text is None or unlimited is None:
            return None
        unit = Unit.__members__.get(text.upper(), Unit.UNKNOWN)
        if unlimited:
            if unit:
                limit.error("unit", "must not stand beside unlimited: remove one of them")
            elif text:
                limit.warn(
                    "unit", f"{quoted(text)} is no unit, and has no effect beside unlimited: remove it"
                )
            if limit.given("unit_multiplier"):
                limit.error("unit_multiplier", "must not stand beside unlimited: remove one of them")
            if limit.given("requests_per_unit"):
                limit.warn("requests_per_unit", "has no effect beside unlimited: remove one of them")
        elif not text:
            limit.error("unit", f"is missing: use one of {_UNIT_NAMES}")
        elif not unit:
            limit.error("unit", f"unknown unit {quoted(text)}: use one of {_UNIT_NAMES}")
        return None if unlimited else unit or None

    def _replaces(self, limit: Fields, own: str | None) -> frozenset[str]:
        names = set()
        for fields in limit.mappings("replaces", Level.REPLACES):
            name = fields.text("name")
            if name == "":
                fields.error("name", "is missing or empty: it must be the name of another rate_limit")
            elif name and name == own:
                fields.error(
                    "name", f"{quoted(name)} is the name of this rate_limit itself: name another one"
                )
            elif name:
                names.add(name)
                self._domain.replaced.append((name, fields))
        return frozenset(names)

    def _source(self, line: int) -> str:
        return f"{self._file}:{line}" if line else self._file


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")

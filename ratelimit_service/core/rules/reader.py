"""From documents to validated rules: the meaning of the configuration language.

The language includes upstream's: whatever upstream accepts means the same here, with a warning if it is
certainly a mistake. One load reports all errors of all files. One mistake is one message, so nothing is
checked that depends on another error.

Beyond upstream, there are budgets (`tokens_per_unit`), several limits on one descriptor (`rate_limits`),
windows of N units, calendar windows, and more keys of rules and files (vocabulary.py has every key).
"""

from __future__ import annotations

from collections.abc import Sequence

from ..answers.statkeys import stat_level
from ..errors import InvalidRules, Problem
from ..model import DescriptorRule, Rule, StatKey
from .charges import KEYS as CHARGE_KEYS
from .charges import read_max_charge
from .data import read_data
from .document import Document, Kind, MappingNode, ScalarNode
from .domain import ReadDomain, as_bytes, enter, source_of
from .fields import Fields, describe, quoted
from .holds import KEYS as HOLD_KEYS
from .holds import read_hold
from .ledger import KEYS as LEDGER_KEYS
from .ledger import read_ledger
from .limits import Defaults, ReadLimit, check_together, read_limit
from .loaded import Loaded
from .notify import KEYS as NOTIFY_KEYS
from .notify import read_notify
from .prices import read_price
from .refusals import CHOICES, read_message
from .report import Report
from .signals import KEYS as SIGNAL_KEYS
from .signals import read_signal
from .vocabulary import Level

MOST_LIMITS = 16
"""The most limits of one descriptor."""

_MOST_THRESHOLDS = 10

_FLAGS = ("shadow_mode", "quota_mode", "detailed_metric")
_BESIDE_LIMITS = (
    "count_refused",
    *CHARGE_KEYS,
    *HOLD_KEYS,
    *LEDGER_KEYS,
    *SIGNAL_KEYS,
    *NOTIFY_KEYS,
    "warn_at",
    "track",
    "denial_message",
    "limit_headers",
    *CHOICES,
)
"""The keys of a descriptor that have no effect without limits."""

_LIMIT_HEADERS = {"always": False, "on_refusal": True}
_BUDGET_DOMAINS = "BUDGET_DOMAINS"


def load(
    documents: Sequence[Document],
    *,
    merge_domains: bool = False,
    budget_domains: frozenset[str] = frozenset(),
    several: bool = False,
) -> Loaded:
    """Return the rules of `documents`, in their order. Raises InvalidRules with all errors of all documents.

    With `merge_domains` (MERGE_DOMAIN_CONFIG), several documents may have one domain. Their descriptors
    become siblings, in the order of the documents, and a setting in one document is that of the domain. In
    `budget_domains` (BUDGET_DOMAINS), every limit is a budget. With `several` loads, these domains may be
    part of another load.
    """
    report = Report()
    domains: dict[str, ReadDomain] = {}
    readers = []
    tables = [document for document in documents if document.rows is not None]
    for document in documents:
        for warning in document.warnings:
            report.warn(warning)
        if document.rows is not None:
            continue
        fields = _root(document, report)
        if fields is not None:
            domain = enter(document.file, fields, domains, merge_domains, budget_domains)
            readers.append(_Reader(document.file, fields, domain))
    for reader in readers:  # after the settings of all domains
        reader.descriptors()
    rules = {name: domain.descriptors for name, domain in domains.items()}
    for name, limits in read_data(tables, rules, report).items():
        domains[name].limits = limits
    if not report.failed:
        for domain in domains.values():
            domain.warn()
        for name in () if several else sorted(budget_domains - domains.keys()):
            message = f"no file has the domain {quoted(name)}: name a domain of the files"
            report.warn(Problem(_BUDGET_DOMAINS, 0, "", message))
    problems, warnings = report.in_order([*(document.file for document in documents), _BUDGET_DOMAINS])
    if problems:
        raise InvalidRules(problems, warnings)
    return Loaded(tuple([domain.rules() for domain in domains.values()]), warnings)


def _root(document: Document, report: Report) -> Fields | None:
    """Return the fields at the top of a document, or None after reporting that there are none."""
    if document.extra_documents:
        message = "only the first document of a file is read: move this one into a file of its own"
        report.warn(Problem(document.file, document.extra_documents, document.path, message))
    root = document.root
    if isinstance(root, MappingNode):
        return Fields(report, document.file, Level.FILE, document.path, root)
    if root is None or (isinstance(root, ScalarNode) and root.kind is Kind.NULL):
        message = "the file is empty: it must have a domain and descriptors"
        report.error(Problem(document.file, document.line, document.path, message))
    else:
        message = f"must be a mapping with a domain and descriptors, not {describe(root)}"
        report.error(Problem(document.file, root.line, document.path, message))
    return None


class _Reader:
    """Reads the descriptors of one document."""

    def __init__(self, file: str, root: Fields, domain: ReadDomain) -> None:
        self._file = file
        self._root = root
        self._domain = domain

    def descriptors(self) -> None:
        """Add the descriptors to those of the domain."""
        items = self._root.mappings("descriptors", Level.DESCRIPTOR)
        self._domain.descriptors += self._descriptors(items, self._domain.siblings, ())

    def _descriptors(
        self, items: list[Fields], siblings: dict[bytes, str], above: tuple[str, ...]
    ) -> tuple[DescriptorRule, ...]:
        return tuple([self._descriptor(fields, siblings, above) for fields in items])

    def _descriptor(
        self, fields: Fields, siblings: dict[bytes, str], above: tuple[str, ...]
    ) -> DescriptorRule:
        source = source_of(self._file, fields)
        key, value = fields.raw_text("key"), fields.raw_text("value")
        if key == "":
            fields.missing(
                "key", "is missing or empty: every descriptor needs the key of an entry, such as 'key: team'"
            )
        fields.warn_of_looks("key", key or "")
        fields.warn_of_looks("value", value or "")
        named = DescriptorRule(as_bytes(key or ""), as_bytes(value or ""))
        path = (*above, stat_level(named.composite))
        share_threshold = fields.flag("share_threshold")
        if key and value is not None and not (fields.unclear and not value):
            self._check_duplicate(fields, named.composite, siblings, source)
            if share_threshold and b"*" not in named.composite:
                fields.error(
                    "share_threshold",
                    "is for values that match a wildcard: give this descriptor a value with '*'",
                )
        rule = self._rule(fields, path, source)
        descriptor = DescriptorRule(
            named.key,
            named.value,
            rule,
            self._descriptors(fields.mappings("descriptors", Level.DESCRIPTOR), {}, path),
            share_threshold=bool(share_threshold),
            value_to_metric=bool(fields.flag("value_to_metric")),
            source=source,
        )
        if descriptor.value:
            self._domain.written[id(descriptor)] = fields
        return descriptor

    def _check_duplicate(
        self, fields: Fields, composite: bytes, siblings: dict[bytes, str], source: str
    ) -> None:
        if composite not in siblings:
            siblings[composite] = source
            return
        shown = quoted(composite.decode("utf-8", "surrogateescape"))
        fields.error(
            "",
            f"{shown} (key, or key_value) is already defined at {siblings[composite]}: "
            "siblings must differ in it",
        )

    def _rule(self, fields: Fields, path: tuple[str, ...], source: str) -> Rule | None:
        flags = {name: bool(fields.flag(name)) for name in (*_FLAGS, "count_refused", "track")}
        metadata = fields.struct("metadata")
        warn_at = fields.shares("warn_at", _MOST_THRESHOLDS)
        refusals = {
            name: fields.choice(name, CHOICES[name]) or self._domain.refusals[name] for name in CHOICES
        }
        denial_message = read_message(fields, refusals["error_details"])
        limit_headers = fields.choice("limit_headers", _LIMIT_HEADERS)
        low_at = fields.share("low_at") or self._domain.low_at
        notify = read_notify(fields) if fields.given("notify") else self._domain.notify
        limits = self._limits(fields)
        if not limits:
            if not fields.given("rate_limit") and not fields.given("rate_limits") and not fields.unclear:
                without_effect = [name for name in _FLAGS if flags[name]]
                without_effect += ["metadata"] if metadata else []
                without_effect += [name for name in _BESIDE_LIMITS if fields.given(name)]
                for name in without_effect:
                    fields.warn(name, "has no effect: this descriptor has no rate_limit")
            return None
        unlimited = limits[0].unlimited
        if unlimited:
            for name in filter(fields.given, _BESIDE_LIMITS):
                fields.warn(name, "has no effect beside unlimited: remove one of them")
        name = next((limit.name for limit in limits if limit.name), "")
        if name:
            self._domain.names.add(name)
        budget = not unlimited and (self._domain.budgets or limits[0].amount_key == "tokens_per_unit")
        # A refusal by the minute must not use up the day. A charge on a budget always counts.
        count_by_default = budget or not fields.given("rate_limits")
        max_charge, refuse_larger = read_max_charge(fields, budget=budget)
        of_windows = [limit.limit for limit in limits if limit.limit is not None]
        requests = not budget and limits[0].amount_key == "requests_per_unit"
        refuses = not (flags["shadow_mode"] or flags["quota_mode"])
        hold = None if unlimited else read_hold(fields, of_windows, requests=requests, refuses=refuses)
        ledger, signal = None, 0
        if not unlimited:
            signal = read_signal(fields, self._domain.signal, requests=requests, budget=budget)
            ledger = read_ledger(fields, of_windows, self._domain.zone, requests=requests)
        return Rule(
            path=StatKey(self._domain.name, path),
            limits=tuple(of_windows),
            unlimited=unlimited,
            name=name,
            replaces=self._replaces(limits[0].fields, name),
            shadow=flags["shadow_mode"],
            quota=flags["quota_mode"],
            detailed_metric=flags["detailed_metric"],
            metadata=metadata,
            budget=budget,
            count_refused=flags["count_refused"] if fields.given("count_refused") else count_by_default,
            warn_at=warn_at,
            track=flags["track"],
            denial_message=denial_message,
            limit_on_refusal_only=_LIMIT_HEADERS[limit_headers or "always"],
            error_format=refusals["error_format"],
            error_details=refusals["error_details"],
            max_charge=max_charge,
            refuse_larger=refuse_larger,
            hold=hold,
            ledger=ledger,
            price=None if unlimited else read_price(fields),
            signal=signal,
            low_at=low_at,
            notify=notify,
            source=source,
        )

    def _limits(self, fields: Fields) -> list[ReadLimit]:
        """Return the limits of `rate_limit` or `rate_limits`; empty if there is none to read."""
        defaults = Defaults(self._domain.zone, self._domain.budgets)
        limit = fields.mapping("rate_limit", Level.RATE_LIMIT)
        # A list under rate_limit is an error already. Errors in the list are reported with it.
        under = "rate_limit" if fields.is_list("rate_limit") else "rate_limits"
        items = fields.mappings(under, Level.RATE_LIMITS, MOST_LIMITS)
        if fields.given("rate_limit") and fields.given("rate_limits"):
            fields.error("rate_limits", "cannot be combined with rate_limit: move that limit into the list")
        limits = [read_limit(item, defaults, in_list=True) for item in items]
        check_together(limits)
        return limits if limit is None else [read_limit(limit, defaults, in_list=False)]

    def _replaces(self, limit: Fields, own: str | None) -> frozenset[str]:
        names = set()
        for fields in limit.mappings("replaces", Level.REPLACES):
            name = fields.text("name")
            if name == "":
                fields.missing("name", "is missing or empty: it must be the name of another rate_limit")
            elif name and name == own:
                fields.error(
                    "name", f"{quoted(name)} is the name of this rate_limit itself: name another one"
                )
            elif name:
                names.add(name)
                self._domain.replaced.append((name, fields))
        return frozenset(names)

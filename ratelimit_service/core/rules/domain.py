"""A domain while its documents are being read: its settings, and what its descriptors are checked against."""

from __future__ import annotations

from ..amendments.model import Amendment
from ..model import DescriptorRule, DomainRules
from .fields import Fields, quoted
from .hidden_rules import warn_of_hidden_rules
from .limits import read_zone
from .notify import read_notify
from .refusals import CHOICES
from .signals import read_targets

_MOST_KEYS = 16

_UNMATCHED = {"allow": False, "deny": True}


class ReadDomain:
    """A domain while its documents are being read."""

    def __init__(self, name: str, source: str, *, budgets: bool) -> None:
        self.name = name
        self.source = source
        self.budgets = budgets
        self.zone = ""
        self.deny_unmatched = False
        self.required_keys: tuple[str, ...] = ()
        self.refusals = dict.fromkeys(CHOICES, "")
        self.signal = 0
        self.low_at = 0.0
        self.notify: tuple[str, ...] | None = None
        self.descriptors: list[DescriptorRule] = []
        self.limits: tuple[Amendment, ...] = ()
        self.siblings: dict[bytes, str] = {}
        self.names: set[str] = set()
        self.replaced: list[tuple[str, Fields]] = []
        self.written: dict[int, Fields] = {}
        """The fields of each descriptor with a value, by the id of the descriptor."""
        self._settings: dict[str, tuple[object, str]] = {}

    def take_settings(self, file: str, fields: Fields) -> None:
        """Read the settings of the domain from a document. Documents must not contradict each other."""
        zone = read_zone(fields)
        if self._agrees(file, fields, "time_zone", zone):
            self.zone = zone
        unmatched = fields.choice("unmatched", _UNMATCHED)
        if self._agrees(file, fields, "unmatched", unmatched):
            self.deny_unmatched = _UNMATCHED[unmatched or "allow"]
        required = fields.raw_texts("required_keys", _MOST_KEYS, "[team]")
        if self._agrees(file, fields, "required_keys", frozenset(required)):
            self.required_keys = self.required_keys or required
        for name in CHOICES:
            choice = fields.choice(name, CHOICES[name]) or ""
            if self._agrees(file, fields, name, choice):
                self.refusals[name] = choice
        targets = read_targets(fields)
        if self._agrees(file, fields, "signal", (targets,)):
            self.signal = targets
        low_at = fields.share("low_at") or 0.0
        if self._agrees(file, fields, "low_at", low_at):
            self.low_at = low_at
        names = read_notify(fields)
        if self._agrees(file, fields, "notify", (names,)):
            self.notify = names

    def _agrees(self, file: str, fields: Fields, name: str, value: object) -> bool:
        """Return whether `value` is set and does not contradict another document."""
        if not value or not fields.given(name):
            return False
        first, where = self._settings.setdefault(name, (value, source_of(file, fields, name)))
        if first != value:
            fields.error(
                name, f"differs from {where}: set it once, or to the same value in every file of the domain"
            )
        return first == value

    def warn(self) -> None:
        """Warn of hidden nested rules, and of each name in `replaces` that no rate_limit has."""
        warn_of_hidden_rules(self.descriptors, self.written)
        for name, fields in self.replaced:
            if name not in self.names:
                fields.warn(
                    "name", f"no rate_limit of domain {quoted(self.name)} has the name {quoted(name)}"
                )

    def rules(self) -> DomainRules:
        """Return the rules that were read."""
        return DomainRules(
            name=self.name,
            descriptors=tuple(self.descriptors),
            deny_unmatched=self.deny_unmatched,
            required_keys=tuple(map(as_bytes, self.required_keys)),
            budgets=self.budgets,
            zone=self.zone,
            error_format=self.refusals["error_format"],
            error_details=self.refusals["error_details"],
            source=self.source,
            limits=self.limits,
        )


def enter(
    file: str,
    fields: Fields,
    domains: dict[str, ReadDomain],
    merge_domains: bool,
    budget_domains: frozenset[str],
) -> ReadDomain:
    """Return the domain of a document; one that is dropped later if its name is invalid."""
    name = fields.text("domain")
    if name == "":
        fields.missing(
            "domain",
            "is missing or empty: it must be the domain that the gateway sends, "
            "such as 'domain: token-budgets'",
        )
    fields.warn_of_looks("domain", name or "")
    domain = ReadDomain(name or "", source_of(file, fields, "domain"), budgets=name in budget_domains)
    if name and name not in domains:
        domains[name] = domain
    elif name and merge_domains:
        domain = domains[name]
    elif name:
        message = f"{quoted(name)} already has rules at {domains[name].source}: merge them into one file"
        fields.error("domain", message + ", or set MERGE_DOMAIN_CONFIG=true")
    domain.take_settings(file, fields)
    return domain


def source_of(file: str, fields: Fields, name: str = "") -> str:
    """Return the place of a key: its file and line, or its path if there are no lines."""
    line, path = fields.line_of(name), fields.at(name)
    return f"{file}:{line}" if line else f"{file}: {path}" if path else file


def as_bytes(text: str) -> bytes:
    """Return a text with surrogate escapes as the bytes that it stands for."""
    return text.encode("utf-8", "surrogateescape")

"""The keys of a rule that hold for a limit in the request."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ratelimit_service.core.holds.rule import HoldRule
from ratelimit_service.core.ledger.rule import LedgerRule, Price
from ratelimit_service.core.matching.overrides import overridden
from ratelimit_service.core.matching.tree import Match, RuleTree
from ratelimit_service.core.model import (
    Descriptor,
    DescriptorRule,
    DomainRules,
    Entry,
    Limit,
    Override,
    Rule,
    StatKey,
    Unit,
    Window,
)

NOT_KEPT = {
    "path": "the statistics are those of the entries",
    "limits": "the limit in the request replaces one of them",
    "unlimited": "a rule without limits is not overridden",
    "name": "it names the configured limit",
    "replaces": "it names configured limits",
    "shadow": "the limit in the request is enforced",
    "quota": "the limit in the request is enforced",
    "detailed_metric": "the statistics are those of the entries",
    "metadata": "it describes the configured rule",
    "hold": "a limit in the request has no holds",
    "source": "it is the request",
    "original": "only an amended rule has one",
}
"""The fields of Rule that an override drops, each with its reason."""

EVERYTHING: dict[str, Any] = {
    "path": StatKey("d", ("team",)),
    "limits": (Limit(5, Window(Unit.HOUR)),),
    "unlimited": False,
    "name": "a name",
    "replaces": frozenset({"another"}),
    "shadow": True,
    "quota": True,
    "detailed_metric": True,
    "metadata": {"a": 1},
    "budget": True,
    "count_refused": False,
    "warn_at": (0.5,),
    "track": True,
    "denial_message": "no",
    "error_format": "openai",
    "error_details": "minimal",
    "limit_on_refusal_only": True,
    "max_charge": 7,
    "hold": HoldRule(3),
    "signal": 1,
    "notify": ("finance",),
    "low_at": 0.25,
    "ledger": LedgerRule(86_400, "day", "Asia/Tokyo"),
    "price": Price("2.50", "USD"),
    "refuse_larger": True,
    "source": "rules.yaml:3",
    "original": None,
}
"""A value other than the default for every field that a key of the language sets."""


def test_a_limit_in_the_request_keeps_the_other_keys_of_the_rule() -> None:
    """A new field of Rule is copied in overrides.py, or dropped for a reason in NOT_KEPT."""
    names = {field.name for field in fields(Rule) if field.init}
    assert names == EVERYTHING.keys()
    base = Rule(**EVERYTHING)
    tree = RuleTree([DomainRules("d", (DescriptorRule(b"team", rule=base),))])
    descriptor = Descriptor((Entry(b"team", b"dba"),))
    match = Match(base, ("team=dba",), base.path)
    found = overridden(tree.domains["d"], descriptor, Override(9, Unit.DAY), match).rule
    kept = names - NOT_KEPT.keys()
    assert {name: EVERYTHING[name] for name in kept} == {name: getattr(found, name) for name in kept}

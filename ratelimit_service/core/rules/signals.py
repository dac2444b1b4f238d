"""The keys about signals: `signal` and `low_at`."""

from __future__ import annotations

from ..answers.signals import TARGETS
from ..text import either
from .fields import Fields, quoted

KEYS = ("signal", "low_at")

_EXAMPLE = f"[{', '.join(TARGETS)}]"


def read_targets(fields: Fields) -> int:
    """Return the bits of `signal`; 0 for off, or if it is missing."""
    if not fields.given("signal"):
        return 0
    if not fields.list_or_off("signal", f"a list, such as {_EXAMPLE}, or off"):
        return 0
    targets = 0
    for word in fields.raw_texts("signal", len(TARGETS), _EXAMPLE):
        if word in TARGETS:
            targets |= TARGETS[word]
        else:
            fields.error("signal", f"has {quoted(word)}: each item must be {either(TARGETS)}")
    return targets


def read_signal(fields: Fields, inherited: int, *, requests: bool, budget: bool) -> int:
    """Return Rule.signal. `requests` is whether its limits are known to be no budget."""
    targets = read_targets(fields)
    if not fields.given("signal"):
        return inherited if budget else 0
    if targets and requests:
        fields.error("signal", "is for budgets: give the limit tokens_per_unit, or remove signal")
    return targets

"""Warn of rules that can match nothing, because their entry is removed from descriptors before matching.

`hold` and `phase=done` are ordinary keys in files of upstream: with the default settings (HOLD_ENTRY,
HOLD_DONE_ENTRY) such a rule would silently limit nothing any more.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import Problem
from ..holds.entries import HoldEntries
from ..model import DescriptorRule, DomainRules
from .fields import quoted
from .report import MOST_PROBLEMS


def warn_of_removed_entries(domains: Sequence[DomainRules], entries: HoldEntries) -> list[Problem]:
    """Return a warning for each descriptor whose entry is removed, in the order of the rules."""
    found: list[Problem] = []
    pending = [descriptor for domain in domains for descriptor in domain.descriptors]
    pending.reverse()
    while pending and len(found) < MOST_PROBLEMS:
        descriptor = pending.pop()
        setting = _setting(descriptor, entries)
        if setting:
            removed = descriptor.key + (b"=" + descriptor.value if descriptor.value else b"")
            name = quoted(removed.decode("utf-8", "replace"))
            message = (
                f"the entry {name} is removed before rules are matched: set {setting} to another entry, "
                "or to nothing"
            )
            found.append(Problem(descriptor.source, 0, "", message))
        else:
            pending += descriptor.children[::-1]
    return found


def _setting(descriptor: DescriptorRule, entries: HoldEntries) -> str:
    """Return the setting that removes the entry of a descriptor; empty for none."""
    if descriptor.key == entries.id_key:
        return "HOLD_ENTRY"
    return "HOLD_DONE_ENTRY" if (descriptor.key, descriptor.value) == entries.done else ""

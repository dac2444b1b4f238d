"""The labels by which metrics name rules, limits and windows."""

from __future__ import annotations

from ..core.matching.overrides import OVERRIDE_SOURCE
from ..core.model import Limit, Rule
from ..core.windows.blocks import name as window_name
from .tables import label

OVERRIDE = "override"
"""The label of all limits that requests bring (`descriptor.limit`)."""


def rule_label(rule: Rule, limit: Limit) -> str:
    """Return the name of a limit, or the path of its rule."""
    return label(limit.name) if limit.name else path_label(rule)


def path_label(rule: Rule) -> str:
    """Return the path of a rule; `override` for limits that requests bring."""
    return OVERRIDE if rule.source == OVERRIDE_SOURCE else label(str(rule.path))


def window_label(rule: Rule, limit: Limit) -> str:
    """Return the name of a window; only the unit for limits that requests bring, whose multipliers are
    unbounded.
    """
    window = limit.window
    return window.unit.name.lower() if rule.source == OVERRIDE_SOURCE else window_name(window)


def rule_labels(rule: Rule, limit: Limit) -> tuple[str, ...]:
    """Return the labels of a window of a rule."""
    path, window = path_label(rule), window_label(rule, limit)
    return (rule.path.domain, path, path, window, window)


def crossing_labels(rule: Rule, limit: Limit, share: str) -> tuple[str, ...]:
    """Return the labels of a threshold of a window."""
    window = window_label(rule, limit)
    return (rule.path.domain, rule_label(rule, limit), path_label(rule), window, share)

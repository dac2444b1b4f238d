"""The keys about holds: `hold`, `hold_strictness`, `hold_ttl` and `hold_max`."""

from __future__ import annotations

import re

from ..holds.hit import MOST
from ..holds.rule import DEFAULT_LIFE, DEFAULT_MOST, STRICTNESS, HoldRule
from ..model import Limit, Unit
from .document import Kind, ScalarNode
from .fields import Fields, describe

KEYS = ("hold", "hold_strictness", "hold_ttl", "hold_max")

_LONGEST = 3_600
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3_600}
_duration = re.compile(r"([0-9]{1,6})(s|m|h|)")
_percent = re.compile(r"([0-9]{1,3})%")


def read_hold(fields: Fields, limits: list[Limit], *, requests: bool, refuses: bool) -> HoldRule | None:
    """Return the holds of a rule; None for none. `requests` is whether its limits are known to be no
    budget.
    """
    fixed = _fixed(fields)
    strictness = fields.choice("hold_strictness", STRICTNESS)
    life, most = _life(fields), _most(fields)
    if fixed is None:
        for name in KEYS[1:]:
            if fields.given(name) and not fields.given("hold"):
                fields.warn(name, "has no effect without hold: add hold: auto, or remove it")
        return None
    if requests:
        fields.error("hold", "is for budgets: give the limit tokens_per_unit, or remove hold")
    elif any([limit.window.unit is Unit.SECOND for limit in limits]):
        fields.error("hold", "is for windows of a minute or longer: remove hold, or the window of seconds")
    elif not refuses:
        fields.warn("hold", "has no effect in shadow_mode or quota_mode: this rule alone refuses nothing")
    if fixed and fields.given("hold_strictness"):
        fields.warn("hold_strictness", "has no effect on a hold of a fixed number of tokens")
    return HoldRule(fixed, 0.0 if fixed else STRICTNESS[strictness or "mean"], life, most)


def _fixed(fields: Fields) -> int | None:
    """Return the tokens of `hold`; 0 for auto, None for off."""
    wanted = f"auto, off or a whole number from 1 to {MOST}"
    node = fields.scalar("hold", wanted) if fields.given("hold") else None
    if node is None or node.text.lower() in ("off", "false"):
        return None
    if node.text.lower() == "auto":
        return 0
    if node.kind is Kind.INT and 1 <= node.value <= MOST:
        return int(node.value)
    fields.error("hold", f"must be {wanted}, not {describe(node)}")
    return None


def _life(fields: Fields) -> int:
    node = _scalar(fields, "hold_ttl", wanted := f"1 to {_LONGEST} seconds, such as 60s or 5m")
    if node is None:
        return DEFAULT_LIFE
    match = _duration.fullmatch(node.text)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 1 <= seconds <= _LONGEST:
        fields.error("hold_ttl", f"must be {wanted}, not {describe(node)}")
    return seconds


def _most(fields: Fields) -> float:
    node = _scalar(fields, "hold_max", wanted := "a share of the limit from 1% to 100%, such as 50%")
    if node is None:
        return DEFAULT_MOST
    match = _percent.fullmatch(node.text)
    share = int(match[1]) / 100 if match else 0.0
    if not 0.01 <= share <= 1:
        fields.error("hold_max", f"must be {wanted}, not {describe(node)}")
    return share


def _scalar(fields: Fields, name: str, wanted: str) -> ScalarNode | None:
    return fields.scalar(name, wanted) if fields.given(name) else None

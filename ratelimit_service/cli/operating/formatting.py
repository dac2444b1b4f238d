"""Answers of the API as lines for people, without control characters, whatever the service has sent."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ...core.text import printable
from ..answer import duration

Json = Mapping[str, Any]

_BAR = 20
_SHORT = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**4, "k"))


def text(value: object) -> str:
    """Return a value as one printable line."""
    return printable(str(value))


def amount(value: int | None) -> str:
    """Return a number with separators for thousands; `?` for None."""
    return "?" if value is None else f"{value:,}"


def short(value: int | None) -> str:
    """Return a number in at most six characters: `4,211`, `52.1k`, `30G`."""
    if value is None:
        return "?"
    for size, unit in _SHORT:
        if value >= size:
            size = 1_000 if unit == "k" else size
            scaled = value / size
            return f"{scaled:.0f}{unit}" if scaled >= 100 else f"{scaled:.1f}".removesuffix(".0") + unit
    return f"{value:,}"


def moment(found: str | None) -> datetime | None:
    """Return a moment of the API; None for none."""
    try:
        return datetime.fromisoformat(found) if found else None
    except ValueError:
        return None


def until(found: str | None, now: datetime) -> str:
    """Return how long it is until a moment: `13 min 5 s`; `-` for none."""
    at = moment(found)
    return "-" if at is None else duration(max(0, int((at - now).total_seconds())))


def percent(share: float) -> str:
    """Return a share in at most five characters: `84 %`, `>999%`."""
    whole = int(share * 100)
    return f"{whole} %" if whole < 1_000 else ">999%"


def bar(share: float, width: int = _BAR) -> str:
    """Return a bar of `#` that is filled by the share; full only where nothing is left."""
    filled = width if share >= 1 else min(int(share * width), width - 1)
    return f"[{'#' * filled}{'.' * (width - filled)}]"


def width_of(line: str) -> int:
    """Return the columns that a line takes on a terminal."""
    return sum(
        0 if unicodedata.category(char) in ("Mn", "Me") else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in line
    )


def cut(line: str, width: int) -> str:
    """Return a line, cut to the width with an ellipsis."""
    if width_of(line) <= width:
        return line
    shown, used = [], 1
    for char in line:
        used += width_of(char)
        if used > width:
            break
        shown.append(char)
    return "".join(shown) + "…" if width > 0 else ""


def padded(line: str, width: int) -> str:
    """Return a line of exactly this width."""
    line = cut(line, width)
    return line + " " * (width - width_of(line))


def tightest(budget: Json) -> Json | None:
    """Return the most used window; None if there is none."""
    windows: Sequence[Json] = budget["windows"]
    return max(windows, key=lambda window: float(window["share"]), default=None)


def name_of(budget: Json) -> str:
    """Return the descriptor of a bucket as people write it."""
    if budget.get("descriptor"):
        return text(budget["descriptor"])
    return ",".join([f"{text(key)}={text(value)}" for key, value in budget["entries"]])


def one_budget(found: Json) -> Iterator[str]:
    """Yield the lines of a bucket with all its windows."""
    now = datetime.now(UTC)
    shadow = ", in shadow mode: it refuses nothing" if found["shadow"] else ""
    yield f"{name_of(found)} in {text(found['domain'])}: {text(found['state'])}{shadow}"
    if found["rule"] is not None:
        unit = "tokens" if found["kind"] == "budget" else "requests"
        yield f"  rule {text(found['rule'])} ({text(found['source'])}), counts {unit}"
    else:
        yield "  no rule is known for its counters"
    for window in found["windows"]:
        yield f"  {_window(window, now)}"
    if found["amendments"]:
        yield "  amendments:"
        for one in found["amendments"]:
            yield f"    {amendment(one)}"


def _window(found: Json, now: datetime) -> str:
    name = f"{text(found['window'])} {bar(found['share'])} {percent(found['share']):>5}"
    if found["effective_limit"] is None:
        return f"{text(found['window'])}: {amount(found['used'])} used"
    limit = amount(found["effective_limit"])
    if found["limit"] != found["effective_limit"]:
        limit += f" ({amount(found['limit'])} in the rules)"
    line = f"{name}  {amount(found['used'])} of {limit} used, resets in {until(found['resets_at'], now)}"
    if found.get("held"):
        line += f", {amount(found['held'])} held"
    if found["burn_per_second"]:
        line += f"; {rate(found['burn_per_second'])}"
    if found["runs_out_at"]:
        line += f", runs out in {until(found['runs_out_at'], now)}"
    return line


def rate(per_second: float) -> str:
    """Return a rate in the unit that shows it best."""
    for factor, unit in ((1, "s"), (60, "min"), (3_600, "h")):
        if per_second * factor >= 1:
            return f"{short(round(per_second * factor))}/{unit}"
    return f"{per_second * 86_400:.1f}/d"


def amendment(found: Json) -> str:
    """Return an amendment as a line."""
    what = {"override": "override", "top_up": "top-up"}.get(found["kind"], text(found["kind"]))
    by = f"+{amount(found['amount'])}" if found["kind"] == "top_up" else amount(found["amount"])
    if found.get("blocks"):
        what, by = "block", ""
    window = f" of the {text(found['window'])}" if found["window"] else ""
    end = "until it is removed"
    if found["until"]:
        end = f"until {text(found['until'])}"
    elif found["windows"]:
        end = f"for {_windows(found)}"
    said = f"{text(found['author'])}: {text(found['reason'])}"
    return (
        f"{text(found['id'])}  {what}{' ' if by else ''}{by}{window} for {text(found['descriptor'])} {end} "
        f"({said})"
    )


def edit(found: Json) -> str:
    """Return an edit and its effect."""
    where = (
        f"{text(found['descriptor'])} in {text(found['domain'])}"
        if found["descriptor"]
        else text(found["id"])
    )
    window = f" ({text(found['window'])})" if found["window"] else ""
    if found["action"] == "reset":
        held = ", ".join(
            [f"{text(each['counter'])} held {amount(each['used'])}" for each in found["counters"]]
        )
        return f"reset {where}{window}: {held or 'nothing was counted'}"
    before, after = (_said(found[side]) for side in ("before", "after"))
    verb = (
        "remove"
        if found["action"] == "remove"
        else text((found["after"] or {}).get("kind", "put")).replace("_", "-")
    )
    return f"{verb} {where}{window}: {before} -> {after}"


def _said(found: Json | None) -> str:
    if found is None:
        return "none"
    by = f"+{amount(found['amount'])}" if found["kind"] == "top_up" else amount(found["amount"])
    if found["windows"]:
        return f"{by} for {_windows(found)}"
    return by + (f" until {text(found['until'])}" if found["until"] else "")


def _windows(found: Json) -> str:
    return f"{found['windows']} window{'s' if found['windows'] != 1 else ''}"


def audit_line(found: Json) -> str:
    """Return a line of the audit."""
    return f"{text(found['at'])}  {text(found['author'])}  {edit(found)}  ({text(found['reason'])})"

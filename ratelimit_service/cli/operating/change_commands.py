"""The commands that change: `top-up`, `override`, `unblock`, `remove`, and `reset` over the API.

Each command previews its change, and makes it with the confirmation of the preview, so that it replaces just
what the preview showed. A change that may affect several buckets is made only after a question, or with
--yes.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from ...core.amendments.target import parse
from ...core.errors import InvalidRequest
from ...core.rfc3339 import moment
from ...core.text import printable
from ...core.windows.calendars import WEEKDAYS
from . import formatting
from .client import NO, Client, RequestFailed
from .formatting import Json
from .read_commands import print_json

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AMOUNTS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


_SERVER_ERROR = 500
"""The first status after which the outcome of a change is not known; 0 stands for no answer."""


class ChangeOptions(NamedTuple):
    """The options of a change."""

    dry_run: bool = False
    yes: bool = False
    as_json: bool = False
    key: str = ""
    """The idempotency key; empty for a new one."""


def change(
    client: Client,
    path: str,
    body: Mapping[str, Any],
    how: ChangeOptions,
    agreed: Callable[[str], bool] | None = None,
) -> int:
    """Preview a change and make it. Return NO if the operator does not agree."""
    # A top-up's id follows from the key, so the preview has the key as well.
    key = how.key or uuid.uuid4().hex
    preview = client.post(path, {**body, "dry_run": True}, key)
    for note in preview.get("notes", ()):  # a service of an earlier version has none
        print(f"note: {formatting.text(note)}", file=sys.stderr)
    if how.dry_run:
        if how.as_json:
            print_json(preview)
        else:
            print("\n".join(previewed(preview)))
        return 0
    bulk = is_bulk(body)
    if bulk and not how.yes:
        print("\n".join(previewed(preview)), file=sys.stderr)
        ask = agreed or _asked
        if not ask("make this change? [y/N] "):
            print("nothing was changed", file=sys.stderr)
            return NO
    confirmed = {**body, "confirmation": preview["confirmation"]}
    try:
        made = client.post(path, confirmed, key)
    except RequestFailed as failed:
        if failed.status and failed.status < _SERVER_ERROR:
            raise
        raise RequestFailed(
            f"{failed}; the change may have been made: repeat the command with --key {key}",
            failed.code,
            failed.status,
        ) from None
    if how.as_json:
        print_json(made)
        return 0
    for edit in made["edits"]:
        print(formatting.edit(edit))
    for budget in () if bulk else preview["budgets"]:
        print("\n".join(formatting.one_budget(budget["after"])))
    if made["replayed"]:
        print("note: this change had been made before, with the same key", file=sys.stderr)
    return 0


def is_bulk(body: Mapping[str, Any]) -> bool:
    """Return whether a change may affect several buckets. Raises InvalidRequest for an invalid descriptor."""
    descriptor = body.get("descriptor")
    return descriptor is not None and not parse(str(body["domain"]), str(descriptor)).exact


def previewed(found: Json) -> Iterator[str]:
    """Yield the lines of a preview."""
    for edit in found["edits"]:
        yield f"would {formatting.edit(edit)}"
    for each in found["budgets"]:
        before, after = each["before"], each["after"]
        windows = zip(before["windows"], after["windows"], strict=False)
        changes = [
            f"{formatting.text(one['window'])} {_use(one)} -> {_use(other)}"
            for one, other in windows
            if (one["used"], one["effective_limit"]) != (other["used"], other["effective_limit"])
        ]
        yield f"  {formatting.name_of(before)}: {'; '.join(changes) or 'nothing changes'}"
    affected = found["affected"]
    if affected is not None and affected > len(found["budgets"]):
        more = "at least " if found["affected_partial"] else ""
        yield f"  it affects {more}{affected:,} budgets with counters"
    for one in found["exceptions"]:
        yield f"  it does not affect {formatting.amendment(one)}"


def _use(window: Json) -> str:
    return f"{formatting.amount(window['used'])} of {formatting.amount(window['effective_limit'])}"


def _asked(question: str) -> bool:
    """Ask a person; without a terminal, say what to do."""
    if not sys.stdin.isatty():
        raise InvalidRequest(
            "this may affect several budgets: give --yes to make the change without a question"
        )
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def amount_of(text: str) -> int:
    """Return an amount from a text: `20000`, `20_000`, `20k`, `5M`. Raises ValueError."""
    plain = text.strip().replace("_", "").replace(",", "")
    digits = plain.rstrip("kKmMgGtT")
    unit = plain[len(digits) :].lower()
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 16 and unit in _AMOUNTS):
        raise ValueError(
            f'"{printable(text)}" is not an amount: give a whole number, such as 20000, 20k or 5M'
        )
    return int(digits) * _AMOUNTS[unit]


def moment_of(text: str, now: datetime | None = None) -> str:
    """Return a moment from a text, in RFC 3339. Raises ValueError.

    It is `2026-12-01T00:00:00Z`, a time from now (`90m`, `8h`, `3d`), or a weekday: its next midnight here.
    """
    try:
        return moment(_moment(text, now).astimezone(UTC).timestamp())
    except OverflowError:
        raise ValueError(f'"{printable(text)}" is not before the year 10000') from None


def _moment(text: str, now: datetime | None) -> datetime:
    here = now or datetime.now().astimezone()
    lower = text.strip().lower()
    if lower in WEEKDAYS:
        days = (WEEKDAYS.index(lower) - here.weekday() - 1) % 7 + 1
        midnight = here.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None) + timedelta(days=days)
        # Without an offset, it is local time, whose offset may be another one by then.
        return midnight if now is None else midnight.replace(tzinfo=now.tzinfo)
    number, unit = lower[:-1], lower[-1:]
    if number.isascii() and number.isdecimal() and len(number) <= 6 and unit in _UNITS:
        return here + timedelta(**{_UNITS[unit]: int(number)})
    wrong = f'"{printable(text)}" is not a moment: give one such as 2026-12-01T00:00:00Z, 8h, 3d or monday'
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(wrong) from None
    if at.tzinfo is None:
        raise ValueError(f"{wrong} (a moment needs its offset, such as Z or +01:00)")
    return at

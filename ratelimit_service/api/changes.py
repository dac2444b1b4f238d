"""Changes of limits: each verb, its preview, and the confirmation that a bulk change carries.

A preview returns a confirmation: an HMAC of the request and of what it would replace. The real call is refused unless both
are the same by then. Its key is made from ADMIN_TOKEN, so that any replica can check what another one has issued.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from contextlib import suppress
from typing import NamedTuple

from ..amending.operations import MOST_AUDITED, By, Operations, new_key
from ..core.amendments.model import Amendment, Applied, Put, Remove, Reset, override
from ..core.amendments.records import to_json
from ..core.amendments.target import Target, parse
from ..core.errors import InvalidRequest
from ..ports import Clock
from . import asked, shapes, shown
from .previews import Previews, SetToZero, entries_of
from .problems import NOT_FOUND, UNCONFIRMED, Refused
from .tokens import Token

VALID = 300
"""Seconds for which a confirmation is valid."""

MOST_EXCEPTIONS = 100
"""Overrides that a preview names as not reached."""


class _Planned(NamedTuple):
    """A change before it is made: its edit, what it is for, and whether that may be more than one bucket."""

    edit: Put | Remove
    target: Target
    bulk: bool


class Changes:
    """Makes changes. `admin` is the token that they need. `now` is the time since 1970."""

    def __init__(
        self, operations: Operations, previews: Previews, admin: Token, now: Clock = time.time
    ) -> None:
        self._operations = operations
        self._previews = previews
        self._admin = admin
        self._now = now

    async def override(self, body: asked.OverrideBody, key: str | None) -> shapes.Changed:
        """Override a limit."""
        by = _by(body, key)
        target = parse(body.domain, body.descriptor)
        edit = self._operations.make_override(
            by, target, body.amount, window=body.window or "", until=_second(body.until)
        )
        return await self._change(by, _Planned(edit, target, not target.exact), body, key)

    async def top_up(self, body: asked.TopUpBody, key: str | None) -> shapes.Changed:
        """Top a limit up."""
        by = _by(body, key)
        target = parse(body.domain, body.descriptor)
        edit = self._operations.make_top_up(
            by,
            target,
            body.amount,
            window=body.window or "",
            until=_second(body.until),
            windows=body.windows or 0,
        )
        return await self._change(by, _Planned(edit, target, not target.exact), body, key)

    async def unblock(self, body: asked.UnblockBody, key: str | None) -> shapes.Changed:
        """Remove the override for a target."""
        by = _by(body, key)
        target = parse(body.domain, body.descriptor)
        name = override(target, 0, window=body.window or "").id
        return await self._change(by, _Planned(Remove(name), target, not target.exact), body, key)

    async def remove(self, body: asked.RemoveBody, key: str | None) -> shapes.Changed:
        """Remove an amendment."""
        by = _by(body, key)
        found = self._operations.amendment(body.id)
        if found is None:
            # It may be one that this change, sent again, has removed.
            return await self._change(by, _Planned(Remove(body.id), Target(""), False), body, key)
        return await self._change(
            by, _Planned(Remove(body.id), found.target, not found.target.exact), body, key
        )

    async def reset(self, body: asked.ResetBody, key: str | None) -> shapes.Changed:
        """Set used to 0."""
        by = _by(body, key)
        target = parse(body.domain, body.descriptor)
        if not body.dry_run and (not target.exact or body.confirmation is not None):
            again = await self._reset_before(by, target, body)
            if again:
                applied = await self._operations.reset(by, *again, window=body.window or "")
                return self._changed(applied, body, key)
            self._check(body, None)
        targets = await self._previews.to_reset(target)
        applied = await self._operations.reset(by, *targets, window=body.window or "", dry_run=body.dry_run)
        if not body.dry_run or applied.replayed:
            return self._changed(applied, body, key)
        return await self._preview(applied, body, key, target, SetToZero(body.window or ""))

    async def _reset_before(self, by: By, target: Target, body: asked.ResetBody) -> list[Target]:
        """Return the buckets that this change has reset, if it is sent again: others may have counted since."""
        with suppress(InvalidRequest):
            # Only a key that another change had is refused here; the audit is long.
            await self._operations.apply(by, [Remove("none")], dry_run=True)
            return []
        found = [
            line.edited.reset
            for line in await self._operations.audit(most=MOST_AUDITED)
            if line.key == by.key and line.edited.reset is not None
        ]
        return [one.target for one in reversed(found) if _covers(target, one, body.window or "")]

    async def _change(
        self, by: By, planned: _Planned, body: asked.ChangeBody, key: str | None
    ) -> shapes.Changed:
        edit = planned.edit
        seen = await self._operations.apply(by, [edit], dry_run=True)
        if seen.replayed:
            return self._changed(seen, body, key)
        (edited,) = seen.edits
        if isinstance(edit, Remove) and edited.before is None:
            raise Refused(NOT_FOUND, _nothing_to_remove(planned))
        if body.dry_run:
            return await self._preview(seen, body, key, planned.target, edit)
        expected = None
        if planned.bulk or body.confirmation is not None:
            self._check(body, edited.before)
            expected = [edited.before]
        applied = await self._operations.apply(by, [edit], expected=expected)
        return self._changed(applied, body, key)

    async def _preview(
        self,
        seen: Applied,
        body: asked.ChangeBody,
        key: str | None,
        target: Target,
        change: Put | Remove | SetToZero,
    ) -> shapes.Changed:
        until = int(self._now()) + VALID
        after = change.amendment if isinstance(change, Put) else None
        exceptions: list[Amendment] = []
        if after is not None:  # there may be tens of thousands to look at
            exceptions = await asyncio.to_thread(self._operations.exceptions, after)
        affected = await self._previews.affected(target)
        return {
            **self._changed(seen, body, key),
            "budgets": self._previews.shown(affected, change),
            "affected": len(affected.budgets),
            "affected_partial": bool(affected.partial),
            "exceptions": [shown.amendment(one) for one in exceptions[:MOST_EXCEPTIONS]],
            "confirmation": self._confirmation(body, seen.edits[0].before, until),
            "confirm_by": shown.moment(until),
        }

    def _check(self, body: asked.ChangeBody, before: Amendment | None) -> None:
        """Raise Refused unless the request carries the confirmation of its preview."""
        preview = "send it with dry_run: true, and then with the confirmation of the answer"
        if body.confirmation is None:
            raise Refused(UNCONFIRMED, f"this is for more than one descriptor: {preview}")
        end = body.confirmation.partition(".")[0]
        if not (end.isascii() and end.isdecimal() and len(end) <= 12):
            raise Refused(UNCONFIRMED, f"this is no confirmation: {preview}")
        if int(end) < self._now():
            raise Refused(UNCONFIRMED, f"the confirmation has expired: {preview}")
        wanted = self._confirmation(body, before, int(end))
        if not hmac.compare_digest(wanted.encode(), body.confirmation.encode()):
            raise Refused(
                UNCONFIRMED,
                f"the confirmation is of another change, or what it would replace has changed: {preview}",
            )

    def _confirmation(self, body: asked.ChangeBody, before: Amendment | None, until: int) -> str:
        fields = body._replace(dry_run=False, confirmation=None)._asdict()
        seen = None if before is None else to_json(before)
        text = json.dumps([type(body).__name__, fields, seen, until], sort_keys=True)
        key = hashlib.sha256(b"confirmation of a change\0" + (self._admin.digest or b"")).digest()
        digest = hmac.digest(key, text.encode("utf-8", "surrogatepass"), "sha256")
        return f"{until}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"

    def _changed(self, applied: Applied, body: asked.ChangeBody, key: str | None) -> shapes.Changed:
        return {
            "dry_run": body.dry_run,
            "replayed": applied.replayed,
            "version": applied.version,
            "key": key,
            "edits": [shown.edit(edited) for edited in applied.edits],
            "budgets": [],
            "affected": None,
            "affected_partial": False,
            "exceptions": [],
            "confirmation": None,
            "confirm_by": None,
        }


def _covers(target: Target, done: Reset, window: str) -> bool:
    return (
        done.target.domain == target.domain
        and done.window == window
        and target.matches(entries_of(done.target))
    )


def _by(body: asked.ChangeBody, key: str | None) -> By:
    return By(body.author, body.reason, key or new_key())


def _second(text: str | None) -> int:
    return 0 if text is None else shown.second_of(text)


def _nothing_to_remove(planned: _Planned) -> str:
    if not planned.target.domain:
        return "there is no amendment with this id"
    return f"there is no override for {planned.target.text} with this window in {planned.target.domain}: GET /amendments lists them"

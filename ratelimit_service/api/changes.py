"""Changes of limits: each verb, its preview, and the confirmation that a bulk change carries.

A preview returns a confirmation: an HMAC of the request and of what it would replace. The real call is refused unless both
are the same by then. Its key is made from ADMIN_TOKEN, so that any replica can check what another one has issued.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Sequence
from typing import NamedTuple

from ..amending.operations import By, Operations, new_key
from ..core.amendments.model import Amendment, Applied, Put, Remove, override
from ..core.amendments.records import to_json
from ..core.amendments.target import Target, parse
from ..ports import Clock
from . import shapes, shown
from .problems import NOT_FOUND, UNCONFIRMED, Refused
from .tokens import Token

VALID = 300
"""Seconds for which a confirmation is valid."""

MOST_EXCEPTIONS = 100
"""Overrides that a preview names as not reached."""


class _Planned(NamedTuple):
    """A change before it is made: its edit, what it is for (None: nothing that is there), and whether it is a bulk change."""

    edit: Put | Remove
    target: Target | None
    bulk: bool


class Changes:
    """Makes changes. `admin` is the token that they need. `now` is the time since 1970."""

    def __init__(self, operations: Operations, admin: Token, now: Clock = time.time) -> None:
        self._operations = operations
        self._admin = admin
        self._now = now

    async def override(self, body: shapes.OverrideBody, key: str | None) -> shapes.Changed:
        """Override a limit."""
        by = _by(body, key)
        target = parse(body.domain, body.descriptor)
        edit = self._operations.make_override(
            by, target, body.amount, window=body.window or "", until=_second(body.until)
        )
        return await self._change(by, _Planned(edit, target, not target.exact), body, key)

    async def top_up(self, body: shapes.TopUpBody, key: str | None) -> shapes.Changed:
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

    async def unblock(self, body: shapes.UnblockBody, key: str | None) -> shapes.Changed:
        """Remove the override for a target."""
        by = _by(body, key)
        target = parse(body.domain, body.descriptor)
        name = override(target, 0, window=body.window or "").id
        return await self._change(by, _Planned(Remove(name), target, not target.exact), body, key)

    async def remove(self, body: shapes.RemoveBody, key: str | None) -> shapes.Changed:
        """Remove an amendment."""
        by = _by(body, key)
        found = self._operations.amendment(body.id)
        bulk = found is not None and not found.target.exact
        return await self._change(by, _Planned(Remove(body.id), None, bulk), body, key)

    async def reset(self, body: shapes.ResetBody, key: str | None) -> shapes.Changed:
        """Set used to 0."""
        by = _by(body, key)
        target = parse(body.domain, body.descriptor)
        applied = await self._operations.reset(by, target, window=body.window or "", dry_run=body.dry_run)
        return self._changed(applied, body, key, (), None)

    async def _change(
        self, by: By, planned: _Planned, body: shapes.ChangeBody, key: str | None
    ) -> shapes.Changed:
        seen = await self._operations.apply(by, [planned.edit], dry_run=True)
        if seen.replayed:
            return self._changed(seen, body, key, (), None)
        (edited,) = seen.edits
        if isinstance(planned.edit, Remove) and edited.before is None:
            raise Refused(NOT_FOUND, _nothing_to_remove(planned))
        exceptions = self._operations.exceptions(edited.after) if edited.after is not None else []
        if body.dry_run:
            until = int(self._now()) + VALID
            confirmation = self._confirmation(body, edited.before, until)
            return self._changed(seen, body, key, exceptions, (confirmation, until))
        expected = None
        if planned.bulk or body.confirmation is not None:
            self._check(body, edited.before)
            expected = [edited.before]
        applied = await self._operations.apply(by, [planned.edit], expected=expected)
        return self._changed(applied, body, key, exceptions, None)

    def _check(self, body: shapes.ChangeBody, before: Amendment | None) -> None:
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

    def _confirmation(self, body: shapes.ChangeBody, before: Amendment | None, until: int) -> str:
        fields = body._replace(dry_run=False, confirmation=None)._asdict()
        seen = None if before is None else to_json(before)
        text = json.dumps([type(body).__name__, fields, seen, until], sort_keys=True)
        key = hashlib.sha256(b"confirmation of a change\0" + (self._admin.digest or b"")).digest()
        digest = hmac.digest(key, text.encode("utf-8", "surrogatepass"), "sha256")
        return f"{until}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"

    def _changed(
        self,
        applied: Applied,
        body: shapes.ChangeBody,
        key: str | None,
        exceptions: Sequence[Amendment],
        confirmation: tuple[str, int] | None,
    ) -> shapes.Changed:
        return {
            "dry_run": body.dry_run,
            "replayed": applied.replayed,
            "version": applied.version,
            "key": key,
            "edits": [shown.edit(edited) for edited in applied.edits],
            "exceptions": [shown.amendment(one) for one in exceptions[:MOST_EXCEPTIONS]],
            "confirmation": confirmation[0] if confirmation else None,
            "confirm_by": shown.moment(confirmation[1]) if confirmation else None,
        }


def _by(body: shapes.ChangeBody, key: str | None) -> By:
    return By(body.author, body.reason, key or new_key())


def _second(text: str | None) -> int:
    return 0 if text is None else shown.second_of(text)


def _nothing_to_remove(planned: _Planned) -> str:
    if planned.target is None:
        return "there is no amendment with this id"
    return f"there is no override for {planned.target.text} with this window in {planned.target.domain}: GET /amendments lists them"

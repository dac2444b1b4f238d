"""Changes of limits: each verb, its preview, and the confirmation that a bulk change carries.

A preview returns a confirmation: an HMAC of the request and of what it would replace. The real call is
refused unless both are still the same. The key of the HMAC is derived from ADMIN_TOKEN, so that any replica
can verify a confirmation.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from ..amending.operations import MOST_AUDITED, Attribution, Operations, new_key
from ..core.amendments.model import Amendment, ChangeResult, Put, Remove, Reset, override
from ..core.amendments.records import to_json
from ..core.amendments.target import Target, parse
from ..core.budgets.bucket import Budget
from ..core.errors import InvalidRequest
from ..core.rfc3339 import moment
from ..core.text import either
from ..ports import Clock
from . import request_types, response_types, serializers
from .previews import MOST_SHOWN, AffectedBuckets, Previews, SetToZero, entries_of
from .problems import NOT_FOUND, UNCONFIRMED, UNUSABLE, ApiError
from .tokens import Token

VALID = 300
"""Seconds for which a confirmation is valid."""

MOST_EXCEPTIONS = 100
"""Overrides with precedence that a preview lists."""


class _Planned(NamedTuple):
    """One edit before it is made, and its target; None if that is not known."""

    edit: Put | Remove
    target: Target | None


class Changes:
    """Makes changes. `admin` is the token that they need. `now` is the time since 1970."""

    def __init__(
        self, operations: Operations, previews: Previews, admin: Token, now: Clock = time.time
    ) -> None:
        self._operations = operations
        self._previews = previews
        self._admin = admin
        self._now = now

    async def override(self, body: request_types.OverrideBody, key: str | None) -> response_types.Changed:
        """Override a limit."""
        by = _by(body, key)
        return await self._change(by, [self._override(by, body, body.amount)], body, key)

    async def top_up(self, body: request_types.TopUpBody, key: str | None) -> response_types.Changed:
        """Top a limit up."""
        by = _by(body, key)
        return await self._change(by, [self._top_up(by, body, body.amount)], body, key)

    async def unblock(self, body: request_types.UnblockBody, key: str | None) -> response_types.Changed:
        """Remove the override for a target."""
        return await self._change(_by(body, key), [_unblock(body)], body, key)

    async def remove(self, body: request_types.RemoveBody, key: str | None) -> response_types.Changed:
        """Remove an amendment."""
        return await self._change(_by(body, key), [self._remove(body.id)], body, key)

    async def several(self, body: request_types.ChangesBody, key: str | None) -> response_types.Changed:
        """Make several changes in one."""
        by = _by(body, key)
        planned = []
        for place, item in enumerate(body.changes):
            if place % 10 == 9:
                await asyncio.sleep(0)
            try:
                planned.append(self._planned(by, place, item))
            except InvalidRequest as error:
                raise ApiError(
                    UNUSABLE, f"changes[{place}]: {error}", [(f"changes[{place}]", str(error))]
                ) from None
        return await self._change(by, planned, body, key)

    def _planned(self, by: Attribution, place: int, item: request_types.ChangeItem) -> _Planned:
        """Return one change of several. Raises InvalidRequest."""
        if item.verb == "remove":
            if item.id is None or item.domain is not None or item.descriptor is not None:
                raise InvalidRequest("a removal has the id of an amendment, and no descriptor")
            return self._remove(item.id)
        if item.domain is None or item.descriptor is None or item.id is not None:
            raise InvalidRequest("a change has a domain and a descriptor, and only a removal has an id")
        if (item.amount is None) != (item.verb == "unblock"):
            raise InvalidRequest("an override and a top-up have an amount, an unblock has none")
        if item.windows is not None and item.verb != "top-up":
            raise InvalidRequest("only a top-up is for a number of windows")
        if item.amount is None:
            return _unblock(item)
        if item.verb == "override":
            return self._override(by, item, item.amount)
        # The key is part of a top-up's id: two for the same descriptor in one change are two.
        return self._top_up(by._replace(key=f"{by.key}#{place}"), item, item.amount)

    def _override(
        self, by: Attribution, wanted: request_types.OverrideBody | request_types.ChangeItem, amount: int
    ) -> _Planned:
        target = parse(wanted.domain or "", wanted.descriptor or "")
        window, until = wanted.window or "", _second(wanted.until)
        return _Planned(
            self._operations.make_override(by, target, amount, window=window, until=until), target
        )

    def _top_up(
        self, by: Attribution, wanted: request_types.TopUpBody | request_types.ChangeItem, amount: int
    ) -> _Planned:
        target = parse(wanted.domain or "", wanted.descriptor or "")
        window, until, windows = wanted.window or "", _second(wanted.until), wanted.windows or 0
        edit = self._operations.make_top_up(by, target, amount, window=window, until=until, windows=windows)
        return _Planned(edit, target)

    def _remove(self, name: str) -> _Planned:
        found = self._operations.amendment(name)
        return _Planned(Remove(name), None if found is None else found.target)

    async def reset(self, body: request_types.ResetBody, key: str | None) -> response_types.Changed:
        """Set counters to 0."""
        by = _by(body, key)
        target = parse(body.domain, body.descriptor)
        if not body.dry_run and (not target.exact or body.confirmation is not None):
            again = await self._reset_before(by, target, body)
            if again:
                applied = await self._operations.reset(by, *again, window=body.window or "")
                return self._changed(applied, body, key)
            self._check(body, ())
        targets, notes = await self._previews.to_reset(target, self._since_preview(body))
        applied = await self._operations.reset(by, *targets, window=body.window or "", dry_run=body.dry_run)
        if not body.dry_run or applied.replayed:
            return self._changed(applied, body, key, notes)
        return await self._preview(applied, body, key, [target], SetToZero(body.window or ""), notes)

    async def _reset_before(
        self, by: Attribution, target: Target, body: request_types.ResetBody
    ) -> list[Target]:
        """Return the buckets that an earlier call with the same key has reset: other buckets may match by
        now.
        """
        with suppress(InvalidRequest):
            # Without an earlier call, this dry run succeeds, and the long audit is not searched.
            await self._operations.apply(by, [Remove("none")], dry_run=True)
            return []
        found = [
            line.edited.reset
            for line in await self._operations.audit(most=MOST_AUDITED)
            if line.key == by.key and line.edited.reset is not None
        ]
        return [one.target for one in reversed(found) if _covers(target, one, body.window or "")]

    async def _change(
        self, by: Attribution, planned: Sequence[_Planned], body: request_types.ChangeBody, key: str | None
    ) -> response_types.Changed:
        edits = [one.edit for one in planned]
        seen = await self._operations.apply(by, edits, dry_run=True)
        if seen.replayed:
            return self._changed(seen, body, key)
        before = [edited.before for edited in seen.edits]
        for one, found in zip(planned, before, strict=True):
            if isinstance(one.edit, Remove) and found is None:
                raise ApiError(NOT_FOUND, self._nothing_to_remove(one))
        # The store is more up to date than this replica about the amendments that an edit replaces.
        targets = [
            one.target or (found.target if found is not None else Target(""))
            for one, found in zip(planned, before, strict=True)
        ]
        if body.dry_run:
            return await self._preview(seen, body, key, targets, edits, await self._notes(edits))
        expected = None
        if len(edits) > 1 or not all(target.exact for target in targets) or body.confirmation is not None:
            self._check(body, before)
            expected = before
        applied = await self._operations.apply(by, edits, expected=expected)
        return self._changed(applied, body, key, await self._notes(edits))

    async def _notes(self, edits: Sequence[Put | Remove]) -> list[str]:
        return await self._operations.without_effect(edits[:MOST_SHOWN])

    async def _preview(
        self,
        seen: ChangeResult,
        body: request_types.ChangeBody,
        key: str | None,
        targets: Sequence[Target],
        change: Sequence[Put | Remove] | SetToZero,
        notes: Sequence[str],
    ) -> response_types.Changed:
        until = int(self._now()) + VALID
        exceptions: dict[str, Amendment] = {}
        for edited in seen.edits:
            if edited.after is not None and not edited.after.target.exact:
                # A thread searches them: there may be tens of thousands.
                found = await asyncio.to_thread(self._operations.exceptions, edited.after)
                exceptions |= {one.id: one for one in found}
        budgets: dict[str, Budget] = {}
        count = 0
        partial = len(targets) > MOST_SHOWN
        for target in targets[:MOST_SHOWN]:
            affected = await self._previews.affected(target)
            budgets |= {one.bucket: one for one in affected.budgets}
            count = max(count, affected.total)
            partial = partial or bool(affected.partial)
        return {
            **self._changed(seen, body, key, notes),
            "budgets": self._previews.before_and_after(
                AffectedBuckets(list(budgets.values()), count), change
            ),
            "affected": max(count, len(budgets)),
            "affected_partial": partial,
            "exceptions": [serializers.amendment(one) for one in [*exceptions.values()][:MOST_EXCEPTIONS]],
            "confirmation": self._confirmation(body, [edited.before for edited in seen.edits], until),
            "confirm_by": moment(until),
        }

    def _since_preview(self, body: request_types.ChangeBody) -> float:
        """Return how many seconds ago a request was previewed; 0 for a preview, and without one."""
        if body.dry_run or body.confirmation is None:
            return 0.0
        return self._now() - int(body.confirmation.partition(".")[0]) + VALID

    def _nothing_to_remove(self, planned: _Planned) -> str:
        target = planned.target
        if target is None:
            return "there is no amendment with this id"
        others = [one.target.text for one in self._operations.overrides_for(target)[:MOST_SHOWN]]
        applies = f", and its limit is that for {either(others, 'and')}" if others else ""
        return f"there is no override for {target.text} with this window in {target.domain}{applies}"

    def _check(self, body: request_types.ChangeBody, before: Sequence[Amendment | None]) -> None:
        """Raise ApiError unless the request carries the confirmation of its preview."""
        preview = "send it with dry_run: true, then with the confirmation in the answer"
        if body.confirmation is None:
            raise ApiError(UNCONFIRMED, f"this may affect several descriptors: {preview}")
        end = body.confirmation.partition(".")[0]
        if not (end.isascii() and end.isdecimal() and len(end) <= 12):
            raise ApiError(UNCONFIRMED, f"this is no confirmation: {preview}")
        if int(end) < self._now():
            raise ApiError(UNCONFIRMED, f"the confirmation has expired: {preview}")
        wanted = self._confirmation(body, before, int(end))
        if not hmac.compare_digest(wanted.encode(), body.confirmation.encode()):
            raise ApiError(
                UNCONFIRMED,
                f"the confirmation is for another request, or another change came first: {preview}",
            )

    def _confirmation(
        self, body: request_types.ChangeBody, before: Sequence[Amendment | None], until: int
    ) -> str:
        fields = body._replace(dry_run=False, confirmation=None)._asdict()
        seen = [to_json(one) for one in before if one is not None]
        text = json.dumps([type(body).__name__, fields, seen, until], sort_keys=True)
        key = hashlib.sha256(b"confirmation of a change\0" + (self._admin.digest or b"")).digest()
        digest = hmac.digest(key, text.encode("utf-8", "surrogatepass"), "sha256")
        return f"{until}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"

    def _changed(
        self,
        applied: ChangeResult,
        body: request_types.ChangeBody,
        key: str | None,
        notes: Sequence[str] = (),
    ) -> response_types.Changed:
        return {
            "dry_run": body.dry_run,
            "replayed": applied.replayed,
            "version": applied.version,
            "key": key,
            "edits": [serializers.edit(edited) for edited in applied.edits],
            "budgets": [],
            "affected": None,
            "affected_partial": False,
            "exceptions": [],
            "notes": list(notes),
            "confirmation": None,
            "confirm_by": None,
        }


def _covers(target: Target, done: Reset, window: str) -> bool:
    return (
        done.target.domain == target.domain
        and done.window == window
        and target.matches(entries_of(done.target))
    )


def _by(body: request_types.ChangeBody, key: str | None) -> Attribution:
    return Attribution(body.author, body.reason, key or new_key())


def _second(text: str | None) -> int:
    return 0 if text is None else serializers.second_of(text)


def _unblock(body: request_types.UnblockBody | request_types.ChangeItem) -> _Planned:
    target = parse(body.domain or "", body.descriptor or "")
    return _Planned(Remove(override(target, 0, window=body.window or "").id), target)

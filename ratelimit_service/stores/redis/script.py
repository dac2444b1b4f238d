"""A call of hit.lua: its arguments, and the meaning of its reply."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from importlib import resources
from itertools import zip_longest
from typing import Any

from redis.exceptions import InvalidResponse, ResponseError

from ...core.decision import Count
from ...core.errors import CounterRefused
from ...core.gates import Gate
from ...core.holds.hit import HoldHit
from ...core.model import COUNTER_MAX, HELD_BACK
from ..batch import MORE_THAN_A_COUNTER, Batch, Counts, Groups
from ..lanes import REGISTER_TTL, Lane
from .hold_arguments import Repeated, combine, fields
from .ledger_arguments import ledger_arguments
from .wire import Argument, Command

SCRIPT = b"".join(
    [
        resources.files(__package__).joinpath(name).read_bytes()
        for name in ("hit.lua", "plain_ledger.lua", "holds.lua", "in_turn.lua", "ledger.lua")
    ]
)
SHA = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest()

_IN_TURN = HELD_BACK | Gate.ENTRY
"""The gates of hits that the script applies one by one; it does the same with refunds."""

_INTEGER = re.compile(rb"-?[0-9]+").fullmatch
_SURELY_EXACT = 15
"""The digits of a number that is surely at most COUNTER_MAX."""
_MOST_DIGITS = 20
"""Longer numbers are not read: Python takes long for them, and refuses those of thousands of digits."""


class ScriptCall:
    """The call of the script that applies a batch: its `command`. All keys begin with `prefix`.

    With `tag`, the register has that hash tag. With `routed`, the first key is one with that tag that never
    exists: a proxy that spreads keys over servers sends a call to the server of its first key, so all calls
    with this tag reach one server, even if the proxy hashes whole keys.

    Charges and checks of one counter are sent as one hit, their sum. The count of each is the count of the
    first plus the amounts before it. If a counter gets a refund, or is in a group that may be held back, each
    of its hits is sent separately, because its effect depends on the value of the counter.

    Checks of one counter alone are a GET: it has the same reply, and costs Redis a fraction of a script.
    Charges of one counter alone are a call with two keys and one argument.

    A batch without groups consists of the register, which is written if the batch has a lane.
    """

    __slots__ = (
        "_added_before",
        "_groups",
        "_on_holds",
        "_place_of",
        "_records",
        "_repeated",
        "_routed",
        "_size",
        "command",
        "missed",
        "unheld",
        "unrecorded",
    )

    def __init__(self, batch: Batch, prefix: str = "", tag: str = "", *, routed: bool = False) -> None:
        self._groups = groups = batch.groups
        self._repeated: Repeated | None = None
        """If equal checks are sent as one: `_groups` has those that are sent."""
        self._on_holds = self._records = 0
        self.unrecorded = ""
        """Why entries of ledgers could not be written, once the reply is there."""
        self.missed = 0
        """How many."""
        self.unheld = ""
        """Why holds could not be read or written."""
        self._routed = routed
        self._place_of: Sequence[int] | None = None
        """For each hit, the index of the script's hit that it is part of; None if each is sent separately."""
        self._added_before: Sequence[int] = ()
        """For each hit, the sum of the hits before it that are part of the same hit of the script."""
        plain = None if routed else plain_command(batch, prefix, tag)
        if plain is not None:
            self._size = 1
            self.command: Command = plain
            return
        lane = batch.sent
        number: int | str = lane.number if lane is not None else ""
        where = _register_of(lane, prefix, tag)
        keys: list[str] = []
        amounts: list[int] = []
        ttls: list[int] = []
        gates = self._collect(keys, amounts, ttls)
        if gates & Gate.ASIDE and (repeated := combine(groups)) is not None:
            self._repeated, self._groups, groups = repeated, repeated.groups, repeated.groups
            keys, amounts, ttls = [], [], []
            self._collect(keys, amounts, ttls)
        if keys and not any(amounts):
            number = ""
        in_turn = gates & _IN_TURN or (keys and min(amounts) < 0)
        if len(set(keys)) < len(keys):
            apart = _sent_apart(groups) if in_turn else ()
            keys, amounts, ttls = self._add_up(apart)
        if routed:
            keys, amounts, ttls = [register(prefix, "", tag), *keys], [0, *amounts], [1, *ttls]
        self._on_holds = gates & Gate.ASIDE
        self._records = gates & Gate.LEDGER
        self._size = len(keys)
        simple = not in_turn and not self._records
        if len(keys) == 1 and simple and not routed:
            self.command = (
                _charge(keys[0], amounts[0], ttls[0], where, number) if amounts[0] else ("GET", keys[0])
            )
            return
        arguments: list[Argument] = [number, REGISTER_TTL]
        for amount, ttl in zip(amounts, ttls, strict=True):
            arguments.append(amount)
            if amount:
                arguments.append(ttl)
        if simple:
            self.command = evalsha(len(keys) + 1, *keys, where, *arguments)
            return
        books, entries = (
            ledger_arguments(groups, self._place_of, amounts, 2 if routed else 1, gates)
            if self._records
            else ([], [0])
        )
        gated = self._gates() if gates & HELD_BACK else ()
        end = f"{'T' if in_turn else 'L'}{len(books)}"
        self.command = evalsha(
            len(keys) + 1 + len(books), *keys, where, *books, *arguments, *entries, *gated, end
        )

    def _collect(self, keys: list[str], amounts: list[int], ttls: list[int]) -> int:
        """Add the key, the amount and the time to live of each hit. Return the gates that any of them has."""
        gates = 0
        for group in self._groups:
            for hit in group:
                keys.append(hit.key)
                amounts.append(hit.amount)
                ttls.append(hit.ttl)
                gates |= hit.gate
        return gates

    def _add_up(self, apart: Collection[str]) -> tuple[list[str], list[int], list[int]]:
        """Return keys, amounts and times to live of the script's hits: one hit for each counter that is not
        in `apart`.
        """
        place_of: list[int] = []
        added_before: list[int] = []
        places: dict[str, int] = {}
        keys: list[str] = []
        sums: list[int] = []
        ttls: list[int] = []
        for group in self._groups:
            for hit in group:
                key = hit.key
                known = places.get(key)
                if known is None or (apart and key in apart):
                    place = places[key] = len(keys)
                    keys.append(key)
                    sums.append(hit.amount)
                    ttls.append(hit.ttl)
                    added_before.append(0)
                else:
                    place = known
                    before = sums[place]
                    added_before.append(before)
                    sums[place] = before + hit.amount
                place_of.append(place)
        self._place_of, self._added_before = place_of, added_before
        return keys, [min(amount, COUNTER_MAX) for amount in sums], ttls

    def _gates(self) -> list[Argument]:
        """Return the arguments for the groups that may be held back."""
        arguments: list[Argument] = []
        place = 0
        first = 2 if self._routed else 1
        place_of = self._place_of
        repeated = self._repeated
        for number, group in enumerate(self._groups):
            if any([hit.gate & HELD_BACK for hit in group]):
                arguments += (first + (place if place_of is None else place_of[place]), len(group))
                for hit in group:
                    arguments += (hit.gate, hit.limit)
                    if isinstance(hit, HoldHit):
                        arguments += fields(hit, repeated.times[number] if repeated is not None else 1)
            place += len(group)
        return arguments

    def counts(self, reply: Any) -> Counts | Exception:
        """Return the counts in a reply of the script, by group; a reply that is an exception is returned
        unchanged.
        """
        if self.command[0] == "GET":
            reply = _as_of_the_script(reply)
        elif self._size == 1 and isinstance(reply, (int, bytes)):
            reply = [reply]
        if not isinstance(reply, list):
            return reply if isinstance(reply, Exception) else InvalidResponse(f"the script replied {reply!r}")
        if self._records and len(reply) == self._size + 3:
            self.missed, self.unrecorded = reply.pop(), _text(reply.pop())
        if (self._on_holds or self.missed) and len(reply) == self._size + 1:
            self.unheld = _text(reply.pop())
        if len(reply) != self._size:
            return InvalidResponse(f"the script replied {len(reply)} counts")
        if self._routed:
            reply = reply[1:]
        if self._repeated is not None:
            return self._repeated.counts(reply, self._place_of, self._counts)
        return self._counts(reply)

    def _counts(self, reply: list[Any]) -> Counts:
        """Return the counts of the groups that were sent."""
        try:
            if self._place_of is None:
                sum(reply)  # raises TypeError if a hit failed: its reply is a text
                return self._by_group(reply)
            counts = [
                reply[place] + before
                for place, before in zip(self._place_of, self._added_before, strict=True)
            ]
            if max(counts) <= COUNTER_MAX:
                return self._by_group(counts)
        except TypeError:
            pass
        place_of = range(len(reply)) if self._place_of is None else self._place_of
        keys = [hit.key for group in self._groups for hit in group]
        replies = zip(keys, zip_longest(place_of, self._added_before, fillvalue=0), strict=True)
        return self._by_group([_count(key, reply[place], before) for key, (place, before) in replies])

    def _by_group(self, counts: list[Count]) -> Counts:
        if len(counts) == len(self._groups) and all(self._groups):
            return [[count] for count in counts]
        split: Counts = []
        at = 0
        for group in self._groups:
            split.append(counts[at : at + len(group)])
            at += len(group)
        return split


def plain_command(batch: Batch, prefix: str, tag: str) -> Command | None:
    """Return the command of a batch with one hit, a charge or a check; None if it needs a ScriptCall.

    Nearly every batch for a Cluster is such a one.
    """
    groups, lane = batch.groups, batch.sent
    if len(groups) != 1 or len(groups[0]) != 1:
        return None
    hit = groups[0][0]
    if hit.gate & MORE_THAN_A_COUNTER or hit.amount < 0:
        return None
    if not hit.amount:
        return ("GET", hit.key)
    number = lane.number if lane is not None else ""
    return _charge(hit.key, hit.amount, hit.ttl, _register_of(lane, prefix, tag), number)


def plain_count(command: Command, reply: Any) -> int | None:
    """Return the count in the reply to a `plain_command`; None if the reply is anything else."""
    if isinstance(reply, int):
        return reply
    if command[0] == "GET":
        if reply is None:
            return 0
        if isinstance(reply, bytes) and len(reply) <= _SURELY_EXACT and reply.isdigit():
            return int(reply)
    return None


def _charge(key: str, amount: int, ttl: int, where: str, number: int | str) -> Command:
    """Return the command for charges of one counter; `where` is the register."""
    return ("EVALSHA", SHA, 2, key, where, f"{number} {REGISTER_TTL} {amount} {ttl}")


def _as_of_the_script(reply: Any) -> Any:
    """Return what the script replies for a check, from the reply to GET."""
    if reply is None:
        return [0]
    if isinstance(reply, bytes):
        if not _INTEGER(reply):
            return [b"ERR value is not an integer"]
        if len(reply) > _MOST_DIGITS:
            return [0 if reply.startswith(b"-") else COUNTER_MAX]
        return [max(0, min(COUNTER_MAX, int(reply)))]
    if isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE"):
        return [str(reply).encode()]
    return reply


def _sent_apart(groups: Groups) -> set[str]:
    """Return the counters whose hits are sent separately."""
    apart: set[str] = set()
    for group in groups:
        if any([hit.amount < 0 or hit.gate & HELD_BACK for hit in group]):
            apart.update([hit.key for hit in group])
    return apart


def _count(key: str, reply: int | bytes, added_before: int) -> Count:
    if isinstance(reply, int):
        return min(reply + added_before, COUNTER_MAX)
    return CounterRefused(f"Redis refused a counter: {_text(reply)}", key)


def _register_of(lane: Lane | None, prefix: str, tag: str) -> str:
    """Return the key of the register of a lane.

    A lane stays in one place, except for a batch that has to be split after it was sent.
    """
    if lane is None:
        return register(prefix, "", tag)
    of_tag, key = lane.register
    if not key or of_tag != tag:
        key = register(prefix, lane.name, tag)
        lane.register = tag, key
    return key


def register(prefix: str, lane: str, tag: str = "") -> str:
    """Return the key of a lane's register, with a hash tag.

    A hash tag in `prefix` is the hash tag of all keys.
    """
    name = f"{prefix}lane:{lane}"
    return f"{name}{{{tag}}}" if tag and "{" not in prefix else name


def evalsha(*arguments: Argument) -> Command:
    """Return the command that runs the script with these arguments: the number of KEYS, KEYS, ARGV."""
    return ("EVALSHA", SHA, *arguments)


def _text(reply: object) -> str:
    return reply.decode("utf-8", "backslashreplace") if isinstance(reply, bytes) else str(reply)

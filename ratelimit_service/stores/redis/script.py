"""A call of hit.lua: what it is told, how it is called, and what its reply means."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Sequence
from importlib import resources
from itertools import chain, zip_longest
from typing import Any

from redis.exceptions import InvalidResponse, NoScriptError

from ...core.decision import Count
from ...core.errors import CounterRefused
from ...core.model import COUNTER_MAX, HELD_BACK, Hit
from ..batch import REGISTER_TTL, Batch
from .wire import Answered, Argument, Wire, ignore

SCRIPT = resources.files(__package__).joinpath("hit.lua").read_bytes()
SHA = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest()

Arguments = tuple[Argument, ...]
"""How many KEYS, these, and ARGV."""

Counts = list[list[Count]]
"""By group."""


class Call:
    """A batch as the script takes it: `arguments`. All keys of ours begin with `prefix`.

    With `tag`, the register has that hash tag, and with `routed` the first key has it, too: a proxy that spreads keys over
    servers sends a call to the server of its first key. That key is the same for all calls with this tag, so that they reach
    the same server even where the proxy hashes whole keys; the script reads it, and it never exists.

    Charges and checks of one counter are one hit for Redis, the sum of them: what each of them finds there is what the
    first one finds and what those before it add. A counter that is given something back, or is part of a group that may
    be held back, gets each of its hits by itself, because what these do depends on what is there.

    A batch without groups is the register alone, which is written where the batch has a number.
    """

    __slots__ = ("_ahead", "_groups", "_order", "_routed", "_size", "arguments")

    def __init__(self, batch: Batch, prefix: str = "", tag: str = "", *, routed: bool = False) -> None:
        self._groups = groups = batch.groups
        self._order: Sequence[int] | None = None
        """For each hit, which one of the script's it is part of; None where each is one of its own."""
        self._ahead: Sequence[int] = ()
        """For each hit, what those before it in the same one of the script's add."""
        self._routed = routed
        keys: Sequence[str] = ()
        amounts: Sequence[int] = ()
        ttls: Sequence[int] = ()
        number = batch.number
        held_back = False
        if any(groups):
            hits = list(chain.from_iterable(groups))
            keys = [hit.key for hit in hits]
            amounts = [hit.amount for hit in hits]
            ttls = [hit.ttl for hit in hits]
            held_back = any([hit.gate & HELD_BACK for hit in hits])
            if not any(amounts):
                number = ""
        if len(set(keys)) < len(keys):
            apart = _apart(groups) if held_back or min(amounts) < 0 else ()
            keys, amounts, ttls = self._put_together(keys, amounts, ttls, apart)
        if routed:
            keys, amounts, ttls = (register(prefix, "", tag), *keys), (0, *amounts), (1, *ttls)
        self._size = len(keys)
        pairs: list[Argument] = [0] * (2 * len(keys))
        pairs[::2] = amounts
        pairs[1::2] = ttls
        self.arguments: Arguments = (
            len(keys) + 1,
            *keys,
            register(prefix, batch.lane, tag),
            number,
            REGISTER_TTL,
            *pairs,
            *(self._gates() if held_back else ()),
        )

    def _put_together(
        self, keys: Sequence[str], amounts: Sequence[int], ttls: Sequence[int], apart: Container[str]
    ) -> tuple[list[str], list[int], list[int]]:
        """The hits of the script: one for each counter, but for those `apart`, which have as many as they are given."""
        order: list[int] = []
        ahead: list[int] = []
        places: dict[str, int] = {}
        own: list[str] = []
        sums: list[int] = []
        lives: list[int] = []
        for key, amount, ttl in zip(keys, amounts, ttls, strict=True):
            place = places.get(key)
            if place is None or key in apart:
                place = places[key] = len(own)
                own.append(key)
                sums.append(amount)
                lives.append(ttl)
                ahead.append(0)
            else:
                before = sums[place]
                ahead.append(before)
                sums[place] = before + amount
            order.append(place)
        self._order, self._ahead = order, ahead
        return own, [min(amount, COUNTER_MAX) for amount in sums], lives

    def _gates(self) -> list[Argument]:
        gates: list[Argument] = []
        place = 0
        first = 2 if self._routed else 1
        order = self._order
        for group in self._groups:
            if any([hit.gate & HELD_BACK for hit in group]):
                gates += (first + (place if order is None else order[place]), len(group))
                for hit in group:
                    gates += (hit.gate, hit.limit)
            place += len(group)
        return gates

    def counts(self, reply: Any) -> Counts | Exception:
        """What the reply of the script says, by group; an error as it is."""
        if not isinstance(reply, list):
            return reply if isinstance(reply, Exception) else InvalidResponse(f"the script replied {reply!r}")
        if len(reply) != self._size:
            return InvalidResponse(f"the script replied {len(reply)} counts")
        if self._routed:
            reply = reply[1:]
        try:
            if self._order is None:
                sum(reply)  # a hit that failed has a text
                return self._by_group(reply)
            counts = [reply[place] + ahead for place, ahead in zip(self._order, self._ahead, strict=True)]
            if max(counts) <= COUNTER_MAX:
                return self._by_group(counts)
        except TypeError:
            pass
        order = range(len(reply)) if self._order is None else self._order
        keys = [hit.key for group in self._groups for hit in group]
        replies = zip(keys, zip_longest(order, self._ahead, fillvalue=0), strict=True)
        return self._by_group([_count(key, reply[place], ahead) for key, (place, ahead) in replies])

    def _by_group(self, counts: list[Count]) -> Counts:
        if len(counts) == len(self._groups) and all(self._groups):
            return [[count] for count in counts]
        split: Counts = []
        at = 0
        for group in self._groups:
            split.append(counts[at : at + len(group)])
            at += len(group)
        return split


def _apart(groups: Sequence[Sequence[Hit]]) -> set[str]:
    """The counters whose hits are not put together."""
    apart: set[str] = set()
    for group in groups:
        if any([hit.amount < 0 or hit.gate & HELD_BACK for hit in group]):
            apart.update([hit.key for hit in group])
    return apart


def _count(key: str, reply: int | bytes, ahead: int) -> Count:
    if isinstance(reply, int):
        return min(reply + ahead, COUNTER_MAX)
    return CounterRefused(f"Redis refused a counter: {_text(reply)}", key)


def register(prefix: str, lane: str, tag: str = "") -> str:
    """The key of a lane's register, in the place of `tag`. Where `prefix` has a hash tag, all keys have that one."""
    name = f"{prefix}lane:{lane}"
    return f"{name}{{{tag}}}" if tag and "{" not in prefix else name


def evaluate(wire: Wire, arguments: Arguments, then: Callable[[Any], None], *, asking: bool = False) -> None:
    """Run the script, and tell `then` the reply, or the exception in its place.

    With `asking`, on a server that is just being given the slot.
    """

    def answered(reply: Any) -> None:
        if isinstance(reply, NoScriptError):  # not carried out: a Redis that is new, or was told SCRIPT FLUSH
            _run(wire, ("EVAL", SCRIPT, *arguments), then, asking)
        else:
            then(reply)

    _run(wire, ("EVALSHA", SHA, *arguments), answered, asking)


def _run(wire: Wire, command: Arguments, then: Answered, asking: bool) -> None:
    if asking:
        wire.call(("ASKING",), ignore)  # where that fails, what comes next is told so
    wire.call(command, then)


def _text(reply: object) -> str:
    return reply.decode("utf-8", "backslashreplace") if isinstance(reply, bytes) else str(reply)

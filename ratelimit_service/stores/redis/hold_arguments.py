"""The arguments of the script for hits on holds, and equal checks of a batch, which are sent as one.

Checks of one bucket in one second share their hits. Each sees the holds of those before it, so their results
differ, but the script computes all of them in one step: the checks that pass are the first ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ...core.gates import Gate
from ...core.holds.hit import HoldHit, Op
from ...core.model import Hit
from ..batch import Counts, Groups
from .wire import Argument

_NOT_A_CHECK = Gate.ASIDE | Gate.LEDGER


def fields(hit: HoldHit, times: int) -> tuple[Argument, ...]:
    """Return the fields of a hit that stands for this many equal ones, in the order of holds.lua."""
    fixed, deviations, otherwise, most = hit.size
    head = (int(hit.op), hit.now, hit.life, hit.expiry, fixed, repr(deviations), otherwise, most)
    return (*head, hit.charge, hit.tokens, hit.made, hit.id, repr(hit.part), times)


class Repeated(NamedTuple):
    """A batch in which each of several equal checks stands for all of them."""

    groups: Groups
    """The groups that are sent."""
    times: Sequence[int]
    """How many groups of the batch each of them stands for."""
    origin: Sequence[tuple[int, int]]
    """For each group of the batch, the one that is sent for it, and the number of those before it."""

    def counts(
        self, reply: list[Any], place_of: Sequence[int] | None, read: Callable[[list[Any]], Counts]
    ) -> Counts:
        """Return the counts of each group of the batch.

        `read` returns those of the groups that were sent. In the reply, the result of a hold that stands for
        several has four parts: the result of the first one, how many pass, and the results of the others that
        pass and of those that do not.
        """
        results: dict[int, Sequence[int]] = {}
        at = -1
        for number, group in enumerate(self.groups):
            at += len(group)
            place = at if place_of is None else place_of[at]
            if self.times[number] > 1 and isinstance(reply[place], list):
                results[number] = reply[place]
                reply[place] = results[number][0]
        counts = read(reply)
        found: Counts = []
        for sent, number in self.origin:
            of_group = counts[sent]
            if number and sent in results:
                _, passed, result, refused = results[sent]
                of_group = [*of_group[:-1], result if number < passed else refused]
            found.append(of_group)
        return found


def combine(groups: Groups) -> Repeated | None:
    """Return the batch with equal checks as one; None if there are none.

    A check joins an equal one only if no group between them is on one of its keys: then no result depends on
    their order.
    """
    sent: list[Sequence[Hit]] = []
    times: list[int] = []
    origin: list[tuple[int, int]] = []
    known: dict[int, int] = {}
    """The groups that may be joined, by the identity of their hold."""
    last: dict[str, int] = {}
    """The last group on each key."""
    for group in groups:
        take = group[-1] if group else None
        place = known.get(id(take), -1)
        if place >= 0 and _equal(sent[place], group) and all([last[hit.key] == place for hit in group]):
            origin.append((place, times[place]))
            times[place] += 1
            continue
        place = len(sent)
        sent.append(group)
        times.append(1)
        origin.append((place, 0))
        for hit in group:
            last[hit.key] = place
        if take is not None and _is_check(group, take):
            known[id(take)] = place
    return Repeated(sent, times, origin) if len(sent) < len(groups) else None


def _equal(one: Sequence[Hit], other: Sequence[Hit]) -> bool:
    return len(one) == len(other) and all([hit is same for hit, same in zip(one, other, strict=True)])


def _is_check(group: Sequence[Hit], take: Hit) -> bool:
    if not isinstance(take, HoldHit) or take.op is not Op.TAKE:
        return False
    return not any([hit.amount or hit.gate & _NOT_A_CHECK for hit in group[:-1]])

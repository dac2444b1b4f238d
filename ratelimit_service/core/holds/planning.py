"""Plans the hits of a request on holds, beside those on its counters.

A bucket far from its limit has no holds, so it costs the same as without them. It is near its limit once
requests in flight could use the rest: a tenth of the limit, or a thousand requests of the usual cost. A
budget of less than a thousand requests is always near.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from ..model import Descriptor, Entry, Request, Rule, Unit
from .hit import MOST, NO_SIZE, SUFFIX, HoldHit, Op, Size
from .ids import VALID, HoldIds, IssuedHold, IssuedId, names_of
from .rule import DEFAULT_LIFE, HoldRule
from .state import LEARN, expiry_of

_NEAR_SHARE = 10
_NEAR_REQUESTS = 1_000
_FLIGHTS: Final = 3
"""A request is assumed to be in flight for a third of the time that a hold lasts."""
_SAMPLED: Final = 15
"""Far from the limit, the mean is learned from one charge in 16; as a mask."""

_SILENT: Final = 64
"""After this many charges without an id, gateways are assumed to bring none back, and get none far from the
limit.
"""


class MeanCharge:
    """The mean charge of a rule over all buckets, as this process has seen them."""

    __slots__ = ("mean", "without_id")

    def __init__(self) -> None:
        self.mean = 0.0
        self.without_id = 0
        """The number of charges since the last one with an id."""

    def note(self, charge: int, *, with_id: bool) -> None:
        """Learn from a charge."""
        self.without_id = 0 if with_id else self.without_id + 1
        self.mean += (LEARN if self.mean else 1.0) * (charge - self.mean)


class MeanCharges:
    """The mean charges of all rules with holds."""

    def __init__(self) -> None:
        self._learned: dict[Rule, MeanCharge] = {}

    def of(self, rule: Rule) -> MeanCharge:
        """Return the mean charge of a rule; an amended rule shares that of its original."""
        return self._learned.setdefault(rule.original or rule, MeanCharge())


class Holding:
    """The holds of one bucket of a prepared request."""

    __slots__ = (
        "_began",
        "amount",
        "descriptor",
        "end",
        "entries",
        "key",
        "learned",
        "looked",
        "memo",
        "names",
        "noted",
        "rule",
        "ticks",
        "until",
    )

    def __init__(
        self,
        descriptor: int,
        rule: HoldRule,
        learned: MeanCharge,
        bucket: str,
        domain: str,
        entries: Sequence[Entry],
    ) -> None:
        self.descriptor = descriptor
        self.rule = rule
        self.learned = learned
        self.key = hold_key(bucket)
        self.entries = entries
        self.names = names_of(domain, [entries])
        """The part of an id that names this bucket alone; empty if the id would be too long."""
        self.amount = self.end = 0
        """The smallest limit, and the first end of a window."""
        self.until = self._began = 0
        """The time until which it counts as near its limit."""
        self.ticks = 0
        self.looked = 0
        """The last second in which the counts of a check showed how near it is."""
        self.noted = 0
        """The last second in which a check noted how near it is to its limit."""
        self.memo: list[int] | None = None
        """What an Observer has looked up for this bucket; nothing else reads it."""

    def near(self, now: int) -> bool:
        """Return whether requests in flight could use the rest of the limit."""
        mean = self.learned.mean
        return now < self.until or not mean or mean * _NEAR_REQUESTS >= self.amount

    def note(self, used: int, amount: int, now: int) -> bool:
        """Note the use of a window. Return whether the bucket has come near its limit by it."""
        if used + max(amount // _NEAR_SHARE, int(self.learned.mean * _NEAR_REQUESTS)) < amount:
            return False
        came_near = self.until <= now
        if came_near:
            self._began = now
        self.until = now + self.rule.life
        return came_near

    def part(self, now: int) -> float:
        """Return the part of a hold that a charge without an id ends.

        Requests that are in flight when a bucket comes near its limit have set nothing aside. If their
        charges ended the holds of other requests, too few tokens would be held. Of the charges after t
        seconds, about 1 - exp(-t / usual time in flight) are of requests with a hold. The usual time is not
        known without ids. If the assumed time is too long, too many tokens are held, but for no longer than a
        hold lasts.
        """
        seconds = now - self._began
        if seconds >= self.rule.life or self.learned.mean * _NEAR_REQUESTS >= self.amount:
            return 1.0
        return 1 - math.exp(-_FLIGHTS * seconds / self.rule.life)

    def sampled(self) -> bool:
        """Return whether to learn from this charge, far from the limit."""
        self.ticks += 1
        return not self.ticks & _SAMPLED

    def wants_ids(self) -> bool:
        """Return whether checks get an id far from the limit, where nothing is held."""
        return self.learned.without_id < _SILENT

    def size(self) -> Size:
        """Return the size of a hold."""
        rule = self.rule
        most = min(int(self.amount * rule.most), MOST)
        return Size(rule.fixed, rule.deviations, int(self.learned.mean + 0.5), most)

    def take(self, now: int) -> HoldHit:
        """Return the hit of a check."""
        life = self.rule.life
        return HoldHit(
            self.key,
            ttl=life,
            op=Op.TAKE,
            now=now,
            life=life,
            expiry=expiry_of(now, life, self.end),
            size=self.size(),
        )


class PlannedHold:
    """A hit on holds in a plan: that of a bucket near its limit, or -1."""

    __slots__ = ("hit", "holding", "op")

    def __init__(self, holding: Holding, hit: int, op: Op) -> None:
        self.holding = holding
        self.hit = hit
        self.op = op


def _ending(
    key: str,
    op: Op,
    size: Size,
    life: int,
    now: int,
    charge: int,
    issued: IssuedId | None,
    hold: IssuedHold | None,
    part: float = 1.0,
) -> HoldHit:
    """Return the hit that ends a hold: the one that `issued` names, or the oldest of the bucket.

    While Redis is away, charges wait in the journal, which leaves out hits that have outlived their ttl. By
    the hit of an id its charge counts once, so it lasts as long as the id.
    """
    return HoldHit(
        key,
        ttl=life if issued is None else VALID,
        op=op,
        now=now,
        life=life,
        expiry=hold.expiry if hold is not None else 0,
        size=size,
        charge=charge,
        part=part,
        tokens=hold.tokens if hold is not None else 0,
        made=issued.made if issued is not None else 0,
        id=issued.name if issued is not None else "",
    )


MARKED: Final = "marked"
"""In place of an id: a marker, which says that the request has ended."""
UNKNOWN: Final = "unknown"
"""In place of an id: a text that is not a valid id, such as `-` if the check had no answer."""


End = IssuedId | str | None
"""What came back with a descriptor: an id, MARKED, UNKNOWN, or nothing."""


class HoldRequest(NamedTuple):
    """The input of planning: a request, its addends, and for each descriptor what it brings back, if
    anything.
    """

    request: Request
    addends: Sequence[int]
    without_addend: Sequence[int]
    now: int
    ends: Sequence[End]
    denied: bool


def hold_key(bucket: str) -> str:
    """Return the key of the holds of a bucket."""
    return f"{bucket}:{SUFFIX}"


def plan_holds(
    holdings: Sequence[Holding | None], keys: Sequence[str], asked: HoldRequest, first: int
) -> tuple[list[HoldHit], list[PlannedHold]]:
    """Return the hits of a request on holds, and the holding of each. They follow `first` hits on counters.

    `keys` has the key of the holds of each descriptor, or an empty text.
    """
    hits: list[HoldHit] = []
    planned: list[PlannedHold] = []
    ended: dict[str, set[str]] = {}
    """The names of the ids whose holds end, by the key of the holds of their bucket."""
    several = len(keys) > 1
    with_id = _keys_with_id(keys, asked) if several and asked.ends else ()
    for index, holding in enumerate(holdings):
        end = asked.ends[index] if asked.ends else None
        charge = asked.addends[index]
        if charge >= 0 and several and isinstance(end, IssuedId):
            # The parts of a cost, such as those of the prompt and of the completion, are one charge.
            same = zip(keys, asked.addends, strict=True)
            charge = sum([addend for key, addend in same if key == keys[index] and addend > 0])
        op = _op_of(asked, index, holding, end, charge)
        if op is None or not keys[index]:
            continue
        if op is Op.TAKE:
            assert holding is not None
            if not holding.near(asked.now):
                if holding.noted == asked.now and not holding.wants_ids():
                    continue
                holding.noted = asked.now
                planned.append(PlannedHold(holding, -1, op))
                continue
            hit = holding.take(asked.now)
        elif op is Op.REFUND:
            if any(
                [key == keys[index] and addend > 0 for key, addend in zip(keys, asked.addends, strict=True)]
            ):
                continue  # the hit of the charge is for all counters of the bucket
            assert isinstance(end, IssuedId)
            hit = _end(keys[index], op, holding, asked, index, 0, end)
        else:
            issued = end if isinstance(end, IssuedId) else None
            if issued is None and keys[index] in with_id:
                continue  # part of a cost whose other part has the id
            names = ended.setdefault(keys[index], set())
            name = issued.name if issued is not None else ""
            if name in names:
                continue  # the first hit of a request on a bucket has the sum of all its charges there
            if names:
                op = Op.RELEASE  # another check's hold in this bucket
            names.add(name)
            hit = _end(keys[index], op, holding, asked, index, charge, issued)
        if holding is not None:
            planned.append(PlannedHold(holding, first + len(hits), op))
        hits.append(hit)
    return hits, planned


def _keys_with_id(keys: Sequence[str], asked: HoldRequest) -> set[str]:
    """Return the keys of the buckets that are charged, or whose holds are released, with an id."""
    found = zip(keys, asked.ends, asked.addends, strict=True)
    return {key for key, end, addend in found if addend >= 0 and isinstance(end, IssuedId)}


def _op_of(asked: HoldRequest, index: int, holding: Holding | None, end: End, addend: int) -> Op | None:
    """Return the operation on holds that a descriptor needs; None for none.

    A charge and a refund with an id count once in every bucket, also of a rule without holds. Far from the
    limit, charges without an id ended no hold, and some of them are learned from.
    """
    if end is UNKNOWN:
        return None
    if addend < 0:
        return Op.REFUND if isinstance(end, IssuedId) else None
    if addend:
        if holding is None:
            return Op.CHARGE if isinstance(end, IssuedId) else None
        holding.learned.note(addend, with_id=isinstance(end, IssuedId))
        wanted = isinstance(end, IssuedId) or holding.near(asked.now) or holding.sampled()
        return Op.CHARGE if wanted else None
    if holding is None:
        return None
    if end is not None:
        return Op.RELEASE
    return None if asked.denied or index in asked.without_addend else Op.TAKE


def _end(
    key: str,
    op: Op,
    holding: Holding | None,
    asked: HoldRequest,
    index: int,
    charge: int,
    issued: IssuedId | None,
) -> HoldHit:
    size, life = (NO_SIZE, DEFAULT_LIFE) if holding is None else (holding.size(), holding.rule.life)
    own = None
    if issued is not None and issued.domain == asked.request.domain:
        entries = asked.request.descriptors[index].entries
        own = next((hold for hold in issued.holds if hold.entries == entries), None)
    part = 1.0 if holding is None or issued is not None else holding.part(asked.now)
    return _ending(key, op, size, life, asked.now, charge, issued, own, part)


def with_ends(request: Request, ids: HoldIds | None, now: int) -> tuple[Request, list[End]]:
    """Return a request, and for each of its descriptors what it brings back.

    A descriptor with nothing but an id is replaced by the descriptors of its check, except for those that the
    request already has. Gateways send such a descriptor in addition, in case a route changes the headers that
    the others come from.
    """
    known: dict[bytes, End] = {b"": MARKED}
    ends: list[End] = []
    for text in request.returned:
        if text is not None and text not in known:
            known[text] = (ids.read(text, now) if ids is not None else None) or UNKNOWN
        ends.append(None if text is None else known[text])
    if all([descriptor.entries for descriptor in request.descriptors]):
        return request, ends
    present = {descriptor.entries for descriptor in request.descriptors}
    descriptors: list[Descriptor] = []
    of_descriptors: list[End] = []
    for descriptor, end in zip(request.descriptors, ends, strict=True):
        if descriptor.entries or not isinstance(end, IssuedId) or end.domain != request.domain:
            descriptors.append(descriptor)
            of_descriptors.append(end)
            continue
        missing = [hold.entries for hold in end.holds if hold.entries not in present]
        descriptors += [descriptor._replace(entries=entries) for entries in missing]
        of_descriptors += [end] * len(missing)
        if not missing:  # a check keeps its place in the answer
            descriptors.append(descriptor._replace(entries=end.holds[0].entries, hits_addend=0))
            of_descriptors.append(UNKNOWN)
    return request._replace(descriptors=tuple(descriptors), key=b""), of_descriptors


def elsewhere(request: Request, ends: Sequence[End]) -> list[tuple[IssuedId, IssuedHold]]:
    """Return the holds of returned ids that are in other buckets than those of the request."""
    present = {descriptor.entries for descriptor in request.descriptors}
    found: list[tuple[IssuedId, IssuedHold]] = []
    for issued in {end.name: end for end in ends if isinstance(end, IssuedId)}.values():
        here = present if issued.domain == request.domain else ()
        found += [(issued, hold) for hold in issued.holds if hold.tokens and hold.entries not in here]
    return found


def release(key: str, issued: IssuedId, hold: IssuedHold, now: int) -> HoldHit:
    """Return the hit that ends a hold in another bucket than that of the charge."""
    return _ending(key, Op.RELEASE, NO_SIZE, DEFAULT_LIFE, now, 0, issued, hold)


def has_seconds(rule: Rule) -> bool:
    """Return whether a rule has windows of seconds, whose counters may be in a store of their own."""
    return any([limit.window.unit is Unit.SECOND for limit in rule.limits])

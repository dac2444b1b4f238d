"""The holds of one bucket, and the estimates from its charges. holds.lua is the twin of this module.

Holds are kept in slots by the second at which they expire, as a sum and a number: what a bucket keeps does
not grow with its requests in flight. A charge without an id ends the oldest hold, whose request is the
likeliest to end next; the sum is right whichever hold it was.

Not every check is charged: gateways send nothing for an aborted request. With the full size for each check,
such holds would pile up until they expire, and block the bucket. So a check sets aside its size times
`share`, the share of holds that did not expire.
"""

from __future__ import annotations

import math

from .hit import CHARGE, MOST, MOST_HELD, REFUND, TAKE, HoldHit, Size

LEARN = 1 / 46
"""The weight of a new charge: the last 32 charges have half of the weight."""

REMEMBERED = 120
"""Seconds for which an id that came back is remembered. A gateway's retry comes within a second."""

MOST_IDS = 20_000
"""The ids of a bucket that are remembered; the oldest are forgotten first."""

_MOST_KNOWN = 1_000
_REFUSAL = 2
"""Seconds in which the end of a refused request is reported, by gateways with a marker."""
_FIRST_DELAY, _LONGEST_DELAY = 2, 10


class Holds:
    """The holds of a bucket. Every method takes the time from its hit; all steps are those of holds.lua."""

    __slots__ = (
        "_last",
        "_slot",
        "_soonest",
        "_tokens",
        "_tokens_held",
        "_whole",
        "charges",
        "flight",
        "ids",
        "marked",
        "mean",
        "refusals",
        "refused_at",
        "share",
        "slots",
        "square",
    )

    def __init__(self) -> None:
        self.slots: dict[int, list[int]] = {}
        """The tokens and the number of holds that expire in a second."""
        self._tokens_held = 0
        """The sum of all slots."""
        self._soonest = 0
        """No slot expires before this second; 0 where that is not known."""
        self._last: HoldHit | None = None
        """The hit that was applied last, if it was a TAKE that held something."""
        self._tokens = 0
        self._slot: list[int] = []
        """What that hit holds, and its slot."""
        self._whole = 0
        """Whether its hold lasts as long as `life`, and so is counted in the slot."""
        self.charges = 0
        """How many charges it has learned from, up to 1000."""
        self.mean = 0.0
        self.square = 0.0
        """The decayed mean of the charges, and of their squares."""
        self.share = 1.0
        self.flight = 0.0
        """The decayed mean of the seconds that a request is in flight; 0 where it is not known."""
        self.marked = 0
        """Whether gateways report the end of refused requests (HOLD_DONE_ENTRY)."""
        self.refusals = 0
        """Refused requests whose end has not been reported, the last one at `refused_at`."""
        self.refused_at = 0
        self.ids: dict[str, int] = {}
        """When an id came back: `c` and the id for a charge, `n` for a refund, `r` for a release."""

    def held(self, now: int) -> int:
        """Return the tokens that are held."""
        if now < self._soonest:
            return min(self._tokens_held, MOST_HELD)
        return min(sum([slot[0] for expiry, slot in self.slots.items() if expiry > now]), MOST_HELD)

    def delay(self) -> int:
        """Return the seconds after which a request that holds have refused is to be retried.

        SDKs retry twice: half the time in flight lets the second retry find the hold ended.
        """
        if not self.flight:
            return _FIRST_DELAY
        return max(1, min(_LONGEST_DELAY, math.ceil(self.flight / 2)))

    def knows(self, hit: HoldHit) -> bool:
        """Return whether the charge or the refund of this hit was counted before."""
        return self._came_back(_mark(hit), hit.now)

    def forget(self, hit: HoldHit) -> None:
        """Forget that the charge or the refund of this hit came back: it was not counted."""
        self.ids.pop(_mark(hit), None)

    def refuse(self, hit: HoldHit) -> None:
        """Note a refused TAKE: its gateway may report the end of the request, which ends no hold."""
        if self.marked:
            self.refusals = self.refusals + 1 if hit.now <= self.refused_at + _REFUSAL else 1
            self.refused_at = hit.now

    def take_again(self, hit: HoldHit, left: int) -> int:
        """Apply the TAKE that was applied last once more, and return its tokens.

        Return 0, and do nothing, if it was another one, or if all that is `left` of a counter may be held.
        Checks of one second share their hit, and nothing but what is held has changed between them.
        """
        if hit is not self._last or left <= self._tokens_held:
            return 0
        tokens, slot = self._tokens, self._slot
        slot[0] += tokens
        slot[1] += self._whole
        self._tokens_held += tokens
        return tokens

    def apply(self, hit: HoldHit) -> tuple[int, int]:
        """Apply a hit, and return its tokens and how many holds it found expired."""
        self._last = None
        now = hit.now
        expired = 0 if now < self._soonest else self._expire(now)
        if hit.op is TAKE:
            return self._take(hit), expired
        if hit.op is REFUND:
            self._remember(f"n{hit.id}", now)
            return 0, expired
        self.share += LEARN * (1 - self.share)
        if hit.op is CHARGE:
            self._learn(hit.charge)
            if not hit.id:
                return self._release_oldest(hit), expired
            self._remember(f"c{hit.id}", hit.now)
        elif not hit.id and not hit.tokens:
            self.marked = 1
            if self.refusals and hit.now <= self.refused_at + _REFUSAL:
                self.refusals -= 1
                return 0, expired
            return self._release_oldest(hit), expired
        if not hit.tokens or (hit.id and self._came_back(f"r{hit.id}", hit.now)):
            return 0, expired
        if hit.id:
            self._remember(f"r{hit.id}", hit.now)
        return self._release(hit), expired

    def _expire(self, now: int) -> int:
        """Remove the slots that have expired, and return how many holds were in them."""
        expired = 0
        for expiry in [expiry for expiry in self.slots if expiry <= now]:
            tokens, many = self.slots.pop(expiry)
            self._tokens_held -= tokens
            expired += many
        self._soonest = min(self.slots, default=0)
        if expired:
            self.share *= (1 - LEARN) ** expired
        return expired

    def _tokens_of(self, size: Size, share: float) -> int:
        fixed, deviations, otherwise, most = size
        tokens: float = fixed
        if not tokens:
            tokens = otherwise
            if self.charges:
                variance = max(0.0, self.square - self.mean * self.mean)
                tokens = self.mean + deviations * math.sqrt(variance)
        return math.floor(min(tokens, most, MOST) * share + 0.5)

    def _take(self, hit: HoldHit) -> int:
        tokens = self._tokens_of(hit.size, self.share)
        if tokens:
            expiry, life = hit.expiry, hit.life
            slot = self.slots.get(expiry)
            if slot is None:
                slot = self.slots[expiry] = [0, 0]
                self._soonest = min(self._soonest or expiry, expiry)
            slot[0] += tokens
            self._tokens_held += tokens
            # A hold that ends with its window does not say that its request was never charged.
            self._whole = int(expiry > hit.now + life - slot_width(life))
            slot[1] += self._whole
            self._last, self._tokens, self._slot = hit, tokens, slot
        return tokens

    def _learn(self, charge: int) -> None:
        weight = max(LEARN, 1 / (self.charges + 1))
        self.mean += weight * (charge - self.mean)
        self.square += weight * (charge * charge - self.square)
        self.charges = min(self.charges + 1, _MOST_KNOWN)

    def _flew(self, seconds: int) -> None:
        self.flight += (LEARN if self.flight else 1.0) * (max(seconds, 1) - self.flight)

    def _release_oldest(self, hit: HoldHit) -> int:
        wanted = left = self._tokens_of(hit.size, hit.part)
        one = int(hit.part >= 0.5)
        for expiry in sorted(self.slots):
            if not left and not one:
                break
            slot = self.slots[expiry]
            if one and slot[1]:
                slot[1] -= 1
                one = 0
                self._flew(hit.now + hit.life - expiry)
            taken = min(left, slot[0])
            slot[0] -= taken
            self._tokens_held -= taken
            left -= taken
            if not slot[0] and not slot[1]:
                del self.slots[expiry]
        return wanted - left

    def _release(self, hit: HoldHit) -> int:
        self._flew(hit.now - hit.made)
        slot = self.slots.get(hit.expiry)
        if slot is None:
            return 0
        taken = min(hit.tokens, slot[0])
        slot[0] -= taken
        self._tokens_held -= taken
        slot[1] = max(0, slot[1] - 1)
        if not slot[0] and not slot[1]:
            del self.slots[hit.expiry]
        return taken

    def _came_back(self, mark: str, now: int) -> bool:
        before = self.ids.get(mark)
        return before is not None and before > now - REMEMBERED

    def _remember(self, mark: str, now: int) -> None:
        ids = self.ids
        # Never before the others: if the clock has gone back, the newest id would be the first to be
        # forgotten.
        time = max(now, next(reversed(ids.values()), now))
        ids.pop(mark, None)
        ids[mark] = time
        while ids:
            oldest = next(iter(ids))
            if len(ids) <= MOST_IDS and ids[oldest] > now - REMEMBERED:
                break
            del ids[oldest]


def _mark(hit: HoldHit) -> str:
    """Return the mark by which the charge or the refund of an id counts once."""
    return f"{'n' if hit.op is REFUND else 'c'}{hit.id}"


def slot_width(life: int) -> int:
    """Return the seconds of one slot: a twelfth of what a hold lasts."""
    return max(1, life // 12)


def expiry_of(now: int, life: int, end: int) -> int:
    """Return when a hold that is taken now expires, never after `life` seconds nor after `end`."""
    width = slot_width(life)
    return min(now // width * width + life, end)

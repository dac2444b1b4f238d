"""A hit on the holds of a bucket, and the result that the store returns for it."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from ..gates import Gate
from ..hit import Hit

SUFFIX: Final = "held"
"""The key of the holds of a bucket is `<bucket>:held`, beside its counters `<bucket>:<window>:<start>`."""

IDS: Final = ":ids"
"""The key of the ids that came back is `<bucket>:held:ids`."""


def is_of_holds(key: str) -> bool:
    """Return whether a key is of holds, and not a counter."""
    return key.endswith(_ENDS)


_ENDS = (f"}}:{SUFFIX}", f"}}:{SUFFIX}{IDS}")


class Op(IntEnum):
    """The operation of a hit."""

    TAKE = 1
    """Set tokens aside for a check, unless the group is refused."""
    CHARGE = 2
    """End the hold of a charge, and learn from its amount."""
    RELEASE = 3
    """End the hold of a request that costs nothing."""
    REFUND = 4
    """Count the refund of an id once; it ends no hold."""


ASIDE: Final = Gate.ASIDE
TAKE, CHARGE, RELEASE, REFUND = Op.TAKE, Op.CHARGE, Op.RELEASE, Op.REFUND
"""Python 3.11 looks up the members of an enum slowly."""


class Size(NamedTuple):
    """The size of a hold.

    `fixed` tokens; or where that is 0, the mean of the bucket's charges and `deviations` standard deviations
    more. A bucket without charges uses `otherwise`. `most` bounds each of them.
    """

    fixed: int
    deviations: float
    otherwise: int
    most: int


NO_SIZE = Size(0, 0.0, 0, 0)


class HoldHit(Hit):
    """A hit on the holds of a bucket, in the same group as the hits on its counters.

    Its `amount` is 0: a hold is never in a counter. Times are in seconds since 1970, by the planner's `now`.
    """

    __slots__ = ("charge", "expiry", "id", "life", "made", "now", "op", "part", "size", "tokens")

    def __init__(
        self,
        key: str,
        *,
        ttl: int,
        op: Op,
        now: int,
        life: int,
        expiry: int = 0,
        size: Size = NO_SIZE,
        charge: int = 0,
        part: float = 1.0,
        tokens: int = 0,
        made: int = 0,
        id: str = "",  # noqa: A002  # the name of the field
        limit: int = 0,
        gate: int = Gate.ASIDE,
    ) -> None:
        super().__init__(key, 0, ttl=ttl, limit=limit, gate=gate)
        self.op = op
        self.now = now
        self.life = life
        """The seconds that a hold lasts at most (`hold_ttl`)."""
        self.expiry = expiry
        """When the hold expires: that of a new one, or of the one that `id` names; 0 if that is unknown."""
        self.size = size
        self.charge = charge
        """CHARGE: its amount."""
        self.part = part
        """CHARGE and RELEASE without an id: the part of a hold that ends."""
        self.tokens = tokens
        """CHARGE and RELEASE with an id: the tokens that its check has set aside in this bucket."""
        self.made = made
        """CHARGE and RELEASE with an id: the time of its check."""
        self.id = id
        """The id, by which CHARGE and RELEASE count once; empty without one."""

    def values(self) -> tuple[object, ...]:
        """Return the values of all fields."""
        own = (
            self.op,
            self.now,
            self.life,
            self.expiry,
            self.size,
            self.charge,
            self.part,
            self.tokens,
            self.made,
            self.id,
        )
        return (*super().values(), *own)

    def is_over(self, before: int) -> bool:
        """Return False: the result of this hit is not the use of a counter."""
        return False

    @property
    def bucket(self) -> str:
        """The beginning of the keys of the counters of this bucket."""
        return self.key[: -len(SUFFIX)]


# The store returns one integer for a HoldHit, as for every hit.

ABOVE: Final = 2**34
"""Above the largest hold: a result is the tokens of a hold, and ABOVE for each expired one."""
MOST = ABOVE - 1
"""The largest hold."""
_DELAYS = 16
_MOST_EXPIRED = 2**17
MOST_HELD = 2**48
"""The largest number of held tokens that `refused_by` can return."""


def done(tokens: int, expired: int) -> int:
    """Return the result of a hit that was applied: its tokens, and the number of holds that it found
    expired.
    """
    return min(expired, _MOST_EXPIRED) * ABOVE + tokens


def refused_by(held: int, delay: int) -> int:
    """Return the result of a TAKE that found too many tokens held: their number, and the seconds until a
    retry.
    """
    return -1 - (min(held, MOST_HELD) * _DELAYS + delay)


def tokens_in(result: int) -> int:
    """Return the tokens of `done`."""
    return result % ABOVE


def expired_in(result: int) -> int:
    """Return the expired holds of `done`."""
    return result // ABOVE


def held_in(result: int) -> int:
    """Return the held tokens of `refused_by`."""
    return (-1 - result) // _DELAYS


def delay_in(result: int) -> int:
    """Return the delay of `refused_by`."""
    return (-1 - result) % _DELAYS

"""The secret of the ids of holds, which all replicas share through the store."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable
from secrets import token_hex

from ..core.errors import StoreError
from ..core.holds.ids import HoldIds
from ..core.matching.tree import RuleTree
from ..ports import AmendmentStore

_LOOKED_FOR_EVERY = 1.0
"""Seconds between two attempts until there is a secret."""

_CONFIRMED_EVERY = 60.0
"""Seconds between two looks at it: after FLUSHALL, another replica may have begun with another secret."""


def hold_ids() -> HoldIds:
    """Return the ids of holds, without a secret; each process counts its own nonces, from a random number of
    95 bits.
    """
    numbers = itertools.count(int.from_bytes(os.urandom(12)) >> 1)
    return HoldIds(map(int.to_bytes, numbers, itertools.repeat(12)).__next__)


def holds_tokens(tree: RuleTree | None) -> bool:
    """Return whether a rule has holds."""
    return tree is not None and any(rule.hold is not None for rule in tree.rules)


class SharedSecret:
    """Gives `ids` the secret that is in `store`, or puts one there, once a rule has holds."""

    def __init__(
        self,
        ids: HoldIds,
        store: AmendmentStore,
        tree: Callable[[], RuleTree | None],
    ) -> None:
        self._ids = ids
        self._store = store
        self._tree = tree
        self._proposal = token_hex(32)

    async def run(self) -> None:
        """Keep the secret for as long as the process serves."""
        while True:
            await self.refresh()
            await asyncio.sleep(_CONFIRMED_EVERY if self._ids.ready else _LOOKED_FOR_EVERY)

    async def refresh(self) -> None:
        """Take over the secret in the store. Without one nothing is issued, and holds have no ids."""
        if not holds_tokens(self._tree()):
            return
        try:
            self._proposal = await self._store.secret(self._proposal)
        except StoreError:
            return
        self._ids.use(self._proposal.encode())

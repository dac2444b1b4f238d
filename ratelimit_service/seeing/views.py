"""What people see of a running service; the API and the command line call this and nothing below it."""

from __future__ import annotations

from ..core.budgets.bucket import Budget
from ..core.model import Entry
from .listing import Lister, Listing
from .query import Query


class Views:
    """The views of one service."""

    def __init__(self, lister: Lister) -> None:
        self._lister = lister

    async def budgets(self, query: Query, cursor: str = "") -> Listing:
        """Return one page of budgets. Raises InvalidRequest or StoreError."""
        return await self._lister.budgets(query, cursor)

    async def bucket(self, domain: str, entries: tuple[Entry, ...]) -> Budget | None:
        """Return the bucket of a descriptor; None where no rule limits it. Raises StoreError."""
        return await self._lister.budget(domain, entries)

    async def close(self) -> None:
        """End what runs in the background."""
        await self._lister.close()

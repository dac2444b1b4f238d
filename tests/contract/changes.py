"""Changes of amendments."""

from __future__ import annotations

from ratelimit_service.core.amendments.model import Amendment, Change, Put, Remove, Reset, override
from ratelimit_service.core.amendments.target import parse
from ratelimit_service.ports import AmendmentStore

NOW = 1_795_249_200
TARGET = parse("d", r"team=d\,ba,model=\xFF*")
ONE = override(TARGET, 5, since=NOW, author="ana", reason="a café")
TWO = override(parse("d", "*"), 0, since=NOW, author="ana", reason="a café")


def change(*edits: Put | Remove | Reset, key: str = "key", at: int = NOW) -> Change:
    return Change(key, "ana", "a café", edits, at)


async def current(store: AmendmentStore) -> list[Amendment]:
    """Return all amendments, sorted by id."""
    news = await store.news(0, "")
    assert news.whole or not news.version
    return sorted(news.put, key=lambda amendment: amendment.id)


def ordered(*amendments: Amendment) -> list[Amendment]:
    return sorted(amendments, key=lambda amendment: amendment.id)

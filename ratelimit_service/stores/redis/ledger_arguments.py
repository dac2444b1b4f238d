"""The arguments of hit.lua for the entries of ledgers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...core.gates import Gate
from ...core.ledger.entries import Record
from ...core.model import COUNTER_MAX
from ..batch import Groups
from .wire import Argument

_AS_HIT, _CHARGED, _REFUSED = 0, 1, 2
"""The forms of entries (hit.lua)."""
_FIELDS = 6
"""The arguments of an entry with an amount of its own."""


def ledger_arguments(
    groups: Groups, place_of: Sequence[int] | None, amounts: Sequence[int], first: int, gates: int
) -> tuple[list[str], list[Argument]]:
    """Return the books and the arguments for the entries of a batch.

    `place_of` and `amounts` are those of ScriptCall, `first` is the place of the first hit in the script, and
    `gates` has the gates of all hits.

    Entries of one counter and one period are added up, as its charges are. Nearly all entries of a batch have
    the amount of their counter's hit, one name and one time to live, so that each costs a key and its place.
    """
    found = _usual(groups, place_of) if not gates & Gate.ENTRY else None
    if found is None:
        return _unusual(groups, place_of, amounts, first)
    runs: dict[tuple[str, int], tuple[list[int], list[str]]] = {}
    entry, life = "", -1
    places: list[int] = []
    books: list[str] = []
    for at, (book, its_entry, its_life, _) in found.items():
        if its_life != life or its_entry != entry:
            entry, life = its_entry, its_life
            places, books = runs.setdefault((entry, life), ([], []))
        places.append(at + first)
        books.append(book)
    return _runs(runs)


def _usual(groups: Groups, place_of: Sequence[int] | None) -> dict[int, Record] | None:
    """Return the entry of each of the script's hits, by its index; None if one has not the amount of its
    hit.
    """
    found: dict[int, Record] = {}
    at = 0
    if place_of is None:
        for group in groups:
            for hit in group:
                if hit.into is not None:
                    found[at] = hit.into
                at += 1
        return found
    without: list[int] = []
    for group in groups:
        for hit in group:
            into = hit.into
            if into is not None:
                if found.setdefault(place_of[at], into) is not into:
                    return None
            elif hit.amount:
                without.append(place_of[at])
            at += 1
    return found if found.keys().isdisjoint(without) else None


def _unusual(
    groups: Groups, place_of: Sequence[int] | None, amounts: Sequence[int], first: int
) -> tuple[list[str], list[Argument]]:
    """Return the books and the arguments of any entries."""
    sums: dict[tuple[int, Record], int] = {}
    refused: set[int] = set()
    hits = [hit for group in groups for hit in group]
    for at, hit in zip(range(len(hits)) if place_of is None else place_of, hits, strict=True):
        into = hit.into
        if into is not None:
            sums[at, into] = sums.get((at, into), 0) + hit.amount
            if hit.gate & Gate.ENTRY:
                refused.add(at)
    runs: dict[tuple[str, int], tuple[list[int], list[str]]] = {}
    more: list[Argument] = []
    books_of_more: list[str] = []
    for (at, into), amount in sums.items():
        if amount == amounts[at + first - 1] and at not in refused:
            places, of_run = runs.setdefault((into.entry, into.life), ([], []))
            places.append(at + first)
            of_run.append(into.book)
            continue
        form = _REFUSED if at in refused else _CHARGED
        more += (form, into.entry, into.life, 1, at + first, min(amount, COUNTER_MAX))
        if form == _CHARGED:
            books_of_more.append(into.book)
    books, arguments = _runs(runs)
    arguments[0] = len(runs) + len(more) // _FIELDS
    return books + books_of_more, arguments + more


def _runs(runs: Mapping[tuple[str, int], tuple[list[int], list[str]]]) -> tuple[list[str], list[Argument]]:
    """Return the books and the arguments of entries with the amounts of their hits, by name and time to
    live.
    """
    arguments: list[Argument] = [len(runs)]
    books: list[str] = []
    for (entry, life), (places, of_run) in runs.items():
        arguments += (_AS_HIT, entry, life, len(places))
        arguments += places
        books += of_run
    return books, arguments

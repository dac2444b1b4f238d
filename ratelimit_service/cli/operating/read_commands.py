"""The commands that read: `budgets`, `show`, `explain`, `audit` and `wait`. Each returns its exit code."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ...core.text import printable
from ..answer import duration
from . import formatting
from .client import NO, Client, RequestFailed
from .formatting import Json

_STILL_READING = "the store is still being read"
_ASKED_AGAIN = 0.3
_READ_WITHIN = 10.0
"""Seconds for which a list is requested again while the service still reads its store."""

_PAGE, _LINES = 500, 100
"""Budgets of a page of the API, and lines of one of the audit."""

_MOST_GATHERED = 20_000
"""Budgets of several parts that are sorted together."""

_WIDE = 120
"""Columns of a line that does not go to a terminal."""

_COLUMNS = (
    (7, "STATE"),
    (5, "USED"),
    (6, ""),
    (8, "OF"),
    (9, "WINDOW"),
    (12, "RESETS IN"),
    (12, "RUNS OUT IN"),
)


def print_json(found: object) -> None:
    """Print an answer as JSON."""
    print(json.dumps(found, indent=2))


def budgets(client: Client, query: Mapping[str, Any], most: int, *, as_json: bool) -> int:
    """Print budgets, at most `most`."""
    found, last = listed(client, query, most)
    if as_json:
        print_json({**last, "budgets": found})
        return 0
    width = shutil.get_terminal_size((_WIDE, 24)).columns if sys.stdout.isatty() else _WIDE
    if found:
        print("\n".join(table(found, width, several=not query.get("domain"))))
    for note in notes(found, last):
        print(note, file=sys.stderr)
    return 0


def listed(client: Client, query: Mapping[str, Any], most: int) -> tuple[list[Json], Json]:
    """Return budgets, and the last page of them. Waits a little while the service still reads its store.

    The service sorts many budgets part by part. With a filter by use or state, all parts are read, and sorted
    together.
    """
    found: list[Json] = []
    cursor: str | None = None
    everything = bool(query.get("min_used") or query.get("state"))
    wanted = _MOST_GATHERED if everything else most
    end = time.monotonic() + _READ_WITHIN
    while True:
        page = client.get("/budgets", **{**query, "limit": min(_PAGE, wanted - len(found)), "cursor": cursor})
        reading = str(page["partial_reason"] or "").startswith(_STILL_READING)
        if reading and time.monotonic() < end:
            time.sleep(_ASKED_AGAIN)  # what is found later may come before what is found by now
            continue
        found += page["budgets"]
        cursor, end = page["next_cursor"], time.monotonic() + _READ_WITHIN
        if not cursor or len(found) >= wanted or reading:
            break
    if everything and query.get("sort") == "-used":
        found.sort(key=lambda each: (each["state"] != "blocked", -each["share"]))
    if len(found) > most:
        page = {**page, "next_cursor": "more", "total": page["total"] or len(found)}
    return found[:most], page


def notes(found: Sequence[Json], last: Json) -> Iterator[str]:
    """Yield remarks about a list."""
    if not found:
        domains = ", ".join(map(formatting.text, last["domains"][:10])) or "none"
        yield f"no budget matches; the domains in force: {domains}"
    elif last["next_cursor"]:
        total = f" of {last['total']:,}" if last["total"] else ""
        yield f"{len(found):,}{total} shown: raise --limit for more"
    if last["partial"]:
        yield f"note: {formatting.text(last['partial_reason'])}"


def table(found: Sequence[Json], width: int, *, several: bool, now: datetime | None = None) -> list[str]:
    """Return a line for each budget, with its most used window."""
    now = now or datetime.now(UTC)
    head = [formatting.padded(name, columns) for columns, name in _COLUMNS]
    lines = [formatting.cut(" ".join([*head, "DESCRIPTOR"]), width)]
    lines += [formatting.cut(" ".join(row(each, now, several=several)), width) for each in found]
    return lines


def row(found: Json, now: datetime, *, several: bool) -> list[str]:
    """Return the cells of a budget, as wide as the columns of the table."""
    window = formatting.tightest(found)
    cells = [formatting.text(found["state"])]
    if window is None:
        cells += ["", "", "", "", "", ""]
    else:
        limit = window["effective_limit"]
        cells += [
            formatting.percent(window["share"]) if limit is not None else "",
            formatting.short(window["used"]).rjust(6),
            f"of {formatting.short(limit)}" if limit is not None else "",
            formatting.text(window["window"]),
            formatting.until(window["resets_at"], now),
            formatting.until(window["runs_out_at"], now),
        ]
    columns = [columns for columns, _ in _COLUMNS]
    shadow = " (shadow mode)" if found["shadow"] else ""
    domain = f"{formatting.text(found['domain'])}: " if several else ""
    fixed = [formatting.padded(cell, wide) for cell, wide in zip(cells, columns, strict=True)]
    return [*fixed, f"{domain}{formatting.name_of(found)}{shadow}"]


def show(client: Client, domain: str, descriptor: str, *, as_json: bool) -> int:
    """Print one bucket with all its windows."""
    try:
        found = client.post("/bucket", {"domain": domain, "descriptor": descriptor})
    except RequestFailed as error:
        if error.status == 404:
            raise RequestFailed(f"{error}: `ratelimit-service explain` says why", NO, 404) from None
        raise
    if as_json:
        print_json(found)
    else:
        print("\n".join(formatting.one_budget(found)))
    return 0


def explain(client: Client, domain: str, descriptor: str, hits: int, *, as_json: bool) -> int:
    """Print the answer that a descriptor would get now, and the reasons; return NO if it would be refused."""
    found = client.post("/explain", {"domain": domain, "descriptor": descriptor, "hits": hits})
    if as_json:
        print_json(found)
    else:
        print("\n".join(explained(found)))
    return NO if found["code"] == "OVER_LIMIT" else 0


def explained(found: Json) -> Iterator[str]:
    """Yield the lines of an explanation."""
    yield f"{formatting.text(found['code'])}: {formatting.text(found['reason'])}"
    if found["message"]:
        yield f"  a caller reads: {formatting.text(found['message'])}"
    if found["budget"] is not None:
        yield from formatting.one_budget(found["budget"])
    if found["considered"]:
        yield "rules:"
    for each in found["considered"]:
        mark = "*" if each["wins"] else " "
        source = f" ({formatting.text(each['source'])})" if each["source"] else ""
        yield f"  {mark} {formatting.text(each['rule'])}{source}: {formatting.text(each['reason'])}"
    if found["considered_left_out"]:
        yield f"    and {found['considered_left_out']:,} more"
    if found["amendments"]:
        yield "amendments:"
    for each in found["amendments"]:
        mark = "*" if each["holds"] else " "
        yield f"  {mark} {formatting.amendment(each)}: {formatting.text(each['why'])}"
    if found["possible"]:
        yield "with more entries:"
    for each in found["possible"]:
        missing = ", ".join(map(formatting.text, each["missing"]))
        yield f"    {formatting.text(each['rule'])}: needs {missing} as well"
    if found["possible_more"]:
        yield "    and others"


def audit(client: Client, most: int, *, as_json: bool) -> int:
    """Print the last changes, the latest first."""
    lines: list[Json] = []
    cursor: str | None = None
    while len(lines) < most:
        page = client.get("/audit", limit=min(_LINES, most - len(lines)), cursor=cursor)
        lines += page["lines"]
        cursor = page["next_cursor"]
        if not cursor:
            break
    if as_json:
        print_json({"lines": lines, "next_cursor": cursor})
    elif lines:
        print("\n".join(map(formatting.audit_line, lines)))
    else:
        print("nothing was changed yet", file=sys.stderr)
    return 0


def wait(
    client: Client,
    *,
    generation: int,
    digest: str,
    amendments: int,
    replicas: int,
    timeout: float,
    as_json: bool,
) -> int:
    """Wait until all replicas enforce the given rules or amendments, or else the same ones; return NO if the
    time is over.
    """
    end = time.monotonic() + timeout
    late: list[str] = []
    found: Json = {"replicas": []}
    while True:
        try:
            found = client.get("/replicas")
        except RequestFailed as error:
            if 400 <= error.status < 500 and error.status != 429:  # a retry gets the same answer
                raise
            late = [str(error)]
        else:
            late = list(behind(found["replicas"], generation, digest, amendments, replicas))
        if not late or time.monotonic() >= end:
            break
        time.sleep(min(0.5, max(0.0, end - time.monotonic())))
    if as_json:
        print_json({**found, "done": not late, "behind": late})
    elif late:
        print("\n".join([f"not within {timeout:g} s:", *[f"  {line}" for line in late]]), file=sys.stderr)
    else:
        print(f"{_count(len(found['replicas']), 'replica')} in step: {_standing(found['replicas'][0])}")
    return NO if late else 0


def behind(
    found: Sequence[Json], generation: int, digest: str, amendments: int, replicas: int
) -> Iterator[str]:
    """Yield a line for each replica that lags. Without a generation or a hash, all replicas need the latest
    rules.
    """
    if len(found) < replicas:
        yield f"there are {len(found)} of {replicas} replicas"
    latest = max([each["generation"] or 0 for each in found], default=0)
    wanted = max(amendments, *[each["amendments_version"] for each in found]) if found else amendments
    if amendments:
        wanted = amendments
    for each in found:
        has = each["generation"] or 0
        good = (
            has >= generation
            if generation
            else str(each["hash"] or "").startswith(digest)
            if digest
            else (has == latest and has > 0)
        )
        if not good or each["amendments_version"] < wanted:
            lag = (
                f", behind for {duration(int(each['behind_seconds']))}" if each["behind_seconds"] >= 1 else ""
            )
            yield f"{printable(str(each['id']))}: {_standing(each)}{lag}"


def _standing(found: Json) -> str:
    digest = printable(str(found["hash"] or ""))[:12] or "none"
    return (
        f"rules of generation {found['generation'] or 'none'} ({digest}), "
        f"amendments {found['amendments_version']}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

"""Prints the output of `compare`: differences as they are found, and a summary at the end, as text or as
lines of JSON.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ...core.text import excerpt, printable, shorten
from ...proto.ratelimit_pb2 import RateLimitDescriptor, RateLimitRequest
from .answers import Answer
from .comparer import FOLLOWS, Comparer, Comparison, Finding
from .reasons import REASONS, REFUSAL

TEXTS = {reason.name: reason.text for reason in (*REASONS, REFUSAL)} | {
    FOLLOWS: "an earlier difference in the same bucket explains it",
}
"""The text of each reason; docs/compatibility.md explains it."""

_LONGEST = 200
"""Of a value that is shown."""

_HINTS = {
    "statuses.current_limit": "do both have the same rules?",
    "statuses.current_limit.unit": "do both have the same rules?",
    "statuses": "one of them has not answered for every descriptor",
}


class Report:
    """Prints findings.

    For the same differences in the same kind of descriptor, it prints at most `most` requests.
    """

    def __init__(
        self,
        *,
        as_json: bool = False,
        most: int = 20,
        everything: bool = False,
        put: Callable[[str], None] | None = None,
    ) -> None:
        self._json = as_json
        self._most = most
        self._everything = everything
        self._put = put or partial(print, flush=True)  # a pipe would otherwise be buffered
        self._shown: Counter[object] = Counter()
        self.requests = self.same = self.unexplained = 0
        self.explained: Counter[str] = Counter()
        """The number of requests with a reason, by reason; a request may have several."""
        self.not_compared: Counter[str] = Counter()
        """The number of requests that were not compared, by cause."""

    def compare(
        self,
        comparer: Comparer,
        request: RateLimitRequest,
        theirs: Answer,
        ours: Answer,
        overlapping: Sequence[int] = (),
    ) -> None:
        """Compare two answers, and add the outcome. A request whose answers cannot be compared is left
        out.
        """
        try:
            compared = comparer.compare(request, theirs, ours, overlapping)
        except Exception:  # such as NaN in the metadata; the requests after it are compared
            self.not_compared["the answers cannot be compared"] += 1
            comparer.forget(request)
        else:
            self.add(compared)

    def add(self, compared: Comparison) -> None:
        """Count one request, and print it if it has no reason, or if all are to be printed."""
        self.requests += 1
        if not compared.findings:
            self.same += 1
            return
        self.explained.update({finding.reason for finding in compared.findings if finding.reason})
        self.unexplained += compared.unexplained
        if not (compared.unexplained or self._everything):
            return
        kind = (
            compared.request.domain,
            tuple(tuple(entry.key for entry in each.entries) for each in compared.request.descriptors),
            tuple(sorted({(finding.difference.name, finding.reason) for finding in compared.findings})),
        )
        self._shown[kind] += 1
        if self._shown[kind] <= self._most:
            self._put(json.dumps(_as_json(compared)) if self._json else "\n".join(_lines(compared)))
        if len(self._shown) > 10_000:
            self._shown.clear()  # kinds depend on untrusted input

    def finish(self) -> None:
        """Print the summary."""
        if self._json:
            self._put(json.dumps({"kind": "summary", **self.summary()}))
            return
        counts = [f"{self.requests:,} requests: {self.same:,} answered alike"]
        differing = self.requests - self.same - self.unexplained
        if differing:
            counts.append(f"{differing:,} differ for known reasons")
        counts.append(f"{self.unexplained:,} differ without one")
        self._put(", ".join(counts))
        for name, number in self.explained.most_common():
            self._put(f"  {number:>9,}  {name}: {TEXTS[name]}")
        for why, number in self.not_compared.most_common():
            self._put(f"  {number:>9,}  not compared: {why}")

    def differs(self, *, strict: bool = False) -> bool:
        """Return whether a request differs without a reason; with `strict`, whether any request differs."""
        return self.unexplained > 0 or (strict and self.same < self.requests)

    def summary(self) -> dict[str, Any]:
        """Return the numbers of the summary."""
        return {
            "requests": self.requests,
            "same": self.same,
            "unexplained": self.unexplained,
            "explained": dict(self.explained),
            "not_compared": dict(self.not_compared),
        }


def _lines(compared: Comparison) -> list[str]:
    request = compared.request
    asked = "; ".join(_descriptor(request, each) for each in request.descriptors) or "no descriptor"
    lines = [f"#{compared.number} {printable(shorten(request.domain, _LONGEST))}: {asked}"]
    for finding in compared.findings:
        difference = finding.difference
        values = f"theirs {_shown(difference.theirs)}, ours {_shown(difference.ours)}"
        lines.append(f"  {printable(difference.field)}: {values}{_why(finding)}")
    return lines


def _why(finding: Finding) -> str:
    since = f", as since #{finding.since}" if finding.since else ""
    if finding.reason:
        return f"  [{finding.reason}{since}]"
    hint = _HINTS.get(finding.difference.name, "")
    return f"  [no reason known{since}{f': {hint}' if hint else ''}]"


def _descriptor(request: RateLimitRequest, descriptor: RateLimitDescriptor) -> str:
    entries = ",".join(
        f"{excerpt(each.key, _LONGEST)}={excerpt(each.value, _LONGEST)}" for each in descriptor.entries
    )
    if descriptor.HasField("hits_addend"):
        sign = "-" if descriptor.is_negative_hits else ""
        return f"{entries} hits {sign}{descriptor.hits_addend.value}"
    return f"{entries} hits {request.hits_addend}" if request.hits_addend else entries


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    return printable(shorten(value if isinstance(value, str) else json.dumps(value), _LONGEST))


def _as_json(compared: Comparison) -> dict[str, Any]:
    request = compared.request
    return {
        "kind": "difference",
        "number": compared.number,
        "domain": printable(request.domain),
        "descriptors": [_descriptor(request, each) for each in request.descriptors],
        "differences": [
            {
                "field": finding.difference.field,
                "theirs": finding.difference.theirs,
                "ours": finding.difference.ours,
                "reason": finding.reason or None,
                **({"since": finding.since} if finding.since else {}),
            }
            for finding in compared.findings
        ],
    }

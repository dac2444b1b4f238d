"""Reads recorded requests from lines of JSON: the decision log of this service, or an access log of Envoy.

A line of an access log has an object `ratelimit`, or a list of them; each is a call, in order:

    {"ratelimit": [{"domain": "token-budgets", "descriptors": [{"entries": [["team", "dba"]], "hits": 0}]},
                   {"domain": "token-budgets", "descriptors": [{"entries": [["team", "dba"]], "hits": 423}]}]}

As in a gateway, a descriptor with a null value is omitted, and so is a call without descriptors.
docs/migrating-from-envoyproxy-ratelimit.md has a configuration of the access log.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ...core.errors import InvalidRequest
from ...proto.ratelimit_pb2 import RateLimitDescriptor, RateLimitRequest

_CUT = re.compile(r"… \(\d+ (bytes|characters)\)$")
_MOST_HITS = 2**64 - 1


class Recording:
    """The requests in lines; `skipped` counts the lines that were not replayed, by reason."""

    def __init__(self, lines: Iterable[str], name: str) -> None:
        self._lines = lines
        self._name = name
        self.skipped: Counter[str] = Counter()
        self.requests = 0

    def __iter__(self) -> Iterator[RateLimitRequest]:
        started: list[Mapping[str, Any]] = []
        for number, text in enumerate(self._lines, 1):
            line = _object(text)
            if line is None or not ("ratelimit" in line or "descriptor" in line):
                if text.strip():
                    self.skipped["other lines"] += 1
                continue
            try:
                if "ratelimit" in line:
                    found = list(self._of_envoy(line["ratelimit"]))
                else:
                    started, whole = self._joined(started, line)
                    found = list(self._of_ours(whole)) if whole else []
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise InvalidRequest(
                    f"{self._name}:{number}: this is not a recorded request: {_cause(error)}"
                ) from None
            self.requests += len(found)
            yield from found
        if started:
            self.skipped["parts of requests"] += len(started)
        if not self.requests:
            raise InvalidRequest(
                f"{self._name}: no line is a request: give a decision log (DECISION_LOG=all), "
                "or an access log with `ratelimit` in each line"
            )

    def _joined(
        self, started: list[Mapping[str, Any]], line: Mapping[str, Any]
    ) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
        """Collect the lines of a request with several descriptors."""
        place, many = line.get("part", (1, 1))
        if place != len(started) + 1:
            self.skipped["parts of requests"] += len(started)
            started = []
            if place != 1:  # the log begins in the middle of a request
                self.skipped["parts of requests"] += 1
                return [], []
        started = [*started, line]
        return ([], started) if place == many else (started, [])

    def _of_ours(self, lines: list[Mapping[str, Any]]) -> Iterator[RateLimitRequest]:
        request = RateLimitRequest(domain=_text(lines[0]["domain"]))
        texts = [request.domain, *(text for line in lines for pair in line["descriptor"] for text in pair)]
        if any(_CUT.search(text) for text in texts):
            self.skipped["values that the log has cut"] += 1
            return
        for line in lines:
            self._add(
                request,
                line["descriptor"],
                "hits",
                {"hits": line["hits"]} if line["hits"] is not None else {},
            )
        yield request

    def _of_envoy(self, calls: Any) -> Iterator[RateLimitRequest]:
        for call in calls if isinstance(calls, list) else [calls]:
            request = RateLimitRequest(domain=_text(call["domain"]))
            for each in call["descriptors"]:
                entries = each["entries"]
                if any(text is None for pair in entries for text in pair) or each.get("hits", 0) is None:
                    continue
                self._add(request, entries, "hits", each)
                if limit := each.get("limit"):
                    request.descriptors[-1].limit.CopyFrom(
                        RateLimitDescriptor.RateLimitOverride(
                            requests_per_unit=int(limit["requests_per_unit"]), unit=str(limit["unit"]).upper()
                        )
                    )
            if request.descriptors:
                yield request
            else:
                self.skipped["calls that a gateway does not make"] += 1

    @staticmethod
    def _add(request: RateLimitRequest, entries: Any, name: str, said: Mapping[str, Any]) -> None:
        descriptor: RateLimitDescriptor = request.descriptors.add()
        for key, value in entries:
            descriptor.entries.add(key=_bytes(key), value=_bytes(value))
        if name in said:
            hits = _whole(said[name])
            descriptor.hits_addend.value = min(abs(hits), _MOST_HITS)
            descriptor.is_negative_hits = hits < 0


def _object(text: str) -> Mapping[str, Any] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) else None


def _whole(hits: Any) -> int:
    """Return a number of hits, which may be text, and which Envoy rounds down."""
    if isinstance(hits, bool) or not isinstance(hits, int | float | str):
        raise ValueError(f"the hits are {json.dumps(hits)}, not a number")
    try:
        return int(hits)
    except (ValueError, OverflowError):
        pass
    number = float(hits)
    if not math.isfinite(number):
        raise ValueError(f"the hits are {hits}, not a number")
    return int(number)


def _text(domain: Any) -> str:
    if not isinstance(domain, str):
        raise ValueError(f"the domain is {json.dumps(domain)}, not a text")
    return domain


def _bytes(text: Any) -> bytes:
    return (text if isinstance(text, str) else json.dumps(text)).encode("utf-8", "surrogatepass")


def _cause(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)

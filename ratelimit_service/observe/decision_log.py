"""The decision log: a JSON object on a line for each descriptor of a decided request (DECISION_LOG).

    {"time": "2026-11-21T01:44:05Z", "domain": "token-budgets", "descriptor": [["team", "dba"]], "hits": 300,
     "verdict": "OK", "overall_verdict": "OK", "rule": "dba-hourly", "window": "hour", "limit": 5000, "used":
     4211, "remaining": 789, "resets_in": 955}

The lines of a request with several descriptors follow each other; `"part": [2, 3]` is the second of three.
It is the place for accounting by user: metrics have a bounded number of buckets.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import structlog

from ..core.model import Code, Decision, Descriptor, Request, Tally
from ..core.plan import Plan, PlannedDescriptor
from ..core.rfc3339 import moment
from ..core.text import excerpt, fit
from ..core.windows.blocks import name as window_name
from .line_writer import LineWriter, to_stdout

_LONGEST = 256
"""Characters of a name or a value; longer ones are cut."""

Random = Callable[[], float]
"""Returns a random number from 0 to below 1."""


class DecisionLog:
    """Formats the lines of decisions and passes them to `writer`.

    A request is logged with the probability `sample`, with all its descriptors. With `refused_only`, only
    requests that are answered OVER_LIMIT are.
    """

    def __init__(self, writer: LineWriter, *, refused_only: bool, sample: float, random: Random) -> None:
        self._writer = writer
        self._refused_only = refused_only
        self._sample = sample
        self._random = random

    def start(self) -> None:
        """Start the writer."""
        self._writer.start()

    def close(self, patience: float) -> None:
        """Write the rest, for at most `patience` seconds."""
        self._writer.close(patience)

    @property
    def dropped(self) -> int:
        """Lines dropped since the start."""
        return self._writer.dropped

    def decided(self, plan: Plan, decision: Decision) -> None:
        """Log a request if it is chosen."""
        if self._refused_only and decision.code is not Code.OVER_LIMIT:
            return
        if self._sample < 1 and self._random() >= self._sample:
            return
        time = moment(plan.now)
        domain = _fit(plan.request.domain)
        many = len(plan.descriptors)
        parts = zip(
            plan.request.descriptors, plan.descriptors, decision.statuses, decision.tallies, strict=True
        )
        self._writer.put(
            [
                _line(
                    {
                        "time": time,
                        "domain": domain,
                        "descriptor": [
                            [excerpt(key, _LONGEST), excerpt(value, _LONGEST)]
                            for key, value in descriptor.entries
                        ],
                        "hits": _hits(plan.request, descriptor),
                        "verdict": status.code.name,
                        "overall_verdict": decision.code.name,
                        **_limit(plan, item, tally),
                        **({"part": [number, many]} if many > 1 else {}),
                    }
                )
                for number, (descriptor, item, status, tally) in enumerate(parts, 1)
            ]
        )


def decision_log(which: str, sample: float) -> DecisionLog | None:
    """Return the decision log to stdout of DECISION_LOG and DECISION_LOG_SAMPLE; None if it is off."""
    if which == "off":
        return None
    log = structlog.get_logger("ratelimit_service.decision_log")
    writer = LineWriter(
        to_stdout(),
        failed=lambda error: log.warning("the decision log cannot be written", error=str(error)),
        caught_up=lambda dropped: log.warning("lines of the decision log were dropped", lines=dropped),
    )
    return DecisionLog(writer, refused_only=which == "refused", sample=sample, random=random.random)


def _line(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _hits(request: Request, descriptor: Descriptor) -> int | None:
    """Return the hits_addend of a descriptor, below 0 for a refund; None if the request has none."""
    hits = descriptor.hits_addend if descriptor.hits_addend is not None else request.hits_addend or None
    return -hits if hits is not None and descriptor.negative else hits


def _limit(plan: Plan, planned: PlannedDescriptor, tally: Tally | None) -> dict[str, Any]:
    """Return the fields of the limit in the status.

    Without a limit all are None, except the `rule` of an unlimited one.
    """
    if tally is None:
        rule = _fit(planned.rule.name or str(planned.rule.path)) if planned.rule else None
        return {"rule": rule, **dict.fromkeys(("window", "limit", "used", "remaining", "resets_in"))}
    limit = tally.limit
    use = next(use for use in tally.uses if use.limit is limit)
    return {
        "rule": _fit(limit.name or str(tally.rule.path)),
        "window": window_name(limit.window),
        "limit": limit.amount,
        "used": use.after,
        "remaining": max(0, limit.amount - use.after) if not use.over else 0,
        "resets_in": use.end - plan.now,
    }


def _fit(text: str) -> str:
    return fit(text, _LONGEST)

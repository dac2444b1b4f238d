"""Explanations, replicas and refusals as the JSON of the API."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from ..core.budgets.bucket import Budget
from ..core.budgets.descriptor_text import descriptor_text, pairs
from ..core.rfc3339 import moment
from ..core.text import printable, show
from ..inspection.explaining import Answer, Explanation
from ..inspection.refusals import Refusal
from ..inspection.usage import Book
from ..ports import Replica
from . import inspection_types
from .serializers import amendment, budget, moment_or_null

_start = lru_cache(maxsize=10_000)(moment)
"""Most entries of a page begin together with others."""


def book(found: Book) -> inspection_types.Book:
    """Return the entries of a bucket."""
    return {
        "bucket": found.bucket,
        "entries": pairs(found.entries),
        "by": "hour" if found.by == "hour" else "day",
        "currency": found.currency,
        "spent": [
            {
                "start": _start(each.start),
                "charged": each.charged,
                "refunded": each.refunded,
                "refused": each.refused,
                "per_million": each.per_million,
                "amount": each.amount,
            }
            for each in found.spent
        ],
    }


_REASONS: dict[inspection_types.Verdict, str] = {
    "ok": "there is room in every window",
    "over": "nothing is left in a window",
    "held": "requests in flight hold what is left in a window",
    "shadowed": "nothing is left in a window, and it is let through in shadow mode",
    "blocked": "an override of 0 blocks it",
    "denied": "its domain refuses it: by unmatched: deny, or because a required key is missing",
    "unlimited": "its rule has no limit",
    "unmatched": "no rule matches it",
    "unknown": "there are no rules for its domain",
}
"""By the verdict (inspection/explaining.py)."""


def explanation(found: Explanation) -> inspection_types.Explanation:
    """Return an explanation."""
    considered, answer = found.considered, found.answer
    winner = considered.winner
    verdict = next(each for each in _REASONS if each == found.verdict)
    return {
        "domain": found.domain,
        "descriptor": descriptor_text(found.entries),
        "entries": [[show(key), show(value)] for key, value in found.entries],
        "verdict": verdict,
        "code": "OK" if answer.code == "OK" else "OVER_LIMIT",
        "reason": _REASONS[verdict],
        "message": answer.message or None,
        "limit": _limit(found.budget, answer),
        "rule": None if winner is None else printable(str(winner.path)),
        "source": None if winner is None else printable(winner.source) or None,
        "considered": [
            {
                "rule": printable(each.rule),
                "source": printable(each.source) or None,
                "wins": each.wins,
                "reason": printable(each.reason),
            }
            for each in considered.candidates
        ],
        "considered_left_out": considered.left_out,
        "possible": [
            {
                "rule": printable(str(each.rule.path)),
                "source": printable(each.rule.source) or None,
                "missing": [show(key) for key in each.missing],
                "reason": f"it needs an entry {' and '.join(map(show, each.missing))} as well",
            }
            for each in found.possible.rules
        ],
        "possible_more": found.possible.more,
        "amendments": [
            {**amendment(each.amendment), "holds": each.holds, "why": printable(each.reason)}
            for each in found.amendments
        ],
        "budget": None if found.budget is None else budget(found.budget),
    }


def _limit(found: Budget | None, answer: Answer) -> inspection_types.AnswerLimit | None:
    """Return the window that decides: the one that ends when the answer says, with the least left."""
    if found is None or answer.remaining is None or not found.windows:
        return None
    ending = [each for each in found.windows if each.end == answer.resets_at] or found.windows
    window = min(ending, key=lambda each: (each.effective or 0) - (each.used or 0))
    return {
        "window": window.name,
        "limit": window.effective,
        "remaining": answer.remaining,
        "resets_at": moment_or_null(window.end),
    }


def refusal(one: Refusal) -> inspection_types.Refusal:
    """Return a refusal."""
    known: dict[str, Literal["over_limit", "blocked"]] = {"over": "over_limit", "blocked": "blocked"}
    denied = one.reason not in known
    return {
        "id": one.id,
        "at": moment(one.at),
        "domain": one.domain,
        "descriptor": None if one.cut or not one.entries else descriptor_text(one.entries),
        "entries": [[show(key), show(value)] for key, value in one.entries],
        "reason": known.get(one.reason, "denied"),
        "message": printable(one.reason) if denied else None,
        "rule": printable(one.rule) or None,
        "window": one.window or None,
        "name": printable(one.name) or None,
        "limit": one.limit,
        "used": one.used,
        "hits": one.hits,
        "resets_at": moment_or_null(one.ends),
    }


def replicas(found: Sequence[Replica], this: str, now: float) -> inspection_types.Replicas:
    """Return all replicas. `this` is the id of the one that answers."""
    standings = {(each.standing.digest, each.standing.amendments) for each in found}
    return {
        "replicas": [
            {
                "id": printable(each.id),
                "this": each.id == this,
                "version": printable(each.standing.release),
                "generation": each.generation or None,
                "hash": printable(each.standing.digest) or None,
                "amendments_version": each.standing.amendments,
                "behind_seconds": round(each.behind, 1),
                "seen_at": moment(now - each.age),
            }
            for each in found
        ],
        "in_step": len(standings) <= 1,
    }

"""Problem details for HTTP APIs (RFC 9457), for clients of any provider.

    {"type": "about:blank", "title": "Too Many Requests", "status": 429, "detail": "…",
     "code": "insufficient_quota", "resets_at": "2026-11-22T00:00:00Z", "rate_limit": {…}}

The type that draft-ietf-httpapi-ratelimit-headers proposes is not registered, so the problem is
`about:blank`.
"""

from __future__ import annotations

from typing import Any

from .fault import Fault


def body(fault: Fault) -> dict[str, Any]:
    """Return the fault as a problem."""
    problem: dict[str, Any] = {
        "type": "about:blank",
        "title": "Too Many Requests",
        "status": 429,
        "detail": fault.message,
        "code": fault.code,
    }
    if fault.resets_at:
        problem["resets_at"] = fault.resets_at
    if fault.limit is not None:
        problem["rate_limit"] = fault.limit
    return problem

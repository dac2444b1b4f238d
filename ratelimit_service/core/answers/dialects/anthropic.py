"""Anthropic's errors.

    {"type": "error",
     "error": {"type": "rate_limit_error", "message": "…",
               "details": {"error_code": "insufficient_quota", "resets_at": "2026-11-22T00:00:00Z",
                           "rate_limit": {…}}}}

Its SDKs read `error.type`, `error.message` and `error.details.error_code`.
"""

from __future__ import annotations

from typing import Any

from .fault import Fault, Outlook


def body(fault: Fault) -> dict[str, Any]:
    """Return the fault as an error of Anthropic."""
    details: dict[str, Any] = {"error_code": fault.code}
    if fault.resets_at:
        details["resets_at"] = fault.resets_at
    if fault.limit is not None:
        details["rate_limit"] = fault.limit
    kind = "api_error" if fault.outlook is Outlook.UNKNOWN else "rate_limit_error"
    return {"type": "error", "error": {"type": kind, "message": fault.message, "details": details}}

"""OpenAI's errors, which its SDKs and most others understand.

    {"error": {"message": "…", "type": "insufficient_quota", "param": null, "code": "insufficient_quota",
               "resets_at": "2026-11-22T00:00:00Z", "rate_limit": {…}}}

`resets_at` and `rate_limit` are ours; its SDKs pass unknown fields on to the application.
"""

from __future__ import annotations

from typing import Any

from .fault import Fault, Outlook


def body(fault: Fault) -> dict[str, Any]:
    """Return the fault as an error of OpenAI."""
    error: dict[str, Any] = {
        "message": fault.message,
        "type": _type(fault),
        "param": None,
        "code": fault.code,
    }
    if fault.resets_at:
        error["resets_at"] = fault.resets_at
    if fault.limit is not None:
        error["rate_limit"] = fault.limit
    return {"error": error}


def _type(fault: Fault) -> str:
    if fault.outlook is Outlook.SOON:
        return fault.kind
    return "server_error" if fault.outlook is Outlook.UNKNOWN else fault.code

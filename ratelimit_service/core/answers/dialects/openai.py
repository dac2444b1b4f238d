"""OpenAI's errors, which its SDKs and most others show to people.

    {"error": {"message": "…", "type": "insufficient_quota", "param": null, "code": "insufficient_quota",
               "resets_at": "2026-11-22T00:00:00Z", "rate_limit": {…}}}

OpenAI's own have no `resets_at` and no `rate_limit`; its SDKs hand on what they do not know.
"""

from __future__ import annotations

from typing import Any

from .fault import Fault, Outlook


def body(fault: Fault) -> dict[str, Any]:
    """The fault in OpenAI's shape."""
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

"""Google's errors (google.rpc.Status as JSON), as Gemini sends them.

    {"error": {"code": 429, "message": "…", "status": "RESOURCE_EXHAUSTED",
               "details": [{"@type": "…ErrorInfo", "reason": "QUOTA_EXHAUSTED", …},
                           {"@type": "…RetryInfo", …}]}}

RetryInfo is present only if a client should wait: Google's own clients obey it.
"""

from __future__ import annotations

from typing import Any

from .fault import Fault, Outlook

_TYPE = "type.googleapis.com/google."


def body(fault: Fault) -> dict[str, Any]:
    """Return the fault as an error of Google."""
    stop = fault.code == "insufficient_quota"
    info: dict[str, Any] = {
        "@type": f"{_TYPE}rpc.ErrorInfo",
        "reason": "QUOTA_EXHAUSTED" if stop else "RATE_LIMIT_EXCEEDED",
        "domain": fault.domain or "ratelimit",
    }
    if fault.resets_at:
        info["metadata"] = {"resets_at": fault.resets_at}
    details = [info]
    if fault.rule:
        violation = {"quotaId": fault.rule, "description": fault.message}
        details.append({"@type": f"{_TYPE}rpc.QuotaFailure", "violations": [violation]})
    if fault.outlook is Outlook.SOON:
        details.append({"@type": f"{_TYPE}rpc.RetryInfo", "retryDelay": fault.delay})
    if fault.limit is not None:
        details.append({"@type": f"{_TYPE}protobuf.Struct", "value": fault.limit})
    return {
        "error": {
            "code": 429,
            "message": fault.message,
            "status": "RESOURCE_EXHAUSTED",
            "details": details,
        }
    }

"""Parts of answers of the API, with names of any bytes among them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

Json = dict[str, Any]


HOSTILE = {
    "markup": ("<img src=x onerror=alert(1)>", "team=<img src=x onerror=alert(1)>"),
    "script": ("<script>alert(2)</script>", "team=<script>alert(2)</script>"),
    "attributes": ('" onmouseover="alert(1)" \'', 'team=" onmouseover="alert(1)" \''),
    "entities": ("&lt;b&gt;&#0;", "team=&lt;b&gt;&#0;"),
    "template": ("${alert(1)}`</template>", "team=${alert(1)}`</template>"),
    "scheme": ("javascript:alert(1)", "team=javascript:alert(1)"),
    "bidi": ("\u202egnp.exe\u2066", "team=\\u202egnp.exe\\u2066"),
    "hebrew": ("עברית", "team=עברית"),
    "control": ("a\x00\x1b[31m\r\nb", "team=a\\x00\\x1b[31m\\x0d\\x0ab"),
    "no-utf-8": ("a\udcffb\udc80", "team=a\\xffb\\x80"),
    "invisible": ("a\u200b\u00ad\ufeffb", "team=a\\u200b\\xad\\ufeffb"),
    "spaces": ("a\u00a0\u2003b", "team=a\\xa0\\u2003b"),
    "stacked": ("z" + "\u0301" * 300, None),
    "long": ("x" * 8_192, "team=" + "x" * 40 + "… (8,192 characters)"),
    "empty": ("", "team="),
    "prototype": ("__proto__", "team=__proto__"),
}
"""Values that callers may send, and how the page shows them."""


def moment(seconds: float = 0) -> str:
    """Return the time after so many seconds, in RFC 3339."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def book(entries: list[list[str]], *spent: Json, currency: str | None = None) -> Json:
    """Return a Book."""
    bucket = "{token-budgets|" + "|".join(f"{key}={value}" for key, value in entries) + "}"
    return {"bucket": bucket, "entries": entries, "by": "hour", "currency": currency, "spent": list(spent)}


def spent(start: str, charged: int, refunded: int = 0, refused: int = 0, price: str | None = None) -> Json:
    """Return an entry of a book; `price` is for a million tokens."""
    return {
        "start": start,
        "charged": charged,
        "refunded": refunded,
        "refused": refused,
        "per_million": price,
        "amount": None,
    }


def rule(path: str, *limits: tuple[str, int], **more: Any) -> Json:
    """Return a Rule."""
    plain = {
        "name": None,
        "kind": "budget",
        "shadow": False,
        "quota": False,
        "unlimited": False,
        "source": None,
    }
    return {
        "rule": path,
        "domain": path.partition(".")[0],
        "limits": [
            {"window": name, "limit": limit, "name": None, "time_zone": None} for name, limit in limits
        ],
        **plain,
        **more,
    }


def window(used: int | None, limit: int | None, *, effective: int | None = None, name: str = "hour") -> Json:
    """Return a Window."""
    effective = limit if effective is None else effective
    share = None if effective is None or used is None else used / effective if effective else 1.0
    return {
        "window": name,
        "name": None,
        "amended_by": [],
        "used": used,
        "limit": limit,
        "effective_limit": effective,
        "held": 0,
        "remaining": None if effective is None or used is None else max(0, effective - used),
        "share": share,
        "starts_at": moment(-1_800),
        "resets_at": moment(1_800),
        "burn_per_second": 1.25,
        "runs_out_at": moment(600) if share is not None and 0.8 <= share < 1 else None,
        "forecast_by": "rate",
        "counter": f"counter:{name}",
        "state": "blocked"
        if effective == 0
        else "ok"
        if share is None or share < 0.8
        else "over"
        if share >= 1
        else "low",
    }


def budget(value: str, *windows: Json, key: str = "team", domain: str = "token-budgets", **more: Any) -> Json:
    """Return a Budget of the descriptor `key=value`."""
    held = [{**each, "counter": f"{{{domain}|{key}={value}}}:{each['window']}"} for each in windows]
    order = ("ok", "low", "over", "blocked")
    return {
        "domain": domain,
        "descriptor": f"{key}={value}",
        "entries": [[key, value]],
        "bucket": f"{{{domain}|{key}={value}}}",
        "rule": f"{domain}.{key}",
        "source": None,
        "name": None,
        "kind": "budget",
        "share": max((each["share"] or 0 for each in windows), default=None),
        "state": max((each["state"] for each in windows), key=order.index, default="ok"),
        "shadow": False,
        "windows": held,
        "amendments": [],
        **more,
    }


def refusal(number: int, value: str, **more: Any) -> Json:
    """Return a Refusal."""
    return {
        "id": number,
        "at": moment(-number),
        "domain": "token-budgets",
        "descriptor": f"team={value}",
        "entries": [["team", value]],
        "rule": "token-budgets.team",
        "reason": "over_limit",
        "message": None,
        "window": "hour",
        "limit": 5_000,
        "used": 5_774,
        "name": "team-hourly",
        "hits": 0,
        "resets_at": moment(1_800),
        **more,
    }


def control_plane(server: str, **more: Any) -> Json:
    """Return a ControlPlane that is connected, with rules in force."""
    return {
        "server": server,
        "connected": True,
        "since": moment(-3_600),
        "error": None,
        "generation": 3,
        "hash": "4be1a90c77d2",
        "version": "12",
        "accepted_at": moment(-7_230),
        "answered_at": moment(-60),
        "stale_since": None,
        "domains": 2,
        "rejected_domains": 0,
        "rejected": [],
        "missing": [],
        **more,
    }

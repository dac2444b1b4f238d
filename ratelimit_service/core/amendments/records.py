"""Amendments as text, for stores and for people's tools: JSON in printable ASCII, with the same keys in the
same order.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ..errors import RateLimitServiceError
from .model import Amendment, Change, Kind, Put, Remove, Reset
from .target import parse


class Unreadable(RateLimitServiceError):
    """A text that is no amendment, or one of a kind that only a later version of the service knows."""


def to_json(amendment: Amendment) -> dict[str, Any]:
    """Return the fields of an amendment that say something."""
    fields: dict[str, Any] = {
        "id": amendment.id,
        "kind": amendment.kind.value,
        "domain": amendment.target.domain,
        "descriptor": amendment.target.text,
        "amount": amendment.amount,
    }
    for name in ("window", "until", "windows", "since", "author", "reason"):
        value = getattr(amendment, name)
        if value:
            fields[name] = value
    return fields


def write(amendment: Amendment) -> str:
    """Return an amendment as a text; amendments that are equal have the same."""
    return json.dumps(to_json(amendment), separators=(",", ":"))


def read(text: str | bytes) -> Amendment:
    """Return the amendment that a text says. Raises Unreadable."""
    try:
        fields = json.loads(text)
        return Amendment(
            str(fields["id"]),
            Kind(fields["kind"]),
            parse(str(fields["domain"]), str(fields["descriptor"])),
            int(fields["amount"]),
            str(fields.get("window", "")),
            int(fields.get("until", 0)),
            int(fields.get("windows", 0)),
            int(fields.get("since", 0)),
            str(fields.get("author", "")),
            str(fields.get("reason", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RateLimitServiceError) as error:
        raise Unreadable(f"this is no amendment: {type(error).__name__}: {error}") from None


def reset_to_json(reset: Reset) -> dict[str, Any]:
    """Return what a reset says."""
    fields: dict[str, Any] = {"domain": reset.target.domain, "descriptor": reset.target.text}
    if reset.window:
        fields["window"] = reset.window
    return fields | {"counters": dict(reset.counters)}


def write_reset(reset: Reset) -> str:
    """Return a reset as a text."""
    return json.dumps(reset_to_json(reset), separators=(",", ":"))


def read_reset(text: str | bytes) -> Reset:
    """Return the reset that a text says. Raises Unreadable."""
    try:
        fields = json.loads(text)
        counters = {
            str(key): None if used is None else int(used) for key, used in dict(fields["counters"]).items()
        }
        target = parse(str(fields["domain"]), str(fields["descriptor"]))
        return Reset(target, str(fields.get("window", "")), tuple(counters.items()))
    except (ValueError, KeyError, TypeError, AttributeError, RateLimitServiceError) as error:
        raise Unreadable(f"this is no reset: {type(error).__name__}: {error}") from None


def digest(change: Change) -> str:
    """Return what is the same for the same change sent again, whenever that is, and by whichever replica.

    What a reset found in the counters is no part of it: that differs from one try to the next.
    """
    hashed = hashlib.sha256()
    for edit in change.edits:
        match edit:
            case Put(amendment):
                hashed.update(write(amendment._replace(since=0)).encode())
            case Remove(name):
                hashed.update(f"remove {name}".encode())
            case Reset(target, window, _):
                hashed.update(write_reset(Reset(target, window, ())).encode())
        hashed.update(b"\n")
    hashed.update("\n".join((change.author, change.reason)).encode("utf-8", "surrogatepass"))
    return hashed.hexdigest()

"""Amendments as text, for stores and tools: JSON in printable ASCII, with a fixed order of keys."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ..errors import RateLimitServiceError
from .model import Amendment, Change, EditResult, Kind, Put, Remove, Reset
from .target import parse


class Unreadable(RateLimitServiceError):
    """A text that is not an amendment, or that only a later version of the service can read."""


def to_json(amendment: Amendment) -> dict[str, Any]:
    """Return the fields of an amendment, without those that are empty or 0."""
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
    """Return an amendment as text; equal amendments have equal texts."""
    return json.dumps(to_json(amendment), separators=(",", ":"))


def read(text: str | bytes) -> Amendment:
    """Return the amendment in a text. Raises Unreadable."""
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
    """Return the fields of a reset."""
    fields: dict[str, Any] = {"domain": reset.target.domain, "descriptor": reset.target.text}
    if reset.window:
        fields["window"] = reset.window
    return fields | {"counters": dict(reset.counters)}


def write_reset(reset: Reset) -> str:
    """Return a reset as a text."""
    return json.dumps(reset_to_json(reset), separators=(",", ":"))


def read_reset(text: str | bytes) -> Reset:
    """Return the reset in a text. Raises Unreadable."""
    try:
        fields = json.loads(text)
        counters = {
            str(key): None if used is None else int(used) for key, used in dict(fields["counters"]).items()
        }
        target = parse(str(fields["domain"]), str(fields["descriptor"]))
        return Reset(target, str(fields.get("window", "")), tuple(counters.items()))
    except (ValueError, KeyError, TypeError, AttributeError, RateLimitServiceError) as error:
        raise Unreadable(f"this is no reset: {type(error).__name__}: {error}") from None


def size(change: Change, edited: EditResult) -> int:
    """Return the bytes of an edit: of its texts, and of the author, the reason and the key in its line of the
    audit.
    """
    texts = [write(each) for each in (edited.before, edited.after) if each is not None]
    if edited.reset is not None:
        texts.append(write_reset(edited.reset))
    texts += (change.author, change.reason, change.key)
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)


def digest(change: Change) -> str:
    """Return a digest that identifies a change when it is sent again, at any time and by any replica.

    It does not include the counters of a reset, which may differ from one attempt to the next.
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

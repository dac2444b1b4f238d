"""The events, as CloudEvents 1.0 in structured JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..core.rfc3339 import moment
from ..core.text import fit

THRESHOLD = "ratelimit.budget.threshold"
EXHAUSTED = "ratelimit.budget.exhausted"
REFUSED = "ratelimit.budget.refused"
FORECAST = "ratelimit.budget.forecast"
AMENDED = "ratelimit.amendment.changed"
UNREACHABLE = "ratelimit.store.unreachable"
REACHABLE = "ratelimit.store.reachable"

TYPES = (THRESHOLD, EXHAUSTED, REFUSED, FORECAST, AMENDED, UNREACHABLE, REACHABLE)

NOTIFY = "notify"
"""The key of a stored event with the names of its receivers."""

LONGEST = 1_024
"""Characters of a text in an event: descriptors come from callers."""


class Event(NamedTuple):
    """Something that happened. `id` is the same in every replica that notices it; `kept` is in seconds.

    `domain` is empty for an event of the whole service. `at` is in seconds since 1970.
    """

    id: str
    type: str
    domain: str
    subject: str
    at: float
    data: Mapping[str, Any]
    kept: int = 86_400
    """How long the store remembers the id, so that no other replica emits the event again."""
    notify: tuple[str, ...] | None = None
    """The names of the receivers that get it; None for all receivers that select it."""

    @property
    def text(self) -> str:
        """The event as JSON, as it is stored. NOTIFY is removed before it is sent."""
        notify = {NOTIFY: self.notify} if self.notify is not None else {}
        return json.dumps(
            {
                "specversion": "1.0",
                "id": self.id,
                "source": f"/ratelimit-service/{event_text(self.domain)}"
                if self.domain
                else "/ratelimit-service",
                "type": self.type,
                "subject": event_text(self.subject),
                "time": moment(self.at),
                "datacontenttype": "application/json",
                "data": dict(self.data),
                **notify,
            }
        )


def identity(*parts: str) -> str:
    """Return the id of the event that these parts distinguish from all others."""
    text = "\0".join(parts).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()[:32]


def event_text(text: str) -> str:
    """Return a text as it is shown in an event: printable, and at most LONGEST characters of it."""
    return fit(text, LONGEST)

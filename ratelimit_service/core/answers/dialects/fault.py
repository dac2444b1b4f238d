"""What a refusal has to say, before a dialect gives it a shape."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class Outlook(enum.Enum):
    """When the same request may pass."""

    SOON = "soon"
    """Its limit resets within REFUSAL_RETRY_WITHIN: a client may wait for it."""
    LATER = "later"
    """Its limit resets after that: a person should know, and a client should stop."""
    NEVER = "never"
    """Not by waiting: the rules or the request would have to change."""
    UNKNOWN = "unknown"
    """Its counters could not be reached."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a request was refused. Every text may be a hole that is filled in later (template.py)."""

    outlook: Outlook
    message: str
    domain: str
    """The domain of the request; empty where the refusal names no more than it must."""
    kind: str = ""
    """What was limited, `tokens` or `requests`; empty where no limit refused."""
    rule: str = ""
    """The name of the limit, where it has one that may be shown."""
    resets_at: str = ""
    """When the limit resets, in UTC; empty where that does not help."""
    delay: str = ""
    """How long until then, as protobuf's JSON writes a duration: `28s`."""
    limit: Mapping[str, Any] | None = None
    """The limit in detail; None where no limit refused."""

    @property
    def code(self) -> str:
        """The code that OpenAI has for it, and that clients look for: whether trying again soon helps."""
        stop = self.outlook in (Outlook.LATER, Outlook.NEVER)
        return "insufficient_quota" if stop else "rate_limit_exceeded"

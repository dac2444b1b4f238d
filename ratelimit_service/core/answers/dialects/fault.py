"""The content of a refusal, before a dialect formats it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class Outlook(enum.Enum):
    """When the same request can pass."""

    SOON = "soon"
    """Its limit resets within REFUSAL_RETRY_WITHIN: a client can wait."""
    LATER = "later"
    """Its limit resets later: a client should stop, and report to a person."""
    NEVER = "never"
    """Only after a change of the rules or the request."""
    UNKNOWN = "unknown"
    """Unknown, because its counters could not be reached."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a request was refused. Any text can be a slot (template.py)."""

    outlook: Outlook
    message: str
    domain: str
    """The domain of the request; empty with `error_details: minimal`."""
    kind: str = ""
    """What the limit counts, `tokens` or `requests`; empty if no limit refused."""
    rule: str = ""
    """The name of the limit; empty if it has none, or it is hidden."""
    resets_at: str = ""
    """When the limit resets, in UTC; empty if waiting does not help."""
    delay: str = ""
    """The time until then, as a duration in protobuf's JSON: `28s`."""
    limit: Mapping[str, Any] | None = None
    """The details of the limit; None if no limit refused."""

    @property
    def code(self) -> str:
        """Return OpenAI's error code, by which clients decide whether to retry soon."""
        stop = self.outlook in (Outlook.LATER, Outlook.NEVER)
        return "insufficient_quota" if stop else "rate_limit_exceeded"

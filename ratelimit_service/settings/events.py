"""The settings of events: the receivers of webhooks."""

from __future__ import annotations

from dataclasses import dataclass

from .field import setting
from .types import Text, TextList

EVENTS = "Events"

EVENT_SECRET = frozenset(("EVENTS_WEBHOOK_URL",))
"""Addresses of webhooks often are secrets themselves."""


@dataclass(frozen=True, kw_only=True)
class EventSettings:
    """The fields of `table.Settings` for events."""

    events_webhook_url: TextList = setting(
        EVENTS,
        "",
        "Addresses that get every event as a CloudEvent, separated by commas. Ours.",
    )
    events_webhook_secret_file: Text = setting(
        EVENTS,
        "",
        "A file with the secret that signs deliveries to these addresses, in base64 (Standard Webhooks); "
        "read for each delivery. Ours.",
    )
    events_webhooks: Text = setting(
        EVENTS,
        "",
        "A YAML file with receivers, each with its types, domains, secret and template (docs/events.md); "
        "read again when it changes. Ours.",
    )
    events_cacert: Text = setting(
        EVENTS,
        "",
        "A file with the CAs that receivers' certificates are verified with; empty: those that httpx "
        "trusts. Ours.",
    )

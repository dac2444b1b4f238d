"""The receivers of events: addresses from a setting, and a file that selects events for each receiver."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from ..core.errors import StartError
from ..runtime.watched_file import LARGEST
from .model import NOTIFY, TYPES

_KEYS = frozenset(("name", "url", "types", "domains", "secret_file", "template"))
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch
_SLOT = re.compile(r"\{([a-z_.]+)\}")
_LARGEST_SECRET = 4_096
"""Bytes of the file of a secret."""


class Unreadable(StartError):
    """A file cannot be read at the moment."""


@dataclass(frozen=True)
class Receiver:
    """A receiver of the events with these types and domains; without any, of all events.

    `template` is the JSON to send in place of the event, with slots such as `{data.bucket}`; None sends the
    event.
    """

    name: str
    url: str
    types: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    secret_file: str = ""
    template: Any = None

    def wants(self, event: Mapping[str, Any]) -> bool:
        """Return whether the receiver gets an event."""
        named = event.get(NOTIFY)
        if isinstance(named, list) and self.name not in named:
            return False
        domain = str(event.get("data", {}).get("domain", ""))
        return (not self.types or any(fnmatchcase(str(event["type"]), each) for each in self.types)) and (
            not self.domains or domain in self.domains
        )

    def body(self, event: Mapping[str, Any]) -> bytes:
        """Return the body of the delivery of an event."""
        sent = {key: value for key, value in event.items() if key != NOTIFY}
        return json.dumps(sent if self.template is None else _filled(self.template, sent)).encode()


def secret_of(path: str) -> bytes:
    """Return the secret in a file: base64, with or without the prefix of Standard Webhooks. Raises OSError,
    ValueError.
    """
    content = _bytes_of(path, _LARGEST_SECRET)
    try:
        text = content.decode("ascii").strip().removeprefix("whsec_")
        secret = base64.b64decode(text, validate=True)
    except (UnicodeDecodeError, binascii.Error) as error:
        raise ValueError(f"is not base64: {error}") from None
    if len(secret) < 16:
        raise ValueError("has fewer than 16 bytes")
    return secret


def _bytes_of(path: str, most: int) -> bytes:
    """Return the content of a file. Raises OSError, or ValueError if it has more than so many bytes."""
    with Path(path).open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"is longer than {most} bytes")
    return content


def receivers_of(urls: Sequence[str], secret_file: str, file: str) -> tuple[Receiver, ...]:
    """Return the receivers of the settings. Raises StartError with what is wrong."""
    found = read_receivers(urls, secret_file, file)
    check_secrets(found)
    return found


def read_receivers(urls: Sequence[str], secret_file: str, file: str) -> tuple[Receiver, ...]:
    """Return the receivers of the settings, without reading their secrets. Raises StartError."""
    found = [
        Receiver(f"webhook-{number}" if number > 1 else "webhook", url, secret_file=secret_file)
        for number, url in enumerate(urls, 1)
    ]
    if file:
        found += _of_file(file)
    for receiver in found:
        _check(receiver, file)
    names = [receiver.name for receiver in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise StartError(f"two receivers of events are called {min(twice)!r}")
    return tuple(found)


def _of_file(file: str) -> list[Receiver]:
    try:
        text = _bytes_of(file, LARGEST)
    except OSError as error:
        raise Unreadable(f"EVENTS_WEBHOOKS: {file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise StartError(f"EVENTS_WEBHOOKS: {file} {error}") from None
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: also of a date that is none
        raise StartError(f"EVENTS_WEBHOOKS: {file} is not YAML: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("receivers"), list) or len(document) > 1:
        raise StartError(f"EVENTS_WEBHOOKS: {file} must have one key, `receivers`, with a list")
    return [
        _of_entry(entry, f"{file}, receiver {number}")
        for number, entry in enumerate(document["receivers"], 1)
    ]


def _of_entry(entry: Any, where: str) -> Receiver:
    if not isinstance(entry, dict):
        raise StartError(f"EVENTS_WEBHOOKS: {where} must be a mapping")
    if unknown := entry.keys() - _KEYS:
        raise StartError(f"EVENTS_WEBHOOKS: {where} has an unknown key {min(map(str, unknown))!r}")
    for key in ("name", "url"):
        if not isinstance(entry.get(key), str):
            raise StartError(f"EVENTS_WEBHOOKS: {where} needs a text for `{key}`")
    for key in ("types", "domains"):
        value = entry.get(key, [])
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise StartError(f"EVENTS_WEBHOOKS: {where} needs a list of texts for `{key}`")
    if not isinstance(entry.get("secret_file", ""), str):
        raise StartError(f"EVENTS_WEBHOOKS: {where} needs a path for `secret_file`")
    return Receiver(
        entry["name"],
        entry["url"],
        tuple(entry.get("types", ())),
        tuple(entry.get("domains", ())),
        entry.get("secret_file", ""),
        entry.get("template"),
    )


def _check(receiver: Receiver, file: str) -> None:
    where = f"the receiver of events {receiver.name!r}"
    if not _NAME(receiver.name):
        raise StartError(f"{where} needs a name of 1 to 64 letters, digits, dots, dashes and underscores")
    try:
        parts = urlsplit(receiver.url)
        usable = (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and (parts.port is None or parts.port > 0)
        )
    except ValueError:
        usable = False
    if not usable:
        raise StartError(f"{where} needs an address such as https://hooks.example.com/budgets")
    for pattern in receiver.types:
        if not any(fnmatchcase(each, pattern) for each in TYPES):
            raise StartError(f"{where}: no event is of type {pattern!r}; the types are {', '.join(TYPES)}")
    try:
        json.dumps(_filled(receiver.template, {}), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise StartError(
            f"EVENTS_WEBHOOKS: {file}: {where} has a template that is not JSON: {error}"
        ) from None


def check_secrets(receivers: Sequence[Receiver]) -> None:
    """Raise StartError unless each secret can be used."""
    for receiver in receivers:
        if not receiver.secret_file:
            continue
        where = f"the receiver of events {receiver.name!r}: the secret in {receiver.secret_file}"
        try:
            secret_of(receiver.secret_file)
        except OSError as error:
            raise Unreadable(f"{where} cannot be read: {error.strerror or error}") from None
        except ValueError as error:
            raise StartError(f"{where} cannot be used: {error}") from None


def _filled(template: Any, event: Mapping[str, Any]) -> Any:
    """Return a template with its slots filled in. A slot for a field that the event lacks stays as it is."""
    if isinstance(template, dict):
        return {key: _filled(value, event) for key, value in template.items()}
    if isinstance(template, list):
        return [_filled(value, event) for value in template]
    if isinstance(template, str):
        return _SLOT.sub(lambda slot: _at(event, slot[1], slot[0]), template)
    return template


def _at(event: Mapping[str, Any], path: str, otherwise: str) -> str:
    value: Any = event
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return otherwise
        value = value[name]
    return otherwise if isinstance(value, Mapping) else str(value)

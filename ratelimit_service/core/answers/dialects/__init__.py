"""The shapes that the body of a refusal can have, a module for each.

    Fault ──▶ Dialect.body ──▶ a JSON object

A dialect says where things stand and what they are called. What happened and what to say of it is decided before
(refusal.py), so a new dialect is a module with one function, and a line in the table here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from . import anthropic, gemini, openai, problem_json
from .fault import Fault, Outlook

__all__ = ["DIALECTS", "Dialect", "Fault", "Outlook"]


class Dialect(NamedTuple):
    """A shape of the body: its media type, and the JSON object that it makes of a fault."""

    content_type: str
    body: Callable[[Fault], dict[str, Any]]


DIALECTS: Mapping[str, Dialect] = {
    "openai": Dialect("application/json", openai.body),
    "anthropic": Dialect("application/json", anthropic.body),
    "gemini": Dialect("application/json", gemini.body),
    "problem+json": Dialect("application/problem+json", problem_json.body),
}
"""By the names that `error_format` and REFUSAL_BODY have for them."""

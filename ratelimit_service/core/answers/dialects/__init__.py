"""The formats of the body of a refusal, a module for each.

    Fault ──▶ Dialect.body ──▶ a JSON object

refusal.py and wording.py decide what a refusal says; a dialect only arranges it. So a new dialect is a module
with one function, and a line in the table below.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from . import anthropic, gemini, openai, problem_json
from .fault import Fault


class Dialect(NamedTuple):
    """A format of the body: its media type, and the function that makes the JSON object."""

    content_type: str
    body: Callable[[Fault], dict[str, Any]]


DIALECTS: Mapping[str, Dialect] = {
    "openai": Dialect("application/json", openai.body),
    "anthropic": Dialect("application/json", anthropic.body),
    "gemini": Dialect("application/json", gemini.body),
    "problem+json": Dialect("application/problem+json", problem_json.body),
}
"""The dialects by the names that `error_format` and REFUSAL_BODY use."""

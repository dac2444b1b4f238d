"""The keys about refusals: `denial_message`, `error_format` and `error_details`."""

from __future__ import annotations

import re
from string import Formatter

from ..answers.dialects import DIALECTS
from ..answers.wording import HIDDEN, PLACEHOLDERS, placeholders
from ..plan import FULL, MINIMAL
from .fields import Fields, quoted

LONGEST = 500
"""The most characters of a denial_message."""

CHOICES = {"error_format": tuple(DIALECTS), "error_details": (FULL, MINIMAL)}
"""The keys that a rule inherits from its domain, and their values."""

_known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
_name = re.compile(r"\s*(\w*)")


def read_message(fields: Fields, error_details: str) -> str:
    """Read the denial_message of a rule with these `error_details`; empty if there is none."""
    text = fields.text("denial_message") or ""
    wrong = wrong_with(text)
    if not wrong and error_details == MINIMAL:
        hidden = [f"{{{name}}}" for name in PLACEHOLDERS if name in HIDDEN & placeholders(text)]
        wrong = f"has {' and '.join(hidden)}, which error_details: minimal hides" if hidden else ""
    if wrong:
        fields.error("denial_message", wrong)
    return text


def wrong_with(template: str) -> str:
    """Return what is wrong with a denial_message and how to correct it, or an empty text."""
    if len(template) > LONGEST:
        return f"has {len(template)} characters: at most {LONGEST} are allowed"
    try:
        pieces = list(Formatter().parse(template))
    except ValueError:
        return "has an unmatched brace: write a literal brace as {{ or }}"
    for _, field, spec, conversion in pieces:
        if field is None or (field in PLACEHOLDERS and not spec and not conversion):
            continue
        written = "".join(
            ["{", field, f"!{conversion}" if conversion else "", f":{spec}" if spec else "", "}"]
        )
        begins = _name.match(field)
        if begins and begins[1] in PLACEHOLDERS:
            return (
                f"{quoted(written)} must be written {{{begins[1]}}}: a placeholder is a name and nothing else"
            )
        known = f"use one of {_known}; write a literal brace as {{{{ or }}}}"
        return f"unknown placeholder {quoted(written)}: {known}"
    return ""

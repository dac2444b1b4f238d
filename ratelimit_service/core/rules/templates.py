"""Checking a denial_message: text with placeholders in braces, such as "Try again in {reset_seconds} seconds."."""

from __future__ import annotations

import re
from string import Formatter

from ..answers.refusal import PLACEHOLDERS
from .fields import quoted

LONGEST = 500
"""How many characters a denial_message may have."""

_known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
_name = re.compile(r"\s*(\w*)")


def wrong_with(template: str) -> str:
    """What is wrong with a template, and what would be right; empty where nothing is."""
    if len(template) > LONGEST:
        return f"has {len(template)} characters: at most {LONGEST} are allowed"
    try:
        pieces = list(Formatter().parse(template))
    except ValueError:
        return "has a brace without its partner: a brace as such is written {{ or }}"
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
        return f"unknown placeholder {quoted(written)}: there are {_known}; a brace as such is written {{{{ or }}}}"
    return ""

"""The settings of the API on the debug port: the tokens for reads and for changes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from .field import Context, setting
from .types import SecretText, Text, read_text

API = "API"

API_SECRET = frozenset(("ADMIN_TOKEN", "READ_TOKEN"))

SHORTEST, LONGEST = 16, 1_024
"""Characters of a token. A short one can be guessed."""

usable_token = re.compile(rf"[!-~]{{{SHORTEST},{LONGEST}}}").fullmatch


def _read_token(text: str, context: Context) -> SecretText:
    if text and not usable_token(text):
        raise ValueError(
            f"is not a token: give {SHORTEST} to {LONGEST} printable ASCII characters without spaces, "
            "such as the output of `openssl rand -hex 32`"
        )
    given = context.values.get("admin_token")
    if text and context.name == "read_token" and given is not None and given.reveal() == text:
        raise ValueError("is the token of ADMIN_TOKEN: callers that may only read could change limits")
    return SecretText(text)


def _read_token_file(text: str, context: Context) -> str:
    token = context.name.removesuffix("_file")
    given = context.values.get(token)
    if text and given is not None and given.reveal():
        raise ValueError(f"is set together with {token.upper()}: give only one of them")
    return read_text(text)


Token = Annotated[SecretText, _read_token]
TokenFile = Annotated[str, _read_token_file]


@dataclass(frozen=True, kw_only=True)
class ApiSettings:
    """The fields of `table.Settings` for the API."""

    admin_token: Token = setting(
        API,
        "",
        "The token of callers that may read and change limits. Without it, and without ADMIN_TOKEN_FILE, "
        "the API changes nothing. At least 16 characters. Ours.",
    )
    admin_token_file: TokenFile = setting(
        API,
        "",
        "A file with that token, in place of ADMIN_TOKEN; read again when it changes. Ours.",
    )
    read_token: Token = setting(
        API,
        "",
        "The token of callers that may only read. On loopback, reading needs no token. Ours.",
    )
    read_token_file: TokenFile = setting(
        API, "", "A file with that token, in place of READ_TOKEN; read again when it changes. Ours."
    )
    prices_file: Text = setting(
        API,
        "",
        "A YAML file with prices by model (docs/showback.md), from which the amounts of money of ledger "
        "entries are computed; read again when it changes. Ours.",
    )

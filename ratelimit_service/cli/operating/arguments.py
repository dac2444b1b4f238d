"""The common options of the commands for operators."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arguments import add_answers, text

if TYPE_CHECKING:
    from .client import Client

MOST = 2**53 - 1
"""The largest amount."""

EXIT_CODES = (
    "Exits with 0; 1 if the service does not answer or refuses the request, 2 for a wrong option, "
    "4 if another change came first, 5 without a valid token"
)


LONG = 15.0
"""Seconds to wait for a reset: of a pattern, the service reads for up to ten which buckets there are."""


def add_server(parser: argparse.ArgumentParser, timeout: float = 5.0) -> None:
    """Add the options for the address of the API, and for calls to it."""
    parser.add_argument(
        "--server",
        metavar="URL",
        help="the debug port of the service: host:port, or https://host:port (default: RATELIMIT_SERVER, "
        "or 127.0.0.1:6070). The token is in RATELIMIT_TOKEN or RATELIMIT_TOKEN_FILE, or in the ADMIN_TOKEN "
        "or READ_TOKEN of the service",
    )
    parser.add_argument("--ca", type=Path, metavar="FILE", help="trust certificates signed by this CA")
    add_answers(parser, "print JSON, as the API returns it", timeout)


def client_of(given: argparse.Namespace) -> Client:
    """Return a client of the service that the options name. Raises InvalidRequest."""
    from .client import DEFAULT_SERVER, SERVER, Client, server_of, token_of

    server = server_of(given.server or os.environ.get(SERVER) or DEFAULT_SERVER)
    return Client(server, token_of(os.environ), given.timeout, given.ca)


def add_bucket(parser: argparse.ArgumentParser, pattern: str = "") -> None:
    """Add the domain and the descriptor of a bucket; `pattern` says what else the descriptor can be."""
    parser.add_argument(
        "domain", metavar="DOMAIN", type=text, help="a domain of the rules, such as token-budgets"
    )
    parser.add_argument(
        "descriptor",
        metavar="DESCRIPTOR",
        type=text,
        help=r"key=value,key=value; within a value, write \, for a comma, \\ for a backslash "
        r"and \* for an asterisk" + pattern,
    )


def _parsed(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a type of arguments whose ValueErrors become errors of the argument."""

    def parse(given: str) -> Any:
        try:
            return read(given)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def share(given: str) -> float:
    """Return a share: `80%`, or 0.8."""
    try:
        found = float(given.removesuffix("%")) / (100 if given.endswith("%") else 1)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1e6:
        raise argparse.ArgumentTypeError("give a share, such as 80% or 0.8")
    return found


def amount(given: str) -> int:
    """Return an amount of tokens or requests."""
    from .change_commands import amount_of

    found: int = _parsed(amount_of)(given)
    if found > MOST:
        raise argparse.ArgumentTypeError(f"an amount is at most {MOST}")
    return found


def moment(given: str) -> str:
    """Return a moment in RFC 3339."""
    from .change_commands import moment_of

    found: str = _parsed(moment_of)(given)
    return found

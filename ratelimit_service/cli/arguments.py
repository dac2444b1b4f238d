"""Kinds of values and options that several commands share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from ..core.errors import InvalidRequest
from ..settings.types import read_bool, read_text

# Kinds of values: each raises ArgumentTypeError for a text that is not of its kind.


def text(given: str) -> str:
    """Return text in UTF-8; a shell passes any bytes."""
    try:
        return read_text(given)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def number(lowest: int, highest: int) -> Callable[[str], int]:
    """Return the kind of whole numbers from `lowest` to `highest`."""

    def read(given: str) -> int:
        try:
            found = int(given)
        except ValueError:
            found = lowest - 1
        if not lowest <= found <= highest:
            raise argparse.ArgumentTypeError(f"give a number from {lowest} to {highest}")
        return found

    return read


def seconds(given: str) -> float:
    """Return a time of at least 0.1 s."""
    try:
        found = float(given)
    except ValueError:
        found = 0
    if not 0.1 <= found < 1e9:
        raise argparse.ArgumentTypeError("give a number of seconds, 0.1 at least")
    return found


# Options that several commands have.


def add_domain(parser: argparse.ArgumentParser) -> None:
    """Add the domain of a request."""
    parser.add_argument(
        "domain", metavar="DOMAIN", type=text, help="a domain of the rules, such as token-budgets"
    )


def add_manifests(parser: argparse.ArgumentParser) -> None:
    """Add the options for reading rules, which `merges` and `manifest_domain` evaluate."""
    parser.add_argument(
        "--merge-domains",
        action="store_true",
        help="allow several files with the same domain (default: MERGE_DOMAIN_CONFIG)",
    )
    parser.add_argument(
        "--domain",
        type=text,
        help="the domain of RateLimitConfig manifests, which name none (default: MANIFEST_DOMAIN)",
    )


def add_tls(parser: argparse.ArgumentParser) -> None:
    """Add the certificates of a client."""
    parser.add_argument("--ca", type=Path, metavar="FILE", help="trust certificates signed by this CA")
    parser.add_argument("--cert", type=Path, metavar="FILE", help="present this certificate, in PEM")
    parser.add_argument("--key", type=Path, metavar="FILE", help="the key of --cert")


def add_answers(parser: argparse.ArgumentParser, json: str = "print JSON", timeout: float = 5.0) -> None:
    """Add how long to wait for an answer, and how to print it. `json` is the help of --json."""
    parser.add_argument("--json", action="store_true", help=json)
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=timeout,
        metavar="SECONDS",
        help="wait at most this long for an answer (default: %(default)g)",
    )


def merges(given: argparse.Namespace) -> bool:
    """Return whether several files may have the same domain.

    Raises InvalidRequest for a variable that cannot be read.
    """
    if given.merge_domains:
        return True
    try:
        return read_bool(os.environ.get("MERGE_DOMAIN_CONFIG", "false"))
    except ValueError as error:
        raise InvalidRequest(f"MERGE_DOMAIN_CONFIG {error}") from None


def manifest_domain(given: argparse.Namespace) -> str:
    """Return the domain for manifests without one: that of the option, or of MANIFEST_DOMAIN; else empty."""
    return os.environ.get("MANIFEST_DOMAIN", "") if given.domain is None else str(given.domain)


def user_name() -> str:
    """Return the name of this process's user, who is the author of a change by default."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return f"uid {os.getuid()}"

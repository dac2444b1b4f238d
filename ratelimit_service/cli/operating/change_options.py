"""The commands that change limits, with their options and help."""

from __future__ import annotations

import argparse
from typing import Any

from ...core.errors import InvalidRequest
from ..arguments import number, text, user_name
from ..command import Command
from .arguments import EXIT_CODES, add_bucket, add_server, amount, client_of, moment


def _add_change(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--reason", required=True, type=text, help="the reason, for the audit")
    add("--author", type=text, default="", help="the author, for the audit (default: the user)")
    add("--dry-run", action="store_true", help="only print what would change")
    add("--yes", action="store_true", help="do not ask before a change of several budgets")
    add(
        "--key",
        type=text,
        default="",
        metavar="KEY",
        help="the idempotency key: a change that is repeated with it has no further effect (default: a new "
        "one)",
    )
    add_server(parser)


def _add_window(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--window",
        type=text,
        metavar="WINDOW",
        help="only this window, such as hour or 15minute (default: every one)",
    )


def _add_until(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--until",
        type=moment,
        metavar="MOMENT",
        help="2026-12-01T00:00:00Z, a time from now (90m, 8h, 3d), or a weekday, which is its next midnight "
        "in the local time zone (default: until it is removed)",
    )


_PATTERN = "; user=premium_* is every such user, and * the whole domain"


def _top_up_options(parser: argparse.ArgumentParser) -> None:
    add_bucket(parser, _PATTERN)
    parser.add_argument("amount", metavar="AMOUNT", type=amount, help="the amount to add: 20000, 20k, 5M")
    _add_window(parser)
    _add_until(parser)
    parser.add_argument(
        "--windows", type=number(1, 366), metavar="N", help="for N windows, including the present one"
    )
    _add_change(parser)


def _override_options(parser: argparse.ArgumentParser) -> None:
    add_bucket(parser, _PATTERN)
    parser.add_argument("amount", metavar="LIMIT", type=amount, help="the limit: 20000, 20k, 5M; 0 blocks")
    _add_window(parser)
    _add_until(parser)
    _add_change(parser)


def _unblock_options(parser: argparse.ArgumentParser) -> None:
    add_bucket(parser, _PATTERN)
    _add_window(parser)
    _add_change(parser)


def _remove_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "id", metavar="ID", type=text, help="the id of an amendment, as printed by `show` and `audit`"
    )
    _add_change(parser)


def change(given: argparse.Namespace, path: str, **body: Any) -> int:
    """Make a change over the API, and return the exit code."""
    from .change_commands import ChangeOptions, change

    made = {**body, "reason": given.reason, "author": given.author or user_name()}
    how = ChangeOptions(given.dry_run, getattr(given, "yes", False), given.json, getattr(given, "key", ""))
    return change(client_of(given), path, made, how)


def _top_up(given: argparse.Namespace) -> int:
    if given.until and given.windows:
        raise InvalidRequest("--until and --windows: give one of them")
    return change(
        given,
        "/top-up",
        domain=given.domain,
        descriptor=given.descriptor,
        amount=given.amount,
        window=given.window,
        until=given.until,
        windows=given.windows,
    )


def _override(given: argparse.Namespace) -> int:
    return change(
        given,
        "/override",
        domain=given.domain,
        descriptor=given.descriptor,
        amount=given.amount,
        window=given.window,
        until=given.until,
    )


def _unblock(given: argparse.Namespace) -> int:
    return change(given, "/unblock", domain=given.domain, descriptor=given.descriptor, window=given.window)


def _remove(given: argparse.Namespace) -> int:
    return change(given, "/remove", id=given.id)


CHANGES = (
    Command(
        "top-up",
        "add to a limit, until its window ends, for some windows, until a moment, or until it is removed",
        f"The use stays counted. {EXIT_CODES}, 3 if the change was not confirmed.",
        _top_up_options,
        _top_up,
    ),
    Command(
        "override",
        "set a limit, until a moment or until it is removed; 0 blocks",
        f"{EXIT_CODES}, 3 if the change was not confirmed.",
        _override_options,
        _override,
    ),
    Command(
        "unblock",
        "remove the override of exactly this descriptor or pattern, whatever its limit",
        f"{EXIT_CODES}, 3 if the change was not confirmed.",
        _unblock_options,
        _unblock,
    ),
    Command(
        "remove",
        "remove an amendment by its id",
        f"{EXIT_CODES}.",
        _remove_options,
        _remove,
    ),
)

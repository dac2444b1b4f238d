"""The command line: reads the arguments, runs a command, and turns errors into exit codes."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from typing import Any

from ..core.errors import RateLimitServiceError
from .command import Command, CommandFailed
from .options import COMMANDS


def main(arguments: Sequence[str]) -> int:
    """Run the command that `arguments` name and return its exit code. Exits with 2 for a wrong argument."""
    parser, parsers = _parsers()
    if not arguments:
        parser.print_help(sys.stderr)
        return 2
    name, *rest = arguments
    if name not in parsers:
        parser.parse_args([name])  # exits: --help, --version, or an error
    command, own = parsers[name]
    behind: list[str] = []
    if command.ignores_unknown and "--" in rest:  # argparse would keep the "--" among the unknown
        at = rest.index("--")
        rest, behind = rest[:at], rest[at + 1 :]
    given, unknown = own.parse_known_intermixed_args(rest)
    unknown += behind
    given.unknown = unknown
    if unknown and not command.ignores_unknown:
        own.error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        code = command.run(given)
        sys.stdout.flush()
    except RateLimitServiceError as error:
        print(error, file=sys.stderr)
        return error.code if isinstance(error, CommandFailed) else 1
    except BrokenPipeError:  # the reader of a pipe has left; at the exit, Python would flush into it again
        _drop_output()
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        print(f"the output cannot be written: {error.strerror}", file=sys.stderr)
        _drop_output()
        return 1
    return code


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, tuple[Command, argparse.ArgumentParser]]]:
    """The parser of the whole command line, and that of each command."""
    parser = argparse.ArgumentParser(
        prog="ratelimit-service",
        description="A global rate-limit service for Envoy and agentgateway, made for LLM token budgets.",
        epilog="ratelimit-service COMMAND --help explains a command.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    parsers = {}
    for command in COMMANDS:
        own = commands.add_parser(
            command.name,
            help=command.summary,
            description=f"{command.summary[0].upper()}{command.summary[1:]}. {command.more}",
            allow_abbrev=False,
        )
        command.options(own)
        parsers[command.name] = command, own
    return parser, parsers


class _Version(argparse.Action):
    def __init__(self, **arguments: Any) -> None:
        super().__init__(nargs=0, **arguments)

    def __call__(self, parser: argparse.ArgumentParser, *ignored: object) -> None:
        from ..version import version

        print(version())
        parser.exit()

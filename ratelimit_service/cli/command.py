"""A command of the command line, with its options and its help, and how it fails."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

from ..core.errors import RateLimitServiceError


class CommandFailed(RateLimitServiceError):
    """A command that ends with an exit code of its own."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Command(NamedTuple):
    """A command: `summary` is its line in the list of commands, `more` follows it in the command's own help.

    `run` returns the exit code. With `ignores_unknown` it finds unknown arguments in `unknown`; else they are
    an error.
    """

    name: str
    summary: str
    more: str
    options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    ignores_unknown: bool = False

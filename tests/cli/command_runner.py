"""Runs a command of the command line in this process."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout

from ratelimit_service.cli.main import main
from testing.service import CommandResult


def run(arguments: Sequence[str]) -> CommandResult:
    """Return the exit code of `ratelimit-service ARGUMENTS`, and its output."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", "surrogateescape") for _ in range(2))
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code: object = main(arguments)
        except SystemExit as exited:
            code = exited.code
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode("utf-8", "surrogateescape"))
    assert isinstance(code, int)
    return CommandResult(code, *texts)

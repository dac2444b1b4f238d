"""Unexpected exceptions, passed to the event loop's handler, which logs and counts them (app.py)."""

from __future__ import annotations

import asyncio
import sys


def report_exception(message: str) -> None:
    """Report the exception that is being handled, where `message` says what failed."""
    loop = asyncio.get_running_loop()
    loop.call_exception_handler({"message": message, "exception": sys.exc_info()[1]})

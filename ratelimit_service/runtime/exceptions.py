"""Reports of unexpected exceptions."""

from __future__ import annotations

import asyncio


def report(message: str, error: BaseException | None) -> None:
    """Pass an unexpected exception to the handler of the event loop, which logs it (app.py)."""
    asyncio.get_running_loop().call_exception_handler({"message": message, "exception": error})

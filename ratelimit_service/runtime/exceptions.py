"""Reports of unexpected exceptions.

Code on an event loop reports the exceptions that it neither expects nor answers for with `report`: they are
logged and counted in one way. Code that handles an exception, or that runs without a loop, logs it as an
event of its own (`exc_info=`), with a comment that says why.
"""

from __future__ import annotations

import asyncio


def report(message: str, error: BaseException | None) -> None:
    """Pass an unexpected exception to the handler of the event loop, which logs it (app.py)."""
    asyncio.get_running_loop().call_exception_handler({"message": message, "exception": error})

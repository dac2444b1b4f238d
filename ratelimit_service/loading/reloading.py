"""Loads rules again when their files have changed, and retries after temporary errors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ..runtime.threads import Thread

INTERVAL = 0.2
"""Seconds between two polls of the files."""

ANSWERS_WITHIN = 10.0
"""Seconds that the file system may take for a poll. Beyond that, it is an error, and the poll is retried."""

FIRST_PAUSE, LAST_PAUSE = 1.0, 60.0
"""The shortest and the longest pause before a retry, in seconds."""

Sleep = Callable[[float], Awaitable[None]]


async def follow(
    changed: Callable[[], bool],
    load: Callable[[], Awaitable[bool]],
    thread: Thread,
    *,
    again: bool = False,
    sleep: Sleep = asyncio.sleep,
) -> None:
    """Load whenever `changed` returns True, and retry while `load` returns True; until cancelled.

    `changed` polls the files, in `thread`. `again` is what the previous load returned. Raises StuckError if
    the files do not answer.
    """
    pause, polls = FIRST_PAUSE, 0
    while True:
        await sleep(INTERVAL)
        polls += 1
        if await thread.do(changed, ANSWERS_WITHIN):
            pause = FIRST_PAUSE
        elif not (again and polls * INTERVAL >= pause):
            continue
        else:
            pause = min(2 * pause, LAST_PAUSE)
        again = await load()
        polls = 0

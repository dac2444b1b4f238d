"""Loading rules again whenever their files have changed, and when they could not be read for a reason that may pass."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ..runtime.threads import Thread

INTERVAL = 0.2
"""Seconds between two looks at the files."""

ANSWERS_WITHIN = 10.0
"""Seconds in which a file system answers; one that does not is reported, and looked at again."""

FIRST_PAUSE, LAST_PAUSE = 1.0, 60.0
"""Seconds until rules that could not be read are read again: from, to."""

Sleep = Callable[[float], Awaitable[None]]


async def follow(
    changed: Callable[[], bool],
    load: Callable[[], Awaitable[bool]],
    thread: Thread,
    *,
    again: bool = False,
    sleep: Sleep = asyncio.sleep,
) -> None:
    """Load whenever `changed` says so, and as long as `load` returns that it should be tried again; until cancelled.

    `changed` looks at the files, in `thread`. `again` is what the load before has returned. Raises StuckError where the
    files do not answer.
    """
    pause, looks = FIRST_PAUSE, 0
    while True:
        await sleep(INTERVAL)
        looks += 1
        if await thread.do(changed, ANSWERS_WITHIN):
            pause = FIRST_PAUSE
        elif not (again and looks * INTERVAL >= pause):
            continue
        else:
            pause = min(2 * pause, LAST_PAUSE)
        again = await load()
        looks = 0

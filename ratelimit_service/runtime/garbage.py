"""The policy for Python's cyclic garbage collector.

| when | collector | why |
|---|---|---|
| from the start to serving | off | imports leave no garbage; looking for it takes an eighth of the start |
| while rules are loaded | off | rules have no cycles, and visiting them blocks calls for tenths of a second |
| after a load | on, and the rules are exempt | the same reason, for every later collection |
| while serving | on, rarely a full collection | it blocks calls for 20 ms, and finds next to nothing |
| in the process that reads rules | off | its memory is freed when it ends |

Requests leave no cycles behind. The few objects with cycles (an error, a scrape) die young.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_THRESHOLDS = (2_000, 5, 7_000)
"""Young objects are visited half as often as by default, since calls in flight are young and alive, and a
full collection is a thousand times as rare."""


def disable() -> None:
    """Turn the collector off: at the start, and in the process that reads rules."""
    gc.disable()


def enable_for_serving() -> None:
    """Turn the collector on, for young generations."""
    gc.set_threshold(*_THRESHOLDS)
    gc.enable()


@contextmanager
def paused_for_loading() -> Iterator[None]:
    """Turn the collector off, and afterwards exempt every object that exists by then."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()

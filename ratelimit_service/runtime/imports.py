"""Imports of libraries without the packages that they use only because these happen to be installed.

Each costs megabytes and a part of the start, and this service uses none of them:

| package | imported by | for |
|---|---|---|
| rich, better_exceptions | structlog | tracebacks in its own console format |
| greenlet | structlog | a logging context for each greenlet |
| click, pygments, rich | httpx | its command line |
| opentelemetry | redis | metrics of its own, which need a setup that this service does not make |

Python's own means is None in `sys.modules`: the import raises ModuleNotFoundError, as if the package were not
installed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_UNUSED = ("better_exceptions", "click", "greenlet", "pygments", "rich")


def skip_unused() -> None:
    """Hide the packages that nothing in this process needs, for the rest of its life."""
    for package in _UNUSED:
        sys.modules.setdefault(package, None)  # type: ignore[arg-type]


@contextmanager
def without(package: str) -> Iterator[None]:
    """Hide a package meanwhile, unless it has been imported already. No other thread may import anything
    meanwhile: it would not find the package either.
    """
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.modules.pop(package, None)

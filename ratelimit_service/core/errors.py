"""Everything that this project raises.

RateLimitServiceError
├── InvalidRequest        the caller's fault: INVALID_ARGUMENT, 400
├── Forbidden             somebody who may not ask: PERMISSION_DENIED
├── NotReady              no rules have been loaded yet: UNAVAILABLE
├── StoreError            the counters cannot be read or written: UNAVAILABLE
│   └── CounterRefused    one of them, while the others can: it is not a number, or we may not touch it
├── Overloaded            more calls at once than the server takes on: RESOURCE_EXHAUSTED
├── InternalError         a mistake of ours: INTERNAL; the log has the cause
├── InvalidRules          a configuration that cannot be loaded; carries every problem found
└── StartError            the process cannot start as it is set up; one line says why
    └── InvalidSetting    an environment variable or option with a value that it cannot have
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class RateLimitServiceError(Exception):
    """The root of the tree."""


class InvalidRequest(RateLimitServiceError):
    """The request cannot be decided, whatever the rules and the counters are."""


class Forbidden(RateLimitServiceError):
    """The caller is not one that may ask."""


class NotReady(RateLimitServiceError):
    """No configuration has been loaded yet."""


class StoreError(RateLimitServiceError):
    """The counters could not be read or written."""


class CounterRefused(StoreError):
    """One counter cannot be read or written, while the store is well: it is not a number, or we may not touch it.

    `key` is that of the counter.
    """

    def __init__(self, why: str, key: str = "") -> None:
        super().__init__(why)
        self.key = key


class Overloaded(RateLimitServiceError):
    """The server has as many calls in hand as it takes on."""


class InternalError(RateLimitServiceError):
    """A mistake of ours. The cause is in the log, not in the answer."""


class Problem(NamedTuple):
    """Something wrong with a configuration: where (file, line, path in the file), what, and what would be right."""

    file: str
    line: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.path}: {self.message}" if self.path else f"{where}: {self.message}"


class InvalidRules(RateLimitServiceError):
    """A configuration that cannot be loaded. `problems` has all that is wrong, `warnings` what else was noticed.

    `again` is whether the same files may be loaded another time: nothing is wrong with what is in them.
    """

    def __init__(
        self, problems: Sequence[Problem], warnings: Sequence[Problem] = (), *, again: bool = False
    ) -> None:
        self.problems = tuple(problems)
        self.warnings = tuple(warnings)
        self.again = again
        super().__init__("\n".join(map(str, self.problems)))


class StartError(RateLimitServiceError):
    """The process cannot start as it is set up."""


class InvalidSetting(StartError):
    """A setting with a value that it cannot have."""

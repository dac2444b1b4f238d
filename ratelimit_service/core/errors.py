"""Everything that this project raises.

RateLimitServiceError
├── InvalidRequest        the caller's fault: INVALID_ARGUMENT, 400
├── Conflict              a change expects something else than what is in force: 409
├── Forbidden             the caller has no permission: PERMISSION_DENIED
├── NotReady              no rules have been loaded yet: UNAVAILABLE
├── StoreError            the counters cannot be read or written: UNAVAILABLE
│   └── CounterRefused    one counter cannot be read or written: it is not a number, or access is denied
├── Overloaded            too many calls are in flight: RESOURCE_EXHAUSTED
├── InternalError         a bug: INTERNAL; the log has the cause
├── InvalidRules          a configuration that cannot be loaded, with every problem found
└── StartError            the process cannot start with these settings; one line says why
    └── InvalidSetting    an environment variable or option with an invalid value
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class RateLimitServiceError(Exception):
    """The root of the tree."""


class InvalidRequest(RateLimitServiceError):
    """The request is invalid, whatever the rules and the counters are."""


class Conflict(RateLimitServiceError):
    """A change expects a state that is no longer current. Nothing was changed."""


class Forbidden(RateLimitServiceError):
    """The caller has no permission to call."""


class NotReady(RateLimitServiceError):
    """No configuration has been loaded yet."""


class StoreError(RateLimitServiceError):
    """The counters could not be read or written."""


class CounterRefused(StoreError):
    """One counter, `key`, cannot be read or written: it is not a number, or access is denied. Others can."""

    def __init__(self, why: str, key: str = "") -> None:
        super().__init__(why)
        self.key = key


class Overloaded(RateLimitServiceError):
    """The server has as many calls in flight as it accepts."""


class InternalError(RateLimitServiceError):
    """A bug. The cause is in the log, not in the answer."""


class Problem(NamedTuple):
    """A mistake in a configuration: where it is (file, line, path in the file), and how to correct it."""

    file: str
    line: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.path}: {self.message}" if self.path else f"{where}: {self.message}"


class InvalidRules(RateLimitServiceError):
    """A configuration that cannot be loaded, with all its problems and warnings.

    `again` is whether loading the same files later may succeed, because their content is not the problem.
    """

    def __init__(
        self, problems: Sequence[Problem], warnings: Sequence[Problem] = (), *, again: bool = False
    ) -> None:
        self.problems = tuple(problems)
        self.warnings = tuple(warnings)
        self.again = again
        super().__init__("\n".join(map(str, self.problems)))


class StartError(RateLimitServiceError):
    """The process cannot start with these settings."""


class InvalidSetting(StartError):
    """A setting with an invalid value."""

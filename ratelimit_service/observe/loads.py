"""The metrics of loading rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .tables import Sample


@dataclass(slots=True)
class Loads:
    """The loads of rules. `rejected`: a part of the last configuration is not in force."""

    successes: int = 0
    failures: int = 0
    rejected: bool = False
    rules: int = 0
    at: float = 0.0

    def loaded(self, rules: int, now: float) -> None:
        """Count a load of `rules` rules at `now`."""
        self.successes += 1
        self.rules, self.at, self.rejected = rules, now, False

    def failed(self) -> None:
        """Count a refused configuration."""
        self.failures += 1
        self.rejected = True

    def samples(self) -> Iterator[Sample]:
        """Yield the samples."""
        yield Sample("ratelimit_service_config_load_success", {}, self.successes)
        yield Sample("ratelimit_service_config_load_error", {}, self.failures)
        yield Sample("ratelimit_service_config_rejected", {}, self.rejected)
        yield Sample("ratelimit_service_config_load_time_seconds", {}, self.at)
        yield Sample("ratelimit_service_config_rules", {}, self.rules)

"""How loading the rules went: counters and gauges."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .tables import Sample


@dataclass(slots=True)
class Loads:
    """The loads of the process. `rejected` is whether something that was read last is not in force."""

    successes: int = 0
    failures: int = 0
    rejected: bool = False
    rules: int = 0
    at: float = 0.0

    def loaded(self, rules: int, now: float) -> None:
        """So many rules came into force."""
        self.successes += 1
        self.rules, self.at, self.rejected = rules, now, False

    def failed(self) -> None:
        """A configuration was refused."""
        self.failures += 1
        self.rejected = True

    def samples(self) -> Iterator[Sample]:
        """What a scrape shows."""
        yield Sample("ratelimit_service_config_load_success", {}, self.successes)
        yield Sample("ratelimit_service_config_load_error", {}, self.failures)
        yield Sample("ratelimit_service_config_rejected", {}, self.rejected)
        yield Sample("ratelimit_service_config_load_time_seconds", {}, self.at)
        yield Sample("ratelimit_service_config_rules", {}, self.rules)

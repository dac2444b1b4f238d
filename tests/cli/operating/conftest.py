"""A service that counts in memory, and commands that call its API."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testing.service import CommandResult, Service

from ..conftest import Command

ADMIN, READ = "admin-token-0123456789", "read-token-0123456789"

BECAUSE = ("--reason", "a launch", "--author", "ana")

RULES = """
domain: budgets
descriptors:
  - key: team
    rate_limits:
      - {name: yearly, unit: year, tokens_per_unit: 5_000}
      - {unit: year, unit_multiplier: 2, tokens_per_unit: 50_000}
    descriptors:
      - {key: model, rate_limit: {unit: year, tokens_per_unit: 10_000}}
  - key: spender
    rate_limit: {unit: year, tokens_per_unit: 5_000}
    ledger: {by: day}
  - key: agent
    rate_limit: {unit: year, tokens_per_unit: 5_000}
    ledger: {}
    price: {per_million: 2.50, currency: EUR}
  - key: user
    shadow_mode: true
    rate_limit: {unit: year, tokens_per_unit: 100}
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Return a service in its own process. Its windows of a year do not end during the tests."""
    path = tmp_path_factory.mktemp("rules") / "rules.yaml"
    path.write_text(RULES)
    environment = {
        "BACKEND_TYPE": "memory",
        "CONFIG_PATH": str(path),
        "ADMIN_TOKEN": ADMIN,
        "READ_TOKEN": READ,
        "HOST": "127.0.0.1",
        "DEBUG_HOST": "127.0.0.1",
        "REFUSAL_BODY": "openai",
    }
    with Service(environment) as running:
        yield running


class Operate:
    """Runs commands against the service, with the token of an administrator."""

    def __init__(self, command: Command, service: Service) -> None:
        self._command = command
        self.service = service

    def __call__(self, *arguments: str, **environment: str) -> CommandResult:
        settings = {"RATELIMIT_SERVER": self.service.debug, "RATELIMIT_TOKEN": ADMIN, **environment}
        return self._command(*arguments, **settings)

    def charge(self, descriptor: str, hits: int) -> None:
        """Charge a bucket as a gateway does."""
        asked = ("ask", "budgets", descriptor, "--hits", str(hits), "--server", self.service.grpc)
        assert self._command(*asked).code in (0, 3)


@pytest.fixture
def operate(command: Command, service: Service) -> Operate:
    return Operate(command, service)

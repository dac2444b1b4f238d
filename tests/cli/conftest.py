"""What the tests of the command line share: a way to run a command in this process, and a service to ask."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol
from unittest.mock import patch

import pytest
from typer.testing import CliRunner

from ratelimit_service.cli.options import app
from testing.servers import RedisServer
from testing.service import Ended, Service, inherited

DOMAIN = "cli"

CONFIG = f"""\
domain: {DOMAIN}
descriptors:
  - key: team
    rate_limit: {{name: team-budget, unit: year, requests_per_unit: 100}}
    descriptors:
      - key: model
        rate_limit: {{unit: year, unit_multiplier: 2, requests_per_unit: 4_000}}
  - key: path
    value: "files/*"
    share_threshold: true
    rate_limit: {{unit: year, requests_per_unit: 10}}
  - key: quiet
    limit_headers: on_refusal
    rate_limit: {{unit: year, tokens_per_unit: 4_000}}
  - key: internal
    rate_limit: {{unlimited: true}}
"""


class Command(Protocol):
    """Runs `ratelimit-service ARGUMENTS` with nothing but `environment` set."""

    def __call__(self, *arguments: str, **environment: str) -> Ended:
        """Return its exit code, and what it has written."""
        ...


@pytest.fixture
def command() -> Command:
    """The command line, run in this process: starting one for every test would take most of their time."""

    def run(*arguments: str, **environment: str) -> Ended:
        with patch.dict(os.environ, {**inherited(), **environment}, clear=True):
            result = CliRunner().invoke(app, arguments)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return Ended(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture(scope="session")
def unique() -> Callable[[str], str]:
    """`unique("dba")` → "dba-1", and at the next call "dba-2": counters of one's own."""
    numbers = itertools.count(1)
    return lambda name: f"{name}-{next(numbers)}"


@pytest.fixture(scope="package")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rules that the service serves."""
    path = tmp_path_factory.mktemp("cli") / "config.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="package")
def service(config: Path, redis_server: RedisServer) -> Iterator[Service]:
    """A running service, which counts in Redis."""
    with Service({"CONFIG_PATH": str(config), "REDIS_URL": redis_server.address}) as running:
        yield running

"""Fixtures of the command-line tests: commands in this process, and a running service."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol
from unittest.mock import patch

import pytest

from testing.redis_servers import RedisServer
from testing.service import CommandResult, Service, inherited

from .command_runner import run

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

CLOSED = """\
domain: closed
unmatched: deny
required_keys: [team]
descriptors:
  - key: team
    value: dba
    rate_limit: {unit: year, requests_per_unit: 100}
"""

BUDGETS = """\
domain: budgets
descriptors:
  - key: team
    rate_limits:
      - {name: stündlich, unit: year, tokens_per_unit: 5_000}
      - {name: Überlauf, unit: year, unit_multiplier: 2, tokens_per_unit: 30_000_000_000}
  - key: trial
    shadow_mode: true
    rate_limit: {unit: year, tokens_per_unit: 0}
  - key: quota
    quota_mode: true
    rate_limit: {unit: year, tokens_per_unit: 0}
  - key: everyone
    rate_limit: {name: everyone, unit: year, tokens_per_unit: 0}
  - key: gold
    rate_limit: {name: gold, unit: year, tokens_per_unit: 10, replaces: [{name: everyone}]}
"""


class Command(Protocol):
    """Runs `ratelimit-service ARGUMENTS` with only `environment` set."""

    def __call__(self, *arguments: str, **environment: str) -> CommandResult:
        """Return the exit code and the output."""
        ...


@pytest.fixture
def command() -> Command:
    """The command line, run in this process: starting a process for every test would take most of the
    time.
    """

    def within(*arguments: str, **environment: str) -> CommandResult:
        with patch.dict(os.environ, {**inherited(), **environment}, clear=True):
            return run(arguments)

    return within


@pytest.fixture(scope="session")
def unique() -> Callable[[str], str]:
    """`unique("dba")` returns "dba-1", then "dba-2": each test has its own counters."""
    numbers = itertools.count(1)
    return lambda name: f"{name}-{next(numbers)}"


@pytest.fixture(scope="package")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rules of the service."""
    directory = tmp_path_factory.mktemp("cli")
    for name, text in (("cli", CONFIG), ("closed", CLOSED), ("budgets", BUDGETS)):
        (directory / f"{name}.yaml").write_text(text, encoding="utf-8")
    return directory


@pytest.fixture(scope="package")
def service(config: Path, redis_server: RedisServer) -> Iterator[Service]:
    """A running service with counters in Redis."""
    with Service({"CONFIG_PATH": str(config), "REDIS_URL": redis_server.address}) as running:
        yield running

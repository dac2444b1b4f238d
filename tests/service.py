"""The service as it is deployed: a process, configured by its environment, spoken to over its ports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .waiting import wait_for

COMMAND = (sys.executable, "-m", "ratelimit_service", "serve")
REPOSITORY = Path(__file__).parents[1]

INHERITED = ("PATH", "HOME", "LANG", "TMPDIR")
"""What the process gets from the environment of the tests, where nothing may configure it by accident."""

FREE_PORTS = {"GRPC_PORT": "0", "PORT": "0", "DEBUG_PORT": "0", "PROMETHEUS_ADDR": "127.0.0.1:0"}
"""Ports that the system chooses; the log line "serving" says which."""


def port_of(address: str) -> int:
    """The port of "127.0.0.1:43211"."""
    return int(address.rpartition(":")[2])


class Service:
    """A running `ratelimit-service serve`, with `environment` beside what a process needs in any case.

    `grpc`, `http`, `debug` and `metrics` are the addresses ("127.0.0.1:43211") that it has opened.
    """

    def __init__(self, environment: Mapping[str, str], *, arguments: Sequence[str] = ()) -> None:
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        self._lines: list[str] = []
        self._process = subprocess.Popen(
            (*COMMAND, *arguments),
            cwd=REPOSITORY,
            env={**inherited, **FREE_PORTS, "LOG_LEVEL": "info", "LOG_FORMAT": "json", **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            serving = self.wait_for_event("serving")
        except BaseException:
            self.kill()
            raise
        self.grpc, self.http, self.debug, self.metrics = (
            str(serving[port]) for port in ("grpc", "http", "debug", "metrics")
        )

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stderr:
            for line in stderr:
                self._lines.append(line)

    @property
    def log(self) -> str:
        """Everything that it has logged, as it was written."""
        return "".join(self._lines)

    def events(self, message: str) -> list[dict[str, Any]]:
        """The logged events with this message, in their order."""
        objects = [json.loads(line) for line in tuple(self._lines) if line.startswith("{")]
        return [event for event in objects if event.get("@message") == message]

    def wait_for_event(self, message: str) -> dict[str, Any]:
        """The first logged event with this message, which may be yet to come."""

        def probe() -> list[dict[str, Any]]:
            found = self.events(message)
            ended = self._process.poll()
            assert found or ended is None, f"the service has ended with code {ended}"
            return found

        try:
            return wait_for(f"an event {message!r} in the log", probe)[0]
        except AssertionError as failure:
            failure.add_note(self.log)
            raise

    def stop(self) -> int:
        """Ask it to end (SIGTERM), and return the code that it ends with."""
        self._process.terminate()
        try:
            return self._process.wait(timeout=30)
        finally:
            self.kill()

    def kill(self) -> None:
        """End it in any case; nothing where it has ended already."""
        self._process.kill()
        self._process.wait()
        self._reader.join(timeout=5)


class ConfigMapMount:
    """A directory in which kubelet keeps the files of a ConfigMap.

    `config.yaml` is a link to `..data/config.yaml`, and `..data` to a directory named after the time. An
    update writes another such directory, and swaps `..data` in one rename.
    """

    def __init__(self, directory: Path, files: Mapping[str, str]) -> None:
        self.directory = directory
        self._versions = 0
        directory.mkdir(parents=True)
        self.update(files)
        for name in files:
            (directory / name).symlink_to(Path("..data", name))

    def update(self, files: Mapping[str, str]) -> None:
        """Swap to another version of the same files."""
        data = self.directory / "..data"
        before = data.resolve() if data.is_symlink() else None
        self._versions += 1
        version = self.directory / f"..2026_11_21_01_00_00.{self._versions:09}"
        version.mkdir()
        for name, text in files.items():
            (version / name).write_text(text)
        link = self.directory / "..data_tmp"
        link.symlink_to(version.name)
        link.rename(data)
        if before is not None:
            for file in before.iterdir():
                file.unlink()
            before.rmdir()

"""Fixtures for tests of the whole process: rules to serve, and a client of gRPC health."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from testing.service import Service


def rules(domain: str, limit: int = 10) -> str:
    """Rules: each team has a budget for the year, so no window ends during a test."""
    return f"""\
domain: {domain}
descriptors:
  - key: team
    rate_limit: {{unit: year, requests_per_unit: {limit}}}
"""


def write(path: Path, text: str) -> Path:
    """Write a file at once, and create the directories above it.

    The service may read a file at any moment, and would load one that has been emptied and is yet to be
    written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_name(f"..{path.name}")  # no file of rules has such a name
    whole.write_text(text)
    return whole.rename(path)


@pytest.fixture
def config(tmp_path: Path) -> str:
    """The path of a file with rules for the domain "d"."""
    return str(write(tmp_path / "d.yaml", rules("d")))


@contextmanager
def probing(service: Service) -> Iterator[health_pb2_grpc.HealthStub]:
    """A client of grpc.health.v1."""
    with grpc.insecure_channel(service.grpc) as channel:
        yield health_pb2_grpc.HealthStub(channel)


def serving(probe: health_pb2_grpc.HealthStub, name: str) -> str:
    """The health of a service by its name: "SERVING", "NOT_SERVING"."""
    status = probe.Check(health_pb2.HealthCheckRequest(service=name), timeout=60).status
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(status))

"""DECISION_LOG in a running service: the service is not affected by a reader of stdout that is slow, hangs or
has ended.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.service import Service, calling
from testing.waiting import wait_for

DROPPED = "ratelimit_service_decision_log_dropped"


@pytest.fixture
def environment(config: str) -> dict[str, str]:
    """Settings for a service that logs every decision."""
    return {"BACKEND_TYPE": "memory", "CONFIG_PATH": config, "DECISION_LOG": "all"}


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe: the end for reading and the end for writing."""
    read_end, write_end = os.pipe()
    yield read_end, write_end
    for end in (read_end, write_end):
        try:
            os.close(end)
        except OSError:  # the test has closed it
            continue


def ask(service: Service, times: int, hits: int = 1) -> None:
    """Make this many requests, and expect an answer to each."""
    with calling(service.grpc) as caller:
        for _ in range(times):
            caller.ask("d", "team", "dba", hits=hits)


def test_stdout_has_only_decisions(environment: dict[str, str], tmp_path: Path) -> None:
    """The log of the service goes to stderr.

    Decisions that are still queued at a stop are written before the process ends.
    """
    path = tmp_path / "decisions"
    with path.open("wb") as file, Service(environment, stdout=file.fileno()) as service:
        ask(service, 11)
        assert (0, 0) == (service.metric(DROPPED), service.stop())
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [("OK", 10 - used) for used in range(1, 11)] + [("OVER_LIMIT", 0)] == [
        (line["verdict"], line["remaining"]) for line in lines
    ]


def test_only_refused_requests_can_be_logged(environment: dict[str, str], tmp_path: Path) -> None:
    """By default, no request is logged."""
    found = []
    for mode in ("refused", "off"):
        path = tmp_path / mode
        with (
            path.open("wb") as file,
            Service({**environment, "DECISION_LOG": mode}, stdout=file.fileno()) as service,
        ):
            ask(service, 12)
            assert 0 == service.stop()
        found.append([json.loads(line)["verdict"] for line in path.read_text().splitlines()])
    assert [["OVER_LIMIT", "OVER_LIMIT"], []] == found


def test_a_closed_decision_log_affects_no_call(environment: dict[str, str], pipe: tuple[int, int]) -> None:
    """Callers get answers, and the log reports it."""
    read_end, write_end = pipe
    os.close(read_end)
    with Service(environment, stdout=write_end) as service:
        ask(service, 5)
        wait_for("lines that were dropped", lambda: service.metric(DROPPED) == 5)
        assert 0 == service.stop()
        assert 1 == len(service.events("the decision log cannot be written"))


def test_a_reader_that_hangs_delays_neither_calls_nor_the_end_of_the_process(
    environment: dict[str, str], pipe: tuple[int, int]
) -> None:
    """A full pipe blocks only the thread that writes. The process still ends."""
    with Service(environment, stdout=pipe[1]) as service:
        ask(service, 600)  # a pipe has room for 300 of these lines
        assert (0, 0) == (service.metric(DROPPED), service.stop())
    assert "Fatal" not in service.log

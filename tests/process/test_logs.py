"""The log of a running service: a refused bucket once, no requests, callers' text escaped on one line, and no
secrets.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from ratelimit_service.proto import ratelimit_pb2 as pb
from testing.redis_servers import RedisServer
from testing.service import Caller, Service, Serving, calling, run
from testing.waiting import wait_for

from .conftest import rules, write

OK, OVER = pb.RateLimitResponse.OK, pb.RateLimitResponse.OVER_LIMIT
HOSTILE = 'dba\n{"level": "error", "@message": "forged"}\r\x1b[2J\u202e'
Unique = Callable[[str], str]


@pytest.fixture(scope="module")
def unique() -> Unique:
    """Generate names that no other test uses."""
    numbers = itertools.count(1)
    return lambda name: f"{name}-{next(numbers)}"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that logs JSON at INFO. Each team has two requests."""
    config = write(tmp_path_factory.mktemp("logs") / "d.yaml", rules("d", 2))
    with Service({"BACKEND_TYPE": "memory", "CONFIG_PATH": str(config)}) as running:
        yield running


@pytest.fixture(scope="module")
def caller(service: Service) -> Iterator[Caller]:
    """A caller of the service."""
    with calling(service.grpc) as somebody:
        yield somebody


def refusals(service: Service, team: str) -> list[str]:
    """The refused buckets of a team in the log."""
    return [
        event["bucket"] for event in service.events("limit reached") if f"|team={team}}}" in event["bucket"]
    ]


def spend(caller: Caller, team: str, times: int) -> list[int]:
    """Make this many requests for a team."""
    return [caller.ask("d", "team", team, hits=None).overall_code for _ in range(times)]


def test_a_refused_bucket_is_logged_once(service: Service, caller: Caller, unique: Unique) -> None:
    """Further refusals in the same window are not logged: the line of another team comes next."""
    dba, other = unique("dba"), unique("other")
    assert [OK, OK, OVER, OVER, OVER] == spend(caller, dba, 5)
    assert [OK, OK, OVER] == spend(caller, other, 3)
    wait_for("the other's refusal", lambda: refusals(service, other))
    assert 1 == len(refusals(service, dba))
    event = next(event for event in service.events("limit reached") if dba in event["bucket"])
    assert ("info", 2, True) == (event["level"], event["limit"], 0 < event["resets_in"] <= 366 * 86400)


def test_requests_are_not_logged(service: Service, caller: Caller, unique: Unique) -> None:
    """After two hundred allowed, checked and refused requests, the only new line is the refusal of another
    bucket.
    """
    dba, other = unique("dba"), unique("other")
    spend(caller, dba, 3)
    wait_for("the refusal", lambda: refusals(service, dba))
    lines = len(service.everything())
    for number in range(100):
        caller.ask("d", "team", f"{dba}-{number}", hits=1)
        caller.ask("d", "team", dba, hits=number % 2)
    spend(caller, other, 3)
    wait_for("the other's refusal", lambda: refusals(service, other))
    assert lines + 1 == len(service.everything())


def test_every_line_is_json_whatever_callers_send(service: Service, caller: Caller, unique: Unique) -> None:
    """A value with a newline, a forged event and an escape sequence is one escaped value in one event."""
    before = len(service.events("limit reached"))
    assert [OK, OK, OVER] == spend(caller, unique(HOSTILE), 3)
    wait_for("the refusal", lambda: len(service.events("limit reached")) == before + 1)
    lines = service.log.splitlines()
    assert all({"@timestamp", "level", "@message"} <= json.loads(line).keys() for line in lines)
    assert [] == service.events("forged")
    assert service.log.replace("\n", "").isprintable()


def test_every_event_is_one_line_of_text_whatever_callers_send(tmp_path: Path) -> None:
    """The text format escapes as the JSON format does."""
    config = write(tmp_path / "d.yaml", rules("d", 2))
    serving = Serving({"BACKEND_TYPE": "memory", "CONFIG_PATH": str(config), "LOG_FORMAT": "text"})
    try:
        address = serving.wait_for_text(r"] serving .*\bgrpc=(\S+)")
        before = serving.log.count("\n")
        with calling(address) as caller:
            assert [OK, OK, OVER] == spend(caller, HOSTILE, 3)
        serving.wait_for_text("limit reached")
        assert 0 == serving.stop()
    finally:
        serving.kill()
    refused, stopping = serving.log.splitlines()[before:]
    assert "] limit reached " in refused
    assert "] stopping " in stopping
    assert serving.log.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("where", "right"), [("REDIS_URL", False), ("REDIS_AUTH", True)], ids=["url-wrong", "auth-right"]
)
def test_a_password_is_never_shown(tmp_path: Path, where: str, right: bool) -> None:
    """The password is neither in the log, at any level, nor in an HTTP answer, whether Redis accepts it or
    not.
    """
    config = write(tmp_path / "d.yaml", rules("d"))
    with RedisServer(password="hunter2" if right else "other") as redis:
        places = {"REDIS_URL": f"redis://default:hunter2@{redis.address}"}
        if where == "REDIS_AUTH":
            places = {"REDIS_URL": redis.address, "REDIS_AUTH": "default:hunter2"}
        with Service({**places, "CONFIG_PATH": str(config), "LOG_LEVEL": "debug"}) as service:
            said = "the store is reached" if right else "the store cannot be reached"
            service.wait_for_event(said)
            with calling(service.grpc) as caller:
                assert ("OK" if right else "UNAVAILABLE") == caller.status("d", "team", "dba")
            status, body = service.health()
            assert (200 if right else 500) == status
            pages = [body, httpx.get(f"http://{service.debug}/rlconfig", trust_env=False, timeout=60).text]
            assert 0 == service.stop()
    assert not any("hunter2" in text for text in (service.log, *pages))


@pytest.mark.parametrize("transport", ["grpcio", "native"])
def test_an_unread_log_delays_no_call_and_loses_no_line(config: str, transport: str) -> None:
    """A full pipe blocks only the thread that writes the log, neither callers nor /healthcheck."""
    environment = {"BACKEND_TYPE": "memory", "CONFIG_PATH": config, "GRPC_TRANSPORT": transport}
    with Service(environment) as service, calling(service.grpc) as caller:
        with service.log_unread():
            for number in range(200):  # some 50 kB of lines, where there is room for 12
                assert OVER == caller.ask("d", "team", f"dba-{number}", hits=11).overall_code
            assert (200, "OK") == service.health()
            assert 0 == service.metric("ratelimit_service_log_dropped")
        wait_for("all refusals", lambda: len(service.events("limit reached")) == 200)
        assert 0 == service.stop()


def test_an_unread_log_does_not_keep_the_process_from_ending(config: str) -> None:
    """At a stop, writing the rest of the log has a time limit."""
    with (
        Service({"BACKEND_TYPE": "memory", "CONFIG_PATH": config}) as service,
        calling(service.grpc) as caller,
        service.log_unread(),
    ):
        for number in range(100):
            caller.ask("d", "team", f"dba-{number}", hits=11)
        assert 0 == service.stop()
    assert "Fatal" not in service.log


def test_a_failed_start_is_reported_after_the_queued_lines(tmp_path: Path) -> None:
    """All of them are written, and the reason for the failure last."""
    config = write(tmp_path / "d.yaml", "domain: d\ndescriptors:\n" + "  - {value: x}\n" * 1_000)
    environment = {"BACKEND_TYPE": "memory", "CONFIG_PATH": str(config), "GRPC_HOST": "192.0.2.1"}
    code, out, err = run("serve", environment=environment)
    assert (1, "") == (code, out)
    assert 100 == err.count("configuration refused")
    assert "cannot listen for gRPC on 192.0.2.1:0: " in err.splitlines()[-1]


def test_an_error_that_ends_the_process_is_a_line_of_the_log() -> None:
    """With LOG_FORMAT=json each line is JSON, including the last one."""
    broken = "import ratelimit_service.app as app\napp.make_store = None\n"
    command = (sys.executable, "-c", f"{broken}from ratelimit_service.__main__ import main\nmain()", "serve")
    serving = Serving({"BACKEND_TYPE": "memory"}, command=command)
    assert 1 == serving.ended()
    (event,) = serving.everything()
    assert ("fatal", "the service has failed") == (event["level"], event["@message"])
    assert "'NoneType' object is not callable" in event["exception"]
    assert 1 == len(serving.log.splitlines())

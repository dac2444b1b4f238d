"""The pitfalls that deploy/envoy/README.md names for holds.yaml, each in the real Envoy."""

from __future__ import annotations

import copy
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from testing.in_process_service import ClockedService
from testing.proxy import Proxy
from testing.waiting import wait_for

from .envoy_with_holds import (
    LARGE,
    NOON,
    PatientLlm,
    charge_of,
    configured,
    filters,
    post,
    rate_limit,
    remaining,
    running,
)
from .holds_yaml_changes import addition, charged, proxied, route_of

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("signal", ["", "signal: [caller]\n"], ids=["without a signal", "with a signal"])
def test_a_header_has_the_remaining_budget_after_the_request(
    signal: str, llm: PatientLlm, tmp_path: Path
) -> None:
    """x-ratelimit-remaining is from the check; x-tokens-remaining is reduced by the cost of this answer.

    It replaces that of the signal, which is from before the request. For an answer without usage, that one
    stays.
    """
    with ClockedService(signal + LARGE, now=NOON) as service:
        llm.go.set()
        with running(tmp_path, configured([service.address], llm)) as address:
            told, states = [], set()
            for used in (0, 60, 120):
                wait_for("the charge", lambda used=used: 100_000 - used == remaining(service.address))  # type: ignore[misc]
                answer = post(address)
                states.add(answer.headers.get("x-tokens-state"))
                told.append((answer.headers["x-ratelimit-remaining"], answer.headers["x-tokens-remaining"]))
            wait_for("the last charge", lambda: 99_820 == remaining(service.address))
            failed = post(address, x_status="500")
    assert [("100000", "99940"), ("99940", "99880"), ("99880", "99820")] == told
    assert ("99820" if signal else None) == failed.headers.get("x-tokens-remaining")
    assert {"ok" if signal else None} == states


@pytest.mark.parametrize(("default", "left"), [("-", 99_940), ("", 100_000)])
def test_a_charge_whose_check_had_no_id_needs_a_default(
    default: str, left: int, llm: PatientLlm, tmp_path: Path
) -> None:
    """For a rule without holds, the charge counts with `default_value`; without it, Envoy sends none."""
    with ClockedService(LARGE.replace(", hold: 1000", ""), now=NOON) as service:
        text = configured([service.address], llm)
        if not default:
            del charge_of(text)["actions"][1]["metadata"]["default_value"]
        llm.go.set()
        with running(tmp_path, text) as address:
            before = service.answered
            assert 200 == post(address).status_code
            wait_for("the calls", lambda: service.answered >= before + (2 if default else 1))
        assert left == remaining(service.address)


def charge_twice(address: str, service: ClockedService) -> None:
    """Send two requests of 60 tokens, and wait until each is charged."""
    for used in (60, 120):
        assert 200 == post(address).status_code
        wait_for("the charge", lambda used=used: 100_000 - used == remaining(service.address))  # type: ignore[misc]


def test_a_route_that_removes_the_header_is_charged_by_the_id(llm: PatientLlm, tmp_path: Path) -> None:
    """The descriptors of the charge read the headers as the router has changed them. A descriptor with only
    the id needs none.
    """
    with ClockedService(LARGE, now=NOON) as service:
        text = configured([service.address], llm)
        route_of(text)["request_headers_to_remove"] = ["x-team-id"]
        rate_limit(filters(text))["rate_limits"] += addition("### A charge of nothing but the id")
        llm.go.set()
        with running(tmp_path, text) as address:
            charge_twice(address, service)


def test_both_forms_of_the_charge_together_count_once(llm: PatientLlm, tmp_path: Path) -> None:
    """If no header was removed, the descriptor with only the id repeats the other one."""
    with ClockedService(LARGE, now=NOON) as service:
        text = configured([service.address], llm)
        rate_limit(filters(text))["rate_limits"] += addition("### A charge of nothing but the id")
        llm.go.set()
        with running(tmp_path, text) as address:
            charge_twice(address, service)


@pytest.mark.parametrize("apart", [True, False])
def test_two_filters_each_charge_their_own_bucket(apart: bool, llm: PatientLlm, tmp_path: Path) -> None:
    """With separate metadata_namespaces, or with the same, in which the second id replaces the first."""
    rules = LARGE + LARGE[LARGE.index("  - {key: team") :].replace("team", "user")
    with ClockedService(rules, now=NOON) as service:
        text = configured([service.address], llm)
        found = filters(text)
        second: dict[str, Any] = copy.deepcopy(
            next(each for each in found if each["name"].endswith(".ratelimit"))
        )
        actions = [each["actions"] for each in second["typed_config"]["rate_limits"]]
        for each in actions:
            each[0] = {"request_headers": {"header_name": "x-team-id", "descriptor_key": "user"}}
        if apart:
            added = addition("### Two rate-limit filters")
            second["typed_config"]["metadata_namespace"] = added["metadata_namespace"]
            actions[1][1]["metadata"]["metadata_key"] = added["metadata_key"]
        found.insert(2, second)
        llm.go.set()
        with running(tmp_path, text) as address:
            for used in (60, 120, 180):
                assert 200 == post(address).status_code
                for key in (b"team", b"user"):
                    charged = partial(is_left, service.address, 100_000 - used, key)
                    wait_for(f"the charge of {key!r}", charged)


def is_left(service: str, tokens: int, key: bytes) -> bool:
    return tokens == remaining(service, key)


@pytest.mark.parametrize(("whole", "left"), [(True, 10_000_000 - 1_234_567), (False, 10_000_000 - 1_234_570)])
def test_a_charge_needs_int(whole: bool, left: int, llm: PatientLlm, tmp_path: Path) -> None:
    """A double has only six digits."""
    with ClockedService(LARGE.replace("100_000", "10_000_000"), now=NOON) as service:
        text = configured([service.address], llm)
        if not whole:
            hits = charge_of(text)["hits_addend"]
            hits["format"] = hits["format"].replace("int(", "(")
        llm.go.set()
        with running(tmp_path, text) as address:
            assert 200 == post(address, x_tokens="1234567").status_code
            wait_for("the charge", lambda: left == remaining(service.address))


def test_a_route_that_removes_the_header_loses_the_charge(llm: PatientLlm, tmp_path: Path) -> None:
    """There is no call at its end, and its hold waits for the ttl."""
    with ClockedService(LARGE, now=NOON) as service:
        text = configured([service.address], llm)
        route_of(text)["request_headers_to_remove"] = ["x-team-id"]
        llm.go.set()
        with running(tmp_path, text) as address:
            for _ in range(3):
                assert 200 == post(address).status_code
        assert (3, 100_000) == (service.answered, remaining(service.address))


@pytest.mark.parametrize(
    ("place", "ids", "calls", "used"),
    [("grpc_service", True, 3, 60), ("grpc_service", False, 3, 120), ("envoy_grpc", True, 2, 60)],
)
def test_a_charge_that_envoy_sends_again_counts_once_by_its_id(
    place: str, ids: bool, calls: int, used: int, llm: PatientLlm, tmp_path: Path
) -> None:
    """The connection breaks after the service has read the charge. Without an id, it is charged twice.

    A retry_policy in envoy_grpc makes no difference.
    """
    with (
        ClockedService(LARGE, now=NOON) as service,
        proxied(int(service.address.rpartition(":")[2]), Proxy) as proxy,
    ):
        text = configured([f"127.0.0.1:{proxy.port}"], llm)
        grpc_service = rate_limit(filters(text))["rate_limit_service"]["grpc_service"]
        retried = addition("### A charge that is sent again")["grpc_service"]
        (grpc_service if place == "grpc_service" else grpc_service["envoy_grpc"])["retry_policy"] = retried[
            "retry_policy"
        ]
        if not ids:
            del charge_of(text)["actions"][1]
        with running(tmp_path, text) as address:
            threading.Thread(target=post, args=(address,), daemon=True).start()
            wait_for("the request at the provider", lambda: 1 == llm.arrived)
            proxy.cut_replies_after, proxy.cuts = 0, 1
            llm.go.set()
            wait_for("the calls", lambda: service.answered >= calls)
            wait_for("the cut", lambda: 0 == proxy.cuts)
            charged(service, used)

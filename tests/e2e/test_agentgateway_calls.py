"""The calls of agentgateway: one for each kind of limit, and charges afterwards.

They are written as agentgateway sends them, in protobuf's text format. Its gateway uses the code, the headers
and the body of an answer. It adds no x-envoy-ratelimited, and makes x-ratelimit headers only from the status
with the least remaining, so REFUSAL_HEADERS has all of them here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import grpc
import pytest
from google.protobuf import text_format

from ratelimit_service.proto import ratelimit_pb2 as pb
from testing.redis_servers import RedisServer
from testing.service import METHOD, Service

from .conftest import EXAMPLES, Counters, Unique, in_one_minute

pytestmark = pytest.mark.e2e

OK, OVER = pb.RateLimitResponse.OK, pb.RateLimitResponse.OVER_LIMIT

Call: TypeAlias = "grpc.UnaryUnaryMultiCallable[pb.RateLimitRequest, pb.RateLimitResponse]"
Send = Callable[[str], pb.RateLimitResponse]


@pytest.fixture(scope="module")
def service(redis_server: RedisServer) -> Iterator[Service]:
    """A service that has config/examples, and the settings for agentgateway."""
    environment = {
        "CONFIG_PATH": str(EXAMPLES),
        "REDIS_URL": redis_server.url,
        "REFUSAL_HEADERS": "retry-after,content-type,x-should-retry,x-envoy-ratelimited,x-ratelimit",
    }
    with Service(environment) as service:
        yield service


@pytest.fixture(scope="module")
def call(service: Service) -> Iterator[Call]:
    """Return the method, on the single connection of the gateway."""
    with grpc.insecure_channel(service.grpc) as channel:
        yield channel.unary_unary(
            METHOD,
            request_serializer=pb.RateLimitRequest.SerializeToString,
            response_deserializer=pb.RateLimitResponse.FromString,
        )


@pytest.fixture
def send(call: Call) -> Send:
    """Make one call, without a deadline, as the gateway does."""
    return lambda text: call(request(text))


@pytest.fixture
def counters(redis_server: RedisServer) -> Counters:
    return Counters(redis_server)


def request(text: str) -> pb.RateLimitRequest:
    return text_format.Parse(text, pb.RateLimitRequest())


def tokens(namespace: str, hits: str, *, limit: str = "") -> str:
    """Return a call about the tokens of a namespace. `hits` is the content of hits_addend."""
    return (
        f'domain: "token-budgets" descriptors {{ entries {{ key: "client_ns" value: "{namespace}" }} '
        f"{limit} hits_addend {{ {hits} }} }}"
    )


def one_request(user: str, hits: str = "") -> str:
    """Return a call about a request of a user, which has no hits_addend unless the descriptor has a cost."""
    return (
        f'domain: "requests-and-tokens" descriptors {{ entries {{ key: "user-requests" value: "{user}" }} '
        f"{hits} }}"
    )


def tokens_of_user(user: str, hits: str) -> str:
    return (
        f'domain: "requests-and-tokens" descriptors {{ entries {{ key: "user-tokens" value: "{user}" }} '
        f"hits_addend {{ {hits} }} }}"
    )


@in_one_minute
def test_a_check_is_free_and_a_charge_is_counted_in_full(
    send: Send, counters: Counters, unique: Unique
) -> None:
    """hits_addend {} asks whether anything remains. A second call has the cost of the answer."""
    namespace = unique("team-a")
    bucket = f"token-budgets|client_ns={namespace}"
    assert OK == send(tokens(namespace, "")).overall_code
    assert {} == counters.of(bucket)
    assert OK == send(tokens(namespace, "value: 23017")).overall_code
    assert [23017] == list(counters.of(bucket).values())
    assert OVER == send(tokens(namespace, "")).overall_code
    # A request that was checked before is charged after it: the answer is ignored, and the charge is counted.
    assert OVER == send(tokens(namespace, "value: 40")).overall_code
    assert [23057] == list(counters.of(bucket).values())


@in_one_minute
def test_requests_and_tokens_are_limited_in_separate_calls(
    send: Send, counters: Counters, unique: Unique
) -> None:
    """A request without a cost counts 1, and is refused independently of the tokens of the user."""
    user = unique("ann")
    seen = []
    for _ in range(5):
        seen.append(send(one_request(user)).overall_code)
        seen.append(send(tokens_of_user(user, "")).overall_code)
        send(tokens_of_user(user, "value: 7"))
    assert [OK] * 10 == seen
    assert [OVER, OK] == [send(one_request(user)).overall_code, send(tokens_of_user(user, "")).overall_code]
    used = [counters.of(f"requests-and-tokens|{key}={user}") for key in ("user-requests", "user-tokens")]
    assert [[5], [35]] == [list(each.values()) for each in used]


@in_one_minute
def test_a_request_may_have_a_cost(send: Send, counters: Counters, unique: Unique) -> None:
    """With `cost`, the descriptor of a request has a hits_addend: here three, so that the second request
    exceeds the limit.
    """
    user = unique("bob")
    codes = [send(one_request(user, "hits_addend { value: 3 }")).overall_code for _ in range(2)]
    assert [OK, OVER] == codes
    assert [3] == list(counters.of(f"requests-and-tokens|user-requests={user}").values())


@in_one_minute
def test_an_estimate_is_counted_at_once_and_the_rest_afterwards(
    send: Send, counters: Counters, unique: Unique
) -> None:
    """With `tokenize`, the check has the tokens of the prompt, and the charge the rest."""
    namespace = unique("team-a")
    assert OK == send(tokens(namespace, "value: 60")).overall_code
    assert OK == send(tokens(namespace, "value: 50")).overall_code  # it crosses the limit, and succeeds
    assert OVER == send(tokens(namespace, "value: 8")).overall_code
    assert [118] == list(counters.of(f"token-budgets|client_ns={namespace}").values())


@in_one_minute
def test_a_call_without_descriptors_is_an_error_without_a_log_line(
    service: Service, send: Send, call: Call, unique: Unique
) -> None:
    """The gateway sends a charge without descriptors if it cannot compute a cost."""
    logged = len(service.everything())
    with pytest.raises(grpc.RpcError) as raised:
        call(request('domain: "token-budgets"'))
    assert grpc.StatusCode.INVALID_ARGUMENT == raised.value.code()
    assert OK == send(tokens(unique("team-a"), "")).overall_code
    # Lines about refusals of earlier tests may still come.
    assert {"limit reached"} >= {event["@message"] for event in service.everything()[logged:]}


LIMIT_50_A_MINUTE = "limit { requests_per_unit: 50 unit: MINUTE }"


@in_one_minute
def test_a_limit_in_a_call_is_a_budget_on_the_same_counter(
    send: Send, counters: Counters, unique: Unique
) -> None:
    """limitOverride is in the check and again in the charge. For a caller without it, more may be left."""
    namespace = unique("team-a")
    assert OK == send(tokens(namespace, "", limit=LIMIT_50_A_MINUTE)).overall_code
    assert OK == send(tokens(namespace, "value: 50", limit=LIMIT_50_A_MINUTE)).overall_code
    refused = send(tokens(namespace, "", limit=LIMIT_50_A_MINUTE))
    assert (OVER, 50) == (refused.overall_code, refused.statuses[0].current_limit.requests_per_unit)
    usual = send(tokens(namespace, ""))
    assert (OK, 50) == (usual.overall_code, usual.statuses[0].limit_remaining)
    assert [50] == list(counters.of(f"token-budgets|client_ns={namespace}").values())


@in_one_minute
def test_a_refusal_has_all_its_headers(send: Send, unique: Unique) -> None:
    """The gateway makes no headers of the status of the check of requests, so those of the refusal are
    kept.
    """
    user = unique("ann")
    send(tokens_of_user(user, "value: 10000"))
    passed, refused = send(one_request(user)), send(tokens_of_user(user, ""))
    assert (OK, [], b"") == (passed.overall_code, list(passed.response_headers_to_add), passed.raw_body)
    (status,) = passed.statuses
    assert (False, 4) == (status.HasField("current_limit"), status.limit_remaining)

    seconds = refused.statuses[0].duration_until_reset.seconds
    assert 1 <= seconds <= 3600
    headers = [(header.key, header.value) for header in refused.response_headers_to_add]
    name, retry_after = headers.pop(0)
    assert "retry-after" == name and seconds <= int(retry_after) <= seconds + 5
    assert [
        ("x-ratelimit-limit", "10000"),
        ("x-ratelimit-remaining", "0"),
        ("x-ratelimit-reset", str(seconds)),
        *([("x-should-retry", "false")] if seconds > 60 else []),
        ("content-type", "application/json"),
        ("x-envoy-ratelimited", "true"),
    ] == headers
    assert "Token budget tokens is used up. It resets at" in refused.raw_body.decode()


@in_one_minute
def test_forty_concurrent_requests_are_all_charged(
    send: Send, call: Call, counters: Counters, unique: Unique
) -> None:
    """They share one connection. Each is checked and charged, and no token is lost or counted twice."""
    namespace = unique("team-a")
    checks = [call.future(request(tokens(namespace, ""))) for _ in range(40)]
    assert {OK} == {check.result().overall_code for check in checks}
    charges = [call.future(request(tokens(namespace, "value: 7"))) for _ in range(40)]
    assert {OK, OVER} == {charge.result().overall_code for charge in charges}
    assert [280] == list(counters.of(f"token-budgets|client_ns={namespace}").values())
    assert OVER == send(tokens(namespace, "")).overall_code

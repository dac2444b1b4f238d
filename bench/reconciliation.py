"""Compares acknowledged charges with the counters in the store after each run."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from ratelimit_service.proto import ratelimit_pb2 as pb
from ratelimit_service.transports.grpc_method import PATH
from testing.waiting import wait_for

from .messages import DOMAIN, LIMIT
from .servers import Server, metric

Bucket = tuple[str, str]
"""A key and a value."""


class Unknown(Exception):
    """The service does not report the remaining budget of a bucket."""


_AT_ONCE = 100
IN_HAND = "ratelimit_service_calls_in_hand"
_MOST_ASKED = 20_000
"""The most buckets that are checked by requests, without Redis; of more buckets, a sample of this size."""


def check_exactly(server: Server, charged: Mapping[Bucket, int]) -> int:
    """Compare the counters with the charges since the server was started. Return the number of counters.

    In Redis, compare every counter; otherwise, the remaining budgets that the service reports. Raises
    AssertionError.
    """
    if server.redis:
        held = use_in_redis(server)
        wrong = {
            name: (used, charged.get(name[0], 0))
            for name, used in held.items()
            if used != charged.get(name[0], 0)
        }
        assert not wrong, f"counters (held, charged): {_some(wrong)}"
        missing = dict(charged)
        for bucket, _ in held:
            missing.pop(bucket, None)
        assert not missing, f"charged, but without a counter: {_some(missing)}"
        return len(held)
    step = -(-len(charged) // _MOST_ASKED) or 1
    buckets = sorted(charged)[::step]
    found = reported_use(server, buckets)
    wrong_here = {
        bucket: (used, charged[bucket]) for bucket, used in found.items() if used != charged[bucket]
    }
    assert not wrong_here, f"counters (held, charged): {_some(wrong_here)}"
    return len(found)


def check_roughly(server: Server, charged: Mapping[Bucket, int], in_flight: int) -> None:
    """Compare as `check_exactly` does, for a load generator that does not wait for its last answers, which
    may have been counted or not.
    """
    wait_until_idle(server)
    for bucket, used in reported_use(server, list(charged)).items():
        assert charged[bucket] <= used <= charged[bucket] + in_flight, (bucket, used, charged[bucket])


def wait_until_idle(server: Server) -> None:
    """Wait until no call is in flight."""
    service = server.service
    if service is not None:
        wait_for("no call is in hand", lambda: metric(service, IN_HAND) == 0, patience=60)


def reported_use(server: Server, buckets: Sequence[Bucket]) -> dict[Bucket, int]:
    """Return the use of buckets, from the remaining budgets that the service reports.

    Raises Unknown without a report.
    """
    found = {}
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        ask = channel.unary_unary(
            PATH,
            request_serializer=pb.RateLimitRequest.SerializeToString,
            response_deserializer=pb.RateLimitResponse.FromString,
        )
        for at in range(0, len(buckets), _AT_ONCE):
            some = buckets[at : at + _AT_ONCE]
            request = pb.RateLimitRequest(domain=DOMAIN)
            for key, value in some:
                descriptor = request.descriptors.add()
                descriptor.entries.add(key=key.encode(), value=value.encode())
                descriptor.hits_addend.value = 0
            answer = ask(request, timeout=30)
            for bucket, status in zip(some, answer.statuses, strict=True):
                if not status.HasField("current_limit"):
                    raise Unknown(bucket)
                found[bucket] = LIMIT - status.limit_remaining
    return found


def use_in_redis(server: Server) -> dict[tuple[Bucket, str], int]:
    """Return the counters, by bucket and window; the counters of successive windows are added up."""
    held: dict[tuple[Bucket, str], int] = {}
    for client in server.clients():
        found = client.scan_iter(match=f"{{{DOMAIN}|*", count=10_000)
        while keys := list(itertools.islice(found, 10_000)):
            pipe = client.pipeline(transaction=False)
            for key in keys:
                pipe.get(key)
            values: list[Any] = pipe.execute()
            for key, used in zip(keys, values, strict=True):
                # {bench|team=t1}:year:2026
                bucket, _, window = key.decode().partition("}:")
                name, _, value = bucket.partition("|")[2].partition("=")
                place = (name, value), window.partition(":")[0]
                held[place] = held.get(place, 0) + int(used)
    return held


def _some(wrong: Mapping[Any, Any]) -> str:
    first = dict(itertools.islice(wrong.items(), 5))
    return f"{len(wrong)} differ, among them {first}"

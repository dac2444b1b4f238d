"""Sends the same requests to two services, one after another."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc

from ...core.errors import StoreError
from ...core.text import printable
from ...proto.ratelimit_pb2 import RateLimitRequest
from ...transports.grpc_method import PATH
from .answers import EXPLAIN, Answer
from .comparer import Comparer
from .report import Report


def replay(
    requests: Iterable[RateLimitRequest],
    theirs: grpc.Channel,
    ours: grpc.Channel,
    report: Report,
    *,
    addresses: tuple[str, str],
    timeout: float,
    checks_only: bool = False,
) -> None:
    """Send each request to both services at the same time, and report the differences.

    Raises StoreError, with one of the addresses, if a service cannot be reached.
    """
    for name, address, channel in zip(("theirs", "ours"), addresses, (theirs, ours), strict=True):
        try:
            grpc.channel_ready_future(channel).result(timeout)
        except grpc.FutureTimeoutError:
            raise StoreError(
                f"{name} ({printable(address)}) cannot be reached within {timeout:g} s"
            ) from None
    ask_theirs, ask_ours = (channel.unary_unary(PATH, None, None) for channel in (theirs, ours))
    comparer = Comparer()
    for request in requests:
        if checks_only:
            for descriptor in request.descriptors:
                descriptor.hits_addend.value = 0
                descriptor.hits_addend.SetInParent()
                descriptor.is_negative_hits = False
        data = request.SerializeToString()
        one, other = (
            ask_theirs.future(data, timeout=timeout),
            ask_ours.future(data + EXPLAIN, timeout=timeout),
        )
        report.compare(comparer, request, _answer(one), _answer(other))


def _answer(call: Any) -> Answer:
    try:
        return Answer.of(call.result())
    except grpc.RpcError as error:
        return Answer(error.code().name, printable(error.details() or ""))

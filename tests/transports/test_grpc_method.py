"""The gRPC status of every error of a call."""

from __future__ import annotations

import pytest

from ratelimit_service.core import errors
from ratelimit_service.stores.batch import CallFailed
from ratelimit_service.transports.grpc_method import status_of


@pytest.mark.parametrize(
    "error, name",
    [
        (errors.InvalidRequest("x"), "INVALID_ARGUMENT"),
        (errors.Forbidden("x"), "PERMISSION_DENIED"),
        (errors.NotReady("x"), "UNAVAILABLE"),
        (errors.StoreError("x"), "UNAVAILABLE"),
        (errors.CounterRefused("x", "key"), "UNAVAILABLE"),
        (CallFailed("x"), "UNAVAILABLE"),
        (errors.Overloaded("x"), "RESOURCE_EXHAUSTED"),
        (errors.InternalError("x"), "INTERNAL"),
        (errors.RateLimitServiceError("x"), "INTERNAL"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_error_has_the_status_of_its_kind(error: errors.RateLimitServiceError, name: str) -> None:
    """A subclass has the status of its base class unless it has its own. The message is passed on."""
    assert (name, "x") == status_of(error)[1:]


def test_every_failure_of_the_store_invites_to_ask_again() -> None:
    """This includes kinds of failures that are added later."""
    kinds = [errors.StoreError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert {"UNAVAILABLE"} == {status_of(kind("x")).name for kind in kinds}

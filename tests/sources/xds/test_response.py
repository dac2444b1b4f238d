"""The content of a response, found without parsing its resources."""

from __future__ import annotations

from typing import Any

import pytest

from ratelimit_service.proto.xds_pb2 import RateLimitConfig, Resource
from ratelimit_service.sources.xds.response import TYPE_URL, Malformed, open_response
from testing.control_plane import limit, resource
from tests.sources.xds.rule_sets import received, response, spooled

A = resource("a", limit("team", 5))
B = resource("b", limit("user", 7))


def test_resources_are_found_by_domain() -> None:
    """Version and nonce are found too. The bytes are those of the resource itself."""
    found = received(A, B, version="7", nonce="n9")
    assert ("7", "n9", TYPE_URL, ["a", "b"]) == (
        found.version,
        found.nonce,
        found.type_url,
        list(found.groups),
    )
    (only,) = found.groups["b"].resources
    assert (B.SerializeToString(), "b") == (only.spool.read(only.start, only.length), only.name)


def test_the_digest_ignores_the_order_the_version_and_the_nonce() -> None:
    """SnapshotCache sends resources in a random order, and counts versions from 1 again when it starts."""
    assert received(A, B).digest == received(B, A, version="2", nonce="m").digest


@pytest.mark.parametrize(
    "configs",
    [
        (A,),
        (A, B, B),
        (A, resource("b", limit("user", 8))),
        (A, resource("b", limit("user", 7), name="another name")),
        (),
    ],
)
def test_other_content_has_another_digest(configs: tuple[RateLimitConfig, ...]) -> None:
    """The digest does not depend on the version."""
    assert received(A, B).digest != received(*configs).digest


def test_a_changed_domain_does_not_affect_the_digests_of_others() -> None:
    """Each domain has its own digest."""
    before, after = received(A, B), received(A, resource("b", limit("user", 8)))
    same = [domain for domain in "ab" if before.groups[domain].digest == after.groups[domain].digest]
    assert ["a"] == same


def test_resources_of_one_domain_are_a_group_sorted_by_name() -> None:
    """Their order in the response is random, and the order of rules must not be."""
    one, two = resource("a", limit("x", 1), name="1"), resource("a", limit("y", 2), name="2")
    groups = received(two, one).groups
    assert ["1", "2"] == [each.name for each in groups["a"].resources]
    assert groups["a"].digest == received(one, two).groups["a"].digest


def test_a_resource_of_another_type_is_recognized() -> None:
    """It belongs to no domain, whatever its bytes are."""
    found = received(Resource(type_url="type.googleapis.com/envoy.Cluster", value=A.SerializeToString()), B)
    foreign, good = found.groups.values()
    assert "b" == good.domain
    assert (
        f"is a type.googleapis.com/envoy.Cluster: only {TYPE_URL} was asked for" == foreign.resources[0].wrong
    )


@pytest.mark.parametrize(
    "value", [b"\x12\x7f", b"\x0f", b"\xff" * 20, b"\x0a" + b"\xff" * 9 + b"\x01", b"\x0a\x81\x80\x04"]
)
def test_a_damaged_resource_is_recognized(value: bytes) -> None:
    """The other resources are found."""
    found = received(Resource(type_url=TYPE_URL, value=value), B)
    wrong = [each.resources[0].wrong for each in found.groups.values()]
    assert ["is damaged: its bytes are not a RateLimitConfig", ""] == wrong


def test_a_resource_without_a_domain_is_a_group_of_its_own() -> None:
    """Its mistake is reported when it is read."""
    found = received(RateLimitConfig(name=b"x"), RateLimitConfig())
    assert [("resource 1", ""), ("x", "")] == [
        (group.resources[0].name, group.resources[0].wrong) for group in found.groups.values()
    ]


@pytest.mark.parametrize("data", [b"\x12\x7fabc", b"\xff\xff\xff", b"\x0b", b"hello, world"])
def test_an_invalid_response_is_not_taken_for_an_empty_set(data: bytes) -> None:
    """An empty set would end all limits."""
    with pytest.raises(Malformed):
        open_response(spooled(data))


def test_unknown_fields_are_skipped() -> None:
    """Later versions of the protocol may add numbers, fixed numbers and texts."""
    more = b"\x18\x01" + b"\x45abcd" + b"\x49abcdefgh" + b"\x32\x02ok"
    assert received(A).groups.keys() == open_response(spooled(more + response(A) + more)).groups.keys()


def test_an_empty_response_is_an_empty_set() -> None:
    """Envoy Gateway sends one without a version when the last Gateway is deleted."""
    found = received(version="")
    assert ("", {}, 0) == (found.version, found.groups, len(found.groups))


def test_a_type_of_megabytes_is_not_shown_in_full() -> None:
    """It is part of a problem, which the log, the answer and /rlconfig have."""
    (group,) = received(Resource(type_url="t" * 5_000_000)).groups.values()
    assert len(group.resources[0].wrong) < 500


@pytest.mark.parametrize("field", ["version", "nonce", "type_url"])
def test_a_response_with_a_text_of_megabytes_is_malformed(field: str) -> None:
    """Each request repeats the version, and control planes read no request of this size."""
    texts: dict[str, Any] = {field: "9" * (1 << 20)}
    received(A, **texts)
    with pytest.raises(Malformed, match="of 1048577 bytes"):
        received(A, **{field: "9" * ((1 << 20) + 1)})


def test_a_domain_that_begins_with_nul_is_wrong() -> None:
    """The group of a resource without a domain has such a name, and they would be one group."""
    found = received(resource("\0x", limit("team", 5), name="y"), RateLimitConfig(name=b"x"))
    assert {"y": "has a domain that begins with NUL", "x": ""} == {
        each.name: each.wrong for group in found.groups.values() for each in group.resources
    }
    assert 2 == len(found.groups)

"""A subscription: its answers to a control plane, and the rules of its sets that are in force. Tests set the
clock.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ratelimit_service.core.errors import Problem
from ratelimit_service.proto.xds_pb2 import DiscoveryRequest, RateLimitConfig
from ratelimit_service.sources.xds.response import TYPE_URL, OpenedResponse
from ratelimit_service.sources.xds.server import Server
from ratelimit_service.sources.xds.subscription import PAUSES, Answer, Subscription, rejection
from testing.control_plane import limit, resource
from tests.sources.xds.rule_sets import received

GRACE = 10.0
A, B, C = (resource(name, limit("team", 5)) for name in "abc")
A2, B2 = (resource(name, limit("team", 6)) for name in "ab")


class Plane:
    """A subscription with rules, of which those of the domains in `bad` are invalid."""

    def __init__(self, *, grace: float = GRACE) -> None:
        server = Server("cp", node_id="envoy-ratelimit", node_metadata={"zone": "a"})
        self.subscription = Subscription(server, "1.2.3", grace)
        self.bad: set[bytes] = set()
        self.read: list[str] = []
        self.now = 0.0
        self.version = 0

    def sends(
        self, *configs: RateLimitConfig, version: str | None = None, hidden: Sequence[Problem] = ()
    ) -> Answer:
        """Return the answer to a set. `read` then has the domains that were read for it."""
        self.version += 1
        got = received(
            *configs, version=str(self.version) if version is None else version, nonce=f"n{self.version}"
        )
        return self.takes(got, hidden)

    def takes(self, got: OpenedResponse, hidden: Sequence[Problem] = ()) -> Answer:
        groups = self.subscription.wanted(got)
        self.read = [group.domain for group in groups]
        self.subscription.miss(got, self.now)
        bad = {group.domain for group in groups if any(each.digest in self.bad for each in group.resources)}
        problems = {domain: (Problem(f"xds cp: {domain}", 0, "unit", "is wrong"),) for domain in bad}
        self.subscription.take(groups, frozenset({group.domain for group in groups} - bad), problems)
        return self.subscription.settle(got, hidden)

    def is_bad(self, config: RateLimitConfig) -> None:
        (group,) = received(config).groups.values()
        self.bad.add(group.resources[0].digest)


@pytest.fixture
def plane() -> Plane:
    return Plane()


def said(answer: Answer) -> tuple[str, str, int, str]:
    """Return the version, nonce, code and message of an answer."""
    request = DiscoveryRequest.FromString(answer.request)
    return (
        request.version_info,
        request.response_nonce,
        request.error_detail.code,
        request.error_detail.message,
    )


def test_the_first_request_of_a_stream_has_the_node_and_no_nonce(plane: Plane) -> None:
    """It has no version if no rules are in force."""
    request = DiscoveryRequest.FromString(plane.subscription.begin())
    assert ("", "", TYPE_URL, []) == (
        request.version_info,
        request.response_nonce,
        request.type_url,
        list(request.resource_names),
    )
    assert ("envoy-ratelimit", {"zone": "a"}, "ratelimit-service", "1.2.3") == (
        request.node.id,
        dict(request.node.metadata.items()),
        request.node.user_agent_name,
        request.node.user_agent_version,
    )


def test_a_later_stream_begins_with_a_version_that_no_control_plane_uses(plane: Plane) -> None:
    """So a control plane sends its set even if it counts versions from the beginning again, or has none."""
    plane.sends(A, version="7")
    request = DiscoveryRequest.FromString(plane.subscription.begin())
    assert (True, "") == (request.version_info.startswith("held "), request.response_nonce)


def test_a_good_set_is_accepted_with_its_version_and_nonce(plane: Plane) -> None:
    """Each request repeats the whole node."""
    answer = plane.sends(A, B, version="7")
    assert (("7", "n1", 0, ""), 0.0, False) == (said(answer), answer.pause, answer.rejects)
    assert "envoy-ratelimit" == DiscoveryRequest.FromString(answer.request).node.id
    assert {"a", "b"} == plane.subscription.held.keys()


def test_an_unchanged_set_is_not_read_again(plane: Plane) -> None:
    """It is accepted with any version and in any order."""
    plane.sends(A, B)
    assert (("x", "n2", 0, ""), []) == (said(plane.sends(B, A, version="x")), plane.read)


def test_only_changed_domains_are_read(plane: Plane) -> None:
    """One changed domain of a thousand costs as much as one domain."""
    plane.sends(A, B)
    plane.sends(A2, B, C)
    assert ["a", "c"] == plane.read


def test_an_invalid_domain_keeps_its_last_good_rules_and_others_are_accepted(plane: Plane) -> None:
    """One rejection names it, with a code and the version that was accepted last."""
    plane.sends(A, B, version="7")
    plane.is_bad(B2)
    answer = plane.sends(A2, B2)
    assert ("7", "n2", 3, "b: unit: is wrong") == said(answer)
    held = received(A2, B).groups
    assert {name: group.digest for name, group in held.items()} == {
        name: group.digest for name, group in plane.subscription.held.items()
    }


def test_a_corrected_domain_comes_into_force_and_the_set_is_accepted(plane: Plane) -> None:
    """No other domain is read again."""
    plane.is_bad(B2)
    plane.sends(A, B2)
    assert (("2", "n2", 0, ""), ["b"]) == (said(plane.sends(A, B)), plane.read)


def test_a_domain_that_returns_to_its_last_good_content_is_not_read(plane: Plane) -> None:
    """Its rules are already in force."""
    plane.sends(A, B)
    plane.is_bad(B2)
    plane.sends(A, B2)
    assert (("3", "n3", 0, ""), [], {}) == (said(plane.sends(A, B)), plane.read, plane.subscription.refused)


def test_a_set_without_its_invalid_domain_is_accepted(plane: Plane) -> None:
    """Its last good rules expire like those of any other missing domain."""
    plane.sends(A, B)
    plane.is_bad(B2)
    plane.sends(A, B2)
    assert ("3", "n3", 0, "") == said(plane.sends(A))
    assert {"b": 0.0} == plane.subscription.missing


def test_the_same_rejection_is_delayed_longer_each_time(plane: Plane) -> None:
    """Control planes send a rejected set again at once. It is not read again, and the delay is at most 10
    s.
    """
    plane.is_bad(B2)
    pauses = [plane.sends(A, B2, version="7").pause for _ in range(7)]
    assert ([*PAUSES, 10.0, 10.0], []) == (pauses, plane.read)


def test_other_content_is_answered_at_once(plane: Plane) -> None:
    """This holds for valid and invalid sets. The next rejection starts with the shortest delay."""
    plane.is_bad(B2)
    for _ in range(4):
        plane.sends(A, B2)
    plane.is_bad(C)
    assert [0.0, 0.0, 0.0] == [plane.sends(A2, B2).pause, plane.sends(A2, C).pause, plane.sends(A).pause]
    assert 0.0 == plane.sends(A, B2).pause


def test_another_type_is_rejected_and_changes_nothing(plane: Plane) -> None:
    """The rejection names the requested type, and is delayed like others."""
    plane.sends(A, version="7")
    foreign = received(version="8", nonce="f", type_url="type.googleapis.com/x\n")
    answer = plane.subscription.foreign(foreign)
    assert (
        "7",
        "f",
        3,
        f"unexpected type type.googleapis.com/x\\n: the subscription is to {TYPE_URL}",
    ) == said(answer)
    assert [0.0, 1.0] == [answer.pause, plane.subscription.foreign(foreign).pause]
    assert {"a"} == plane.subscription.held.keys()


def test_a_domain_that_is_in_force_from_another_source_is_rejected(plane: Plane) -> None:
    """The rejection names the source of its rules."""
    problem = Problem("xds cp: a", 0, "domain", "'a' has its rules at config.yaml:1, which hold")
    assert (
        "a: domain: 'a' has its rules at config.yaml:1, which hold"
        == said(plane.sends(A, hidden=[problem]))[3]
    )


def test_a_missing_domain_stays_in_force_for_the_grace_period(plane: Plane) -> None:
    """The time starts with the first set without it."""
    plane.sends(A, B)
    plane.now = 5.0
    plane.sends(A)
    plane.now = 6.0
    plane.sends(A2)
    assert (["b"], 15.0) == (list(plane.subscription.missing), plane.subscription.next_end())
    assert [[], ["b"]] == [sorted(plane.subscription.gone(now)) for now in (14.9, 15.0)]
    plane.subscription.drop({"b"})
    assert (["a"], None) == (list(plane.subscription.held), plane.subscription.next_end())


def test_a_domain_that_returns_stays_in_force_and_is_not_read(plane: Plane) -> None:
    """A control plane that has just started sends an incomplete set first."""
    plane.sends(A, B)
    plane.sends(B)
    plane.sends(A, B)
    assert ({}, []) == (plane.subscription.missing, plane.read)


def test_an_empty_set_is_accepted_and_ends_rules_after_the_grace_period(plane: Plane) -> None:
    """Envoy Gateway sends it in two forms, with a version and without."""
    plane.sends(A, B)
    assert ("", "n2", 0, "") == said(plane.sends(version=""))
    assert {"a", "b"} == plane.subscription.gone(GRACE)


def test_without_a_grace_period_a_missing_domain_ends_at_once() -> None:
    """This is the behaviour of envoyproxy/ratelimit."""
    plane = Plane(grace=0)
    plane.sends(A, B)
    plane.sends(A)
    assert {"b"} == plane.subscription.gone(0.0)


def test_the_grace_period_starts_again_with_each_stream(plane: Plane) -> None:
    """A control plane that ends may have sent only incomplete sets."""
    plane.sends(A, B)
    plane.sends(A)
    plane.subscription.begin()
    assert {} == plane.subscription.missing
    plane.now = 60.0
    plane.sends(A)
    assert {"b": 60.0} == plane.subscription.missing


def test_the_text_of_a_rejection_is_bounded() -> None:
    """It says how much was omitted. It is never empty, and has no text that would break a line."""
    problems = [Problem(f"xds cp: shop/gw/{place}", 0, "descriptors[0]", "x" * 100) for place in range(1_000)]
    text = rejection(problems, "cp")
    *lines, last = text.split("\n")
    assert (True, f"and {1_000 - len(lines)} more") == (3_900 < len(text.encode()) <= 4_096, last)
    long = rejection([Problem("xds cp: a\nb", 0, "", "ü" * 10_000)], "cp")
    assert (True, True) == (long.startswith("a\\nb: ü"), len(long.encode()) <= 4_096)


def test_the_hash_in_force_depends_on_the_content_alone(plane: Plane) -> None:
    """Neither on the order in which domains came into force nor on those that have ended."""
    plane.sends(A, B)
    before = plane.subscription.digest
    plane.sends(A2, B, C)
    assert before != plane.subscription.digest
    plane.sends(A, B, C)
    plane.subscription.drop({"c", "no such domain"})
    other = Plane()
    other.sends(B)
    other.sends(A, B)
    assert before == plane.subscription.digest == other.subscription.digest
    plane.subscription.drop({"a", "b"})
    assert b"" == plane.subscription.digest


def test_sets_with_one_domain_each_keep_few_messages_open() -> None:
    """Each message may have 64 MiB, and each domain stays in force for its grace period."""
    plane = Plane()
    plane.is_bad(B2)
    sent = [resource(f"d{place}", limit("team", place)) for place in range(100)]
    for each in (B2, *sent):
        plane.sends(each, B2)
        plane.subscription.compact()
    before = plane.subscription.digest
    held = plane.subscription.held
    refused = [refusal.group for refusal in plane.subscription.refused.values()]
    resources = [each for group in [*held.values(), *refused] for each in group.resources]
    assert len({each.spool.fd for each in resources}) <= 8
    assert [each.SerializeToString() for each in (*sent, B2)] == [
        each.spool.read(each.start, each.length) for each in resources
    ]
    plane.sends(*sent, B2)
    assert (before, []) == (plane.subscription.digest, plane.read)


def test_a_domain_does_not_keep_a_much_larger_message_open() -> None:
    """The domains that were sent with it have ended."""
    plane = Plane()
    plane.sends(A, resource("b", limit("x" * (1 << 21), 1)))
    plane.subscription.drop({"b"})
    plane.subscription.compact()
    (kept,) = plane.subscription.held["a"].resources
    assert (len(A.SerializeToString()), A.SerializeToString()) == (
        kept.spool.size,
        kept.spool.read(kept.start, kept.length),
    )

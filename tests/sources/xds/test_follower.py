"""A follower of a control plane, over real connections and with a clock that the tests set."""

from __future__ import annotations

from typing import Any

import pytest

from ratelimit_service.core.errors import Problem
from ratelimit_service.proto.xds_pb2 import Resource
from ratelimit_service.sources.xds.overlays import by_domain
from ratelimit_service.sources.xds.response import TYPE_URL
from ratelimit_service.sources.yaml_text import read
from testing.control_plane import ControlPlane, limit, resource
from testing.waiting import until
from tests.sources.xds.conftest import START, Follow, Following
from tests.sources.xds.rule_sets import Book

from .follower_state import A2, B2, BAD, A, B, C, versions


def events(logged: list[Any]) -> list[str]:
    return [line["event"] for line in logged]


async def test_a_set_comes_into_force_and_is_accepted(
    plane: ControlPlane, follow: Follow, logged: list[Any]
) -> None:
    """The request has the configured node, and the answer has the version and the nonce of the response."""
    plane.send(A, B)
    following = await follow()
    await following.answered(2)
    assert {"a": [5], "b": [5]} == following.book.amounts()
    assert [("", ""), ("1", "1")] == versions(plane)
    assert {"envoy-ratelimit"} == {request.node.id for request in plane.requests}
    standing = following.standing
    assert (True, 1, "1", START, START, 0.0, 2) == (
        standing.connected,
        standing.generation,
        standing.version,
        standing.accepted_at,
        standing.answered_at,
        standing.stale_since,
        standing.domains,
    )
    assert ["the control plane is connected"] == events(logged)


async def test_a_changed_set_comes_into_force(plane: ControlPlane, follow: Follow) -> None:
    """Only the changed domain is read."""
    plane.send(A, B)
    following = await follow()
    await following.answered(2)
    plane.send(A2, B)
    await following.answered(3)
    assert {"a": [6], "b": [5]} == following.book.amounts()
    assert [{"a", "b"}, {"a"}] == [change.domains for change in following.book.wanted]
    assert ({"accepted": 2}, 2) == (following.standing.responses, following.standing.generation)


async def test_a_version_is_shown_escaped_and_returned_unchanged(plane: ControlPlane, follow: Follow) -> None:
    """Unescaped, a newline in it would begin another line in /rlconfig."""
    version = "1\n# xds eg: connected\x1b[2K" + "9" * 1_000_000
    plane.send(A, version=version)
    following = await follow()
    await following.answered(2)
    assert version == plane.requests[-1].version_info
    shown = following.standing.version
    assert (True, True) == (shown.isprintable(), len(shown) < 150)


async def test_an_unchanged_set_with_another_version_is_accepted_without_a_load(
    plane: ControlPlane, follow: Follow
) -> None:
    """A control plane makes a new version for every change of its sources, also if the translation is the
    same.
    """
    plane.send(A, B)
    following = await follow()
    await following.answered(2)
    for version in ("2", "3", "1"):
        plane.send(B, A, version=version)
        await following.until(lambda version=version: plane.requests[-1].version_info == version)  # type: ignore[misc]
    assert (1, 1) == (len(following.book.wanted), following.standing.generation)
    assert {"accepted": 1, "unchanged": 3} == following.standing.responses


async def test_an_invalid_domain_does_not_affect_the_others(plane: ControlPlane, follow: Follow) -> None:
    """It keeps its last good rules. The rejection, /rlconfig and the metrics report its mistake."""
    plane.send(A, B)
    following = await follow()
    await following.answered(2)
    plane.on_request = lambda peer: bool(plane.requests[-1].HasField("error_detail"))
    plane.send(A2, BAD, C)
    await following.answered(3)
    assert {"a": [6], "b": [5], "c": [5]} == following.book.amounts()
    problem = (
        "b: descriptors[0].rate_limit.unit: unknown unit '9': use one of second, minute, hour, day, week, "
        "month, year"
    )
    rejected = plane.requests[-1]
    assert (("1", "2"), (3, problem)) == (
        versions(plane)[-1],
        (rejected.error_detail.code, rejected.error_detail.message),
    )
    assert ((problem,), 1, 2) == (
        following.standing.rejected,
        following.standing.refused,
        following.standing.generation,
    )
    assert [f"xds cp: {problem}"] == list(map(str, following.book.blamed[-1]))


async def test_one_rejection_names_every_invalid_resource(plane: ControlPlane, follow: Follow) -> None:
    """This includes resources that cannot be parsed. The good ones come into force."""
    damaged = Resource(type_url=TYPE_URL, value=b"\x0a\x01x\x12\x01y\x1a\x01\xff")
    foreign = Resource(type_url="type.googleapis.com/x.Y", value=A.SerializeToString())
    plane.on_request = lambda peer: bool(plane.requests[-1].HasField("error_detail"))
    plane.send(BAD, damaged, foreign, C)
    following = await follow()
    await following.answered(2)
    assert [
        f"a: is a type.googleapis.com/x.Y: only {TYPE_URL} was asked for",
        "b: descriptors[0].rate_limit.unit: unknown unit '9': use one of second, minute, hour, day, week, "
        "month, year",
        "x: is damaged: its bytes are not a RateLimitConfig",
    ] == sorted(plane.rejections[0].split("\n"))
    assert {"c": [5]} == following.book.amounts()


async def test_strict_mode_rejects_a_set_as_a_whole(plane: ControlPlane, follow: Follow) -> None:
    """envoyproxy/ratelimit does the same. A domain that is absent from such a set does not count as
    missing.
    """
    plane.send(A, B)
    following = await follow(strict=True)
    await following.answered(2)
    plane.send(A2, BAD, C)
    await following.answered(3)
    assert ({"a": [5], "b": [5]}, {}) == (
        following.book.amounts(),
        following.follower._subscription.missing,
    )
    plane.send(BAD)
    await following.until(lambda: following.standing.responses["rejected"] == 2)
    following.clock.advance(1)
    await following.until(lambda: len(plane.rejections) == 3)
    assert {} == following.follower._subscription.missing
    await following.until(lambda: following.standing.responses["rejected"] == 4)
    plane.send(A2, B2)
    following.clock.advance(1)
    await following.until(lambda: following.book.amounts() == {"a": [6], "b": [6]})
    await following.until(lambda: not plane.requests[-1].HasField("error_detail"))


@pytest.mark.parametrize("strict", [False, True])
async def test_repeated_rejections_are_delayed(plane: ControlPlane, follow: Follow, strict: bool) -> None:
    """The control plane sends it again at once, so the next rejections are delayed by 1, 2, 5 and then 10 s.

    A repeated set is not read again.
    """
    plane.send(A, BAD)
    following = await follow(strict=strict)
    await following.answered(2)
    for pause in (1, 2, 5, 10, 10):
        rejections = len(plane.rejections)
        following.clock.advance(pause - 0.1)
        await following.rest()
        assert rejections == len(plane.rejections)
        following.clock.advance(0.1)
        await following.until(lambda before=rejections: len(plane.rejections) == before + 1)  # type: ignore[misc]
        await following.rest()
    assert (1, 1, 7) == (
        len(following.book.wanted),
        len(set(plane.rejections)),
        following.standing.responses["rejected"],
    )


async def test_a_correction_comes_into_force_as_soon_as_it_can_be_sent(
    plane: ControlPlane, follow: Follow
) -> None:
    """Some control planes send the next set only after an answer, so it waits for the delayed rejection.
    Others send it at once.
    """
    plane.send(A, BAD)
    following = await follow()
    await following.answered(2)
    await following.rest()
    plane.version, plane.resources = (
        "2",
        [Resource(type_url=TYPE_URL, value=each.SerializeToString()) for each in (A, B)],
    )
    plane.answer(plane.peers[0])  # without waiting for an answer
    await following.until(lambda: plane.requests[-1].version_info == "2")
    assert {"a": [5], "b": [5]} == following.book.amounts()


async def test_a_domain_that_is_missing_for_a_moment_stays_limited(
    plane: ControlPlane, follow: Follow, logged: list[Any]
) -> None:
    """A control plane that has just started sends an incomplete set."""
    plane.send(A, B, C)
    following = await follow()
    await following.answered(2)
    await plane.stop()
    plane.version, plane.resources = "", []
    await plane.start()
    plane.send(A)
    await following.until(lambda: following.clock.slept[-1:] == [10])
    following.clock.advance(10)
    await following.until(lambda: following.standing.missing == ("b", "c"))
    following.clock.advance(5)
    plane.send(A, B, C)
    await following.until(lambda: following.standing.missing == ())
    following.clock.advance(60)
    await following.rest()
    assert {"a": [5], "b": [5], "c": [5]} == following.book.amounts()
    (line,) = [line for line in logged if "missing from the set" in line["event"]]
    assert ("warning", "b, c") == (line["log_level"], line["domains"])


async def test_a_domain_that_stays_missing_ends_after_its_grace_period(
    plane: ControlPlane, follow: Follow, logged: list[Any]
) -> None:
    """No other set is needed for that. The log names the domain."""
    plane.send(A, B)
    following = await follow()
    await following.answered(2)
    plane.send(A)
    await following.answered(3)
    following.clock.advance(9.9)
    await following.rest()
    assert {"a", "b"} == following.book.domains.keys()
    following.clock.advance(0.1)
    await following.until(lambda: following.book.domains.keys() == {"a"})
    assert [("the rules of missing domains have ended", "b")] == [
        (line["event"], line["domains"]) for line in logged if "have ended" in line["event"]
    ]
    assert ((), 2) == (following.standing.missing, following.standing.generation)


async def test_an_empty_set_ends_all_rules_after_their_grace_period(
    plane: ControlPlane, follow: Follow
) -> None:
    """The set may have a version or none."""
    plane.send(A, B)
    following = await follow()
    await following.answered(2)
    plane.send(version="")
    await following.answered(3)
    assert ("", "2") == versions(plane)[-1]
    assert {"a", "b"} == following.book.domains.keys()
    following.clock.advance(10)
    await following.until(lambda: not following.book.domains)


async def test_without_grace_a_missing_domain_ends_at_once(plane: ControlPlane, follow: Follow) -> None:
    """XDS_DOMAIN_GRACE=0 is the behaviour of envoyproxy/ratelimit."""
    plane.send(A, B)
    following = await follow(grace=0)
    await following.answered(2)
    plane.send(A)
    await following.until(lambda: following.book.domains.keys() == {"a"})


async def test_an_empty_first_set_makes_the_service_ready(plane: ControlPlane, follow: Follow) -> None:
    """The service is ready after it, although it has no rules."""
    plane.send(version="1")
    following = await follow()
    plane.on_request = lambda peer: False
    await following.until(lambda: plane.requests)
    plane.answer(plane.peers[0])
    await following.answered(2)
    assert (1, 1, 0) == (
        len(following.book.wanted),
        following.standing.generation,
        following.standing.domains,
    )


async def test_an_invalid_first_set_does_not_make_the_service_ready(
    plane: ControlPlane, follow: Follow
) -> None:
    """The service is not ready without rules, also after the set is sent again."""
    plane.send(BAD)
    following = await follow()
    await following.answered(2)
    following.clock.advance(1)
    await following.answered(3)
    assert (0, {}) == (following.standing.generation, following.book.domains)
    assert [frozenset({"b"})] == [change.domains for change in following.book.wanted]


async def test_a_set_is_read_again_after_a_temporary_error(plane: ControlPlane, follow: Follow) -> None:
    """Until then, the set is neither accepted nor rejected."""
    book = Book()
    book.again = True
    plane.send(A)
    following = await follow(book=book)
    await following.until(lambda: len(book.wanted) == 1)
    await following.rest()
    following.clock.advance(1)
    await following.until(lambda: len(book.wanted) == 2)
    await following.rest()
    book.again = False
    following.clock.advance(1.9)
    await following.rest()
    assert (2, 1) == (len(book.wanted), len(plane.requests))
    following.clock.advance(0.1)
    await following.answered(2)
    assert ({"a": [5]}, ("1", "1")) == (book.amounts(), versions(plane)[-1])


async def test_a_domain_that_another_source_has_is_rejected(plane: ControlPlane, follow: Follow) -> None:
    """Its rejections are paced like others, and end when the other source drops the domain."""
    book = Book()
    book.elsewhere["a"] = Problem("xds cp: a", 0, "domain", "'a' has its rules at xds other: a, which hold")
    plane.send(A, B)
    following = await follow(book=book)
    await following.answered(2)
    assert ["a: domain: 'a' has its rules at xds other: a, which hold"] == plane.rejections
    book.elsewhere.clear()
    following.clock.advance(1)
    await following.until(lambda: plane.requests[-1].version_info == "1")


# Overlays


async def overlay(following: Following, text: str) -> None:
    following.overlays, problems = by_domain([read("over.yaml", text)])
    assert [] == problems
    assert await following.follower.overlaid()


async def test_changed_overlays_apply_to_the_current_set(plane: ControlPlane, follow: Follow) -> None:
    """This needs no new set, and works while the control plane is unreachable."""
    plane.send(A, B)
    following = await follow()
    await following.answered(2)
    await overlay(following, "{domain: a, descriptors: [{key: team, rate_limit: {tokens_per_unit: 50}}]}")
    assert {"a": [50], "b": [5]} == following.book.amounts()
    await plane.stop()
    await following.until(lambda: not following.standing.connected)
    await overlay(following, "{domain: b, descriptors: [{key: team, rate_limit: {tokens_per_unit: 50}}]}")
    assert {"a": [5], "b": [50]} == following.book.amounts()


async def test_a_mistake_in_an_overlay_keeps_the_previous_rules_of_the_domain(
    plane: ControlPlane, follow: Follow
) -> None:
    """The rejection names the line of the overlay. After the repair, the same set is accepted."""
    plane.send(A, B)
    following = await follow()
    await following.answered(2)
    wrong = "{domain: a, descriptors: [{key: team, rate_limit: {tokens_per_unit: many}}]}"
    await overlay(following, wrong)
    assert {"a": [5], "b": [5]} == following.book.amounts()
    assert ["over.yaml:1: descriptors[0].rate_limit.tokens_per_unit"] == [
        problem.partition(": must be")[0] for problem in following.standing.rejected
    ]
    plane.send(A2, B)
    await following.until(lambda: plane.rejections)
    assert {"a": [5], "b": [5]} == following.book.amounts()
    await overlay(following, wrong.replace("many", "60"))
    await following.until(lambda: plane.requests[-1].version_info == "2")
    assert ({"a": [60], "b": [5]}, ()) == (following.book.amounts(), following.standing.rejected)


async def test_a_stop_closes_the_call(plane: ControlPlane, follow: Follow) -> None:
    """So the control plane need not detect a dead connection."""
    plane.send(A)
    following = await follow()
    await following.answered(2)
    await following.end()
    await until(lambda: not plane.peers)


async def test_rules_from_copied_messages_can_be_read_again(plane: ControlPlane, follow: Follow) -> None:
    """After many partial sets, the resources are in one file, which overlays need."""
    following = await follow(grace=1_000.0)
    for place in range(12):
        plane.send(resource(f"d{place}", limit("team", place)))
        await following.until(lambda number=place: following.standing.domains == number + 1)  # type: ignore[misc]
        await following.rest()
    held = following.follower._subscription.held.values()
    assert len({each.spool.fd for group in held for each in group.resources}) <= 8
    domains = [f"d{place}" for place in range(12)]
    following.overlays, _ = by_domain(
        [
            read(
                f"{name}.yaml", f"{{domain: {name}, descriptors: [{{key: team, rate_limit: {{unit: day}}}}]}}"
            )
            for name in domains
        ]
    )
    assert await following.follower.overlaid()
    assert {name: [place] for place, name in enumerate(domains)} == following.book.amounts()

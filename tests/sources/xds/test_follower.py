"""A control plane is followed, whatever it does: by real connections, and a clock that the tests set."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from ratelimit_service.core.errors import Problem
from ratelimit_service.proto.xds_pb2 import Resource
from ratelimit_service.sources.xds.overlays import by_domain
from ratelimit_service.sources.xds.received import TYPE_URL
from ratelimit_service.sources.yaml_text import read
from testing.control_plane import ControlPlane, Peer, limit, resource
from testing.waiting import PATIENCE
from tests.sources.xds.conftest import START, Follow, Following
from tests.sources.xds.sets import Book

A, B, C = (resource(name, limit("team", 5)) for name in "abc")
A2, B2 = (resource(name, limit("team", 6)) for name in "ab")
BAD = resource("b", limit("team", 6, 9))


def versions(plane: ControlPlane) -> list[tuple[str, str]]:
    return [(request.version_info, request.response_nonce) for request in plane.requests]


def events(logged: list[Any]) -> list[str]:
    return [line["event"] for line in logged]


async def test_a_set_is_taken_and_accepted(plane: ControlPlane, follow: Follow, logged: list[Any]) -> None:
    """With the node that was asked for, and the version and nonce of the response."""
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


async def test_a_change_is_taken_when_it_comes(plane: ControlPlane, follow: Follow) -> None:
    """Only the domain that has changed is read."""
    plane.send(A, B)
    following = await follow()
    await following.answered(2)
    plane.send(A2, B)
    await following.answered(3)
    assert {"a": [6], "b": [5]} == following.book.amounts()
    assert [{"a", "b"}, {"a"}] == [change.domains for change in following.book.wanted]
    assert ({"accepted": 2}, 2) == (following.standing.responses, following.standing.generation)


async def test_the_same_set_under_another_version_is_accepted_and_costs_nothing(
    plane: ControlPlane, follow: Follow
) -> None:
    """A control plane makes a new version for every change of what it translates from."""
    plane.send(A, B)
    following = await follow()
    await following.answered(2)
    for version in ("2", "3", "1"):
        plane.send(B, A, version=version)
        await following.until(lambda version=version: plane.requests[-1].version_info == version)  # type: ignore[misc]
    assert (1, 1) == (len(following.book.wanted), following.standing.generation)
    assert {"accepted": 1, "unchanged": 3} == following.standing.responses


async def test_one_bad_domain_holds_up_no_other(plane: ControlPlane, follow: Follow) -> None:
    """It keeps its last good rules; the rejection, /rlconfig and the metrics say what is wrong with it."""
    plane.send(A, B)
    following = await follow()
    await following.answered(2)
    plane.on_request = lambda peer: bool(plane.requests[-1].HasField("error_detail"))
    plane.send(A2, BAD, C)
    await following.answered(3)
    assert {"a": [6], "b": [5], "c": [5]} == following.book.amounts()
    problem = "b: descriptors[0].rate_limit.unit: unknown unit '9': use one of second, minute, hour, day, week, month, year"
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


async def test_every_bad_resource_is_named_in_one_rejection(plane: ControlPlane, follow: Follow) -> None:
    """What cannot even be parsed as well; and the good ones are taken."""
    damaged = Resource(type_url=TYPE_URL, value=b"\x0a\x01x\x12\x01y\x1a\x01\xff")
    foreign = Resource(type_url="type.googleapis.com/x.Y", value=A.SerializeToString())
    plane.on_request = lambda peer: bool(plane.requests[-1].HasField("error_detail"))
    plane.send(BAD, damaged, foreign, C)
    following = await follow()
    await following.answered(2)
    assert [
        f"a: is a type.googleapis.com/x.Y: only {TYPE_URL} was asked for",
        "b: descriptors[0].rate_limit.unit: unknown unit '9': use one of second, minute, hour, day, week, month, year",
        "x: is damaged: its bytes are no RateLimitConfig",
    ] == sorted(plane.rejections[0].split("\n"))
    assert {"c": [5]} == following.book.amounts()


async def test_in_strict_mode_nothing_is_taken_where_anything_is_wrong(
    plane: ControlPlane, follow: Follow
) -> None:
    """As envoyproxy/ratelimit does it; what is missing from such a set is not missing either."""
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
async def test_a_rejected_set_is_not_a_busy_loop(plane: ControlPlane, follow: Follow, strict: bool) -> None:
    """The control plane sends it again at once; the next rejections wait 1, 2, 5, and then 10 s.

    Nothing is read for them.
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


async def test_a_correction_is_taken_as_soon_as_it_can_be_sent(plane: ControlPlane, follow: Follow) -> None:
    """These control planes send it with the answer to the rejection that was held back; others at once."""
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


async def test_a_domain_that_is_missing_for_a_moment_never_stops_being_limited(
    plane: ControlPlane, follow: Follow, logged: list[Any]
) -> None:
    """A control plane that has just started sends what it knows so far."""
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


async def test_a_domain_that_stays_missing_ends_after_its_time_of_grace(
    plane: ControlPlane, follow: Follow, logged: list[Any]
) -> None:
    """By itself, without another set; by name in the log."""
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


async def test_an_empty_set_ends_all_rules_after_their_time_of_grace(
    plane: ControlPlane, follow: Follow
) -> None:
    """With a version and without."""
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
    """XDS_DOMAIN_GRACE=0 is envoyproxy/ratelimit's behaviour."""
    plane.send(A, B)
    following = await follow(grace=0)
    await following.answered(2)
    plane.send(A)
    await following.until(lambda: following.book.domains.keys() == {"a"})


async def test_an_empty_first_set_is_a_set(plane: ControlPlane, follow: Follow) -> None:
    """There are rules then, though none: the service is ready."""
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


async def test_an_invalid_first_set_counts_as_none(plane: ControlPlane, follow: Follow) -> None:
    """A service without rules must not say that it has some; also when it is sent again."""
    plane.send(BAD)
    following = await follow()
    await following.answered(2)
    following.clock.advance(1)
    await following.answered(3)
    assert (0, {}) == (following.standing.generation, following.book.domains)
    assert [frozenset({"b"})] == [change.domains for change in following.book.wanted]


async def test_the_rules_hold_while_the_control_plane_is_away(
    plane: ControlPlane, follow: Follow, logged: list[Any]
) -> None:
    """However long; with one line for each reason, and since when they may be old."""
    plane.send(A, B)
    following = await follow()
    await following.answered(2)
    following.clock.advance(100)
    await plane.stop()
    await following.until(lambda: not following.standing.connected)
    for pause in (1, 10, 20, 40, 60, 60):
        attempts = following.connects
        following.clock.advance(pause - 0.01)
        await following.rest()
        assert attempts == following.connects
        following.clock.advance(0.01)
        await following.until(lambda before=attempts: following.connects == before + 1)  # type: ignore[misc]
        await following.rest()
    assert {"a": [5], "b": [5]} == following.book.amounts()
    assert (START + 100, START + 100) == (following.standing.stale_since, following.standing.since)
    away = [line["why"] for line in logged if line["event"] == "the control plane is away"]
    assert 2 == len(away) == len(set(away))
    await plane.start()
    following.clock.advance(60)
    await following.until(lambda: following.standing.stale_since == 0 and following.standing.connected)
    assert 1 == len(following.book.wanted)


async def test_pauses_begin_anew_after_a_set(plane: ControlPlane, follow: Follow) -> None:
    """Upstream's never do."""
    await plane.stop()
    following = await follow()
    for pause in (10, 20):
        await following.until(lambda pause=pause: following.clock.slept[-1:] == [pause])  # type: ignore[misc]
        following.clock.advance(pause)
    await following.until(lambda: following.clock.slept[-1:] == [40])
    await plane.start()
    plane.send(A)
    following.clock.advance(40)
    await following.until(lambda: following.standing.generation)
    plane.peers[0].reset()
    await following.until(lambda: following.clock.slept[-1:] == [10])


async def test_a_call_that_ends_again_and_again_is_not_opened_all_the_time(
    plane: ControlPlane, follow: Follow, logged: list[Any]
) -> None:
    """Upstream spun in such a loop (RST_STREAM without an error): thousands of lines in a second."""

    def reset(peer: Peer) -> bool:
        plane.answer(peer)
        peer.reset()
        return True

    plane.send(A)
    plane.on_request = reset
    following = await follow()
    for connects in (1, 2, 3):
        await following.until(lambda number=connects: following.connects == number)  # type: ignore[misc]
        await following.until(lambda: following.clock.slept[-1:] == [10])
        await following.rest()
        assert connects == following.connects
        following.clock.advance(10)
    assert {"a": [5]} == following.book.amounts()


async def test_a_call_that_went_well_is_followed_by_another_soon(plane: ControlPlane, follow: Follow) -> None:
    """As when a control plane is rolled out: it says GOAWAY, and another replica takes over."""
    plane.send(A)
    following = await follow()
    await following.answered(2)
    following.clock.advance(31)
    plane.peers[0].goaway()
    await following.until(lambda: following.clock.slept[-1:] == [1])
    following.clock.advance(1)
    await following.until(lambda: following.connects == 2 and following.standing.connected)
    assert {"UNAVAILABLE": 1} == following.standing.ends


async def test_a_new_call_begins_without_what_the_old_one_knew(plane: ControlPlane, follow: Follow) -> None:
    """It has no nonce, and a version that no control plane has, so that each of them sends its set."""
    plane.send(A, version="7")
    following = await follow()
    await following.answered(2)
    plane.peers[0].cut()
    plane.resources = [Resource(type_url=TYPE_URL, value=A2.SerializeToString())]  # still version 7
    await following.until(lambda: following.clock.slept[-1:] == [10])
    following.clock.advance(10)
    await following.until(lambda: following.book.amounts() == {"a": [6]})
    version, nonce = versions(plane)[2]
    assert (True, "") == (version.startswith("held "), nonce)


async def test_a_set_that_is_too_large_is_reported_and_the_rules_stay_in_force(
    plane: ControlPlane, follow: Follow, logged: list[Any]
) -> None:
    """Upstream freezes on its old rules, and nobody sees why."""
    plane.send(A)
    following = await follow(largest=1_000)
    await following.answered(2)
    plane.send(A, resource("b", limit("x" * 1_000, 1)))
    await following.until(lambda: following.standing.ends)
    assert ({"RESOURCE_EXHAUSTED": 1}, {"a": [5]}) == (following.standing.ends, following.book.amounts())
    (line,) = [line for line in logged if line["event"] == "the control plane is away"]
    assert "raise XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES" in line["why"]


async def test_another_type_is_rejected_and_the_rules_hold(
    plane: ControlPlane, follow: Follow, logged: list[Any]
) -> None:
    """Paced like any other rejection, and logged once."""
    plane.send(A)
    following = await follow()
    await following.answered(2)
    plane.type_url = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    plane.send(B)
    await following.answered(3)
    following.clock.advance(1)
    await following.answered(4)
    assert ({"a": [5]}, 1) == (following.book.amounts(), len(set(plane.rejections)))
    assert 1 == len([line for line in logged if "of another type" in line["event"]])


async def test_bytes_that_are_no_response_end_the_call(plane: ControlPlane, follow: Follow) -> None:
    """There is no nonce to answer; the rules hold, and it is tried again."""
    plane.send(A)
    following = await follow()
    await following.answered(2)
    plane.peers[0].send(b"\x12\x7fabc")
    await following.until(lambda: following.standing.ends)
    assert ({"INTERNAL": 1}, {"a": [5]}) == (following.standing.ends, following.book.amounts())
    await following.until(lambda: following.clock.slept[-1:] == [10])


async def test_a_control_plane_that_says_nothing_is_worth_a_line(
    plane: ControlPlane, follow: Follow, logged: list[Any]
) -> None:
    """It never answers a node that it does not know: Envoy Gateway knows envoy-ratelimit alone."""
    plane.nodes = {"another"}
    plane.send(A)
    following = await follow()
    await following.until(lambda: plane.requests)
    following.clock.advance(15)
    await following.until(lambda: [line for line in logged if "sends nothing" in line["event"]])
    (line,) = [line for line in logged if "sends nothing" in line["event"]]
    assert "envoy-ratelimit" == line["node_id"]
    assert "has sent nothing since" in next(following.standing.lines())


async def test_what_could_not_be_read_for_a_reason_that_passes_is_read_again(
    plane: ControlPlane, follow: Follow
) -> None:
    """It is neither accepted nor rejected meanwhile."""
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
    """The rejection is paced like others, and ends when the other source drops the domain."""
    book = Book()
    book.elsewhere["a"] = Problem("xds cp: a", 0, "domain", "'a' has its rules at xds other: a, which hold")
    plane.send(A, B)
    following = await follow(book=book)
    await following.answered(2)
    assert ["a: domain: 'a' has its rules at xds other: a, which hold"] == plane.rejections
    book.elsewhere.clear()
    following.clock.advance(1)
    await following.until(lambda: plane.requests[-1].version_info == "1")


# The last good set in a file


async def test_a_start_without_the_control_plane_has_the_last_good_set(
    plane: ControlPlane, follow: Follow, tmp_path: Path, logged: list[Any]
) -> None:
    """It has the last good rules of bad domains. The status shows its age, and a new set is compared with it."""
    plane.send(A, B)
    first = await follow(cache=tmp_path)
    await first.answered(2)
    plane.send(A2, BAD)
    await first.answered(3)
    await first.until(lambda: first.follower._saved == first.follower._subscription.digest)
    await first.rest()
    await first.end()
    await plane.stop()
    second = await follow(cache=tmp_path)
    await second.until(lambda: second.clock.slept)
    assert {"a": [6], "b": [5]} == second.book.amounts()
    assert (START, START, 1) == (
        second.standing.stale_since,
        second.standing.accepted_at,
        second.standing.generation,
    )
    assert [2] == [line["domains"] for line in logged if "rules of a file" in line["event"]]
    plane.send(A2)
    await plane.start()
    second.clock.advance(10)
    await second.until(lambda: second.standing.missing == ("b",))
    assert (0.0, 1) == (second.standing.stale_since, len(second.book.wanted))


async def test_a_directory_that_cannot_be_written_costs_a_line_and_nothing_else(
    plane: ControlPlane, follow: Follow, tmp_path: Path, logged: list[Any]
) -> None:
    """Once for each set, not for each answer."""
    (tmp_path / "file").write_text("")
    plane.send(A)
    following = await follow(cache=tmp_path / "file" / "dir")
    await following.answered(2)
    plane.send(A, version="2")
    await following.answered(3)
    assert ({"a": [5]}, 1) == (
        following.book.amounts(),
        len([line for line in logged if "cannot be saved" in line["event"]]),
    )


# Overlays


async def overlay(following: Following, text: str) -> None:
    following.overlays, problems = by_domain([read("over.yaml", text)])
    assert [] == problems
    assert await following.follower.overlaid()


async def test_other_overlays_are_laid_over_what_is_there(plane: ControlPlane, follow: Follow) -> None:
    """Without the control plane sending anything, and while it is away."""
    plane.send(A, B)
    following = await follow()
    await following.answered(2)
    await overlay(following, "{domain: a, descriptors: [{key: team, rate_limit: {tokens_per_unit: 50}}]}")
    assert {"a": [50], "b": [5]} == following.book.amounts()
    await plane.stop()
    await following.until(lambda: not following.standing.connected)
    await overlay(following, "{domain: b, descriptors: [{key: team, rate_limit: {tokens_per_unit: 50}}]}")
    assert {"a": [5], "b": [50]} == following.book.amounts()


async def test_a_mistake_in_an_overlay_leaves_the_domain_as_it_was(
    plane: ControlPlane, follow: Follow
) -> None:
    """The line of the overlay is named; repaired, the set is accepted that was rejected for it."""
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
    """The control plane need not find out by itself."""
    plane.send(A)
    following = await follow()
    await following.answered(2)
    await following.end()
    async with asyncio.timeout(PATIENCE):
        while plane.peers:
            await asyncio.sleep(0.001)

"""A follower whose control plane is unreachable, ends its calls, or sends something unexpected."""

from __future__ import annotations

from pathlib import Path
from time import thread_time
from typing import Any

from ratelimit_service.core.errors import Problem
from ratelimit_service.ports import ChangeOutcome
from ratelimit_service.proto.xds_pb2 import Resource
from ratelimit_service.sources.xds.follower import by_domain
from ratelimit_service.sources.xds.reading import stored_resources
from ratelimit_service.sources.xds.response import TYPE_URL
from testing.control_plane import ControlPlane, Peer, limit, resource
from tests.sources.xds.conftest import START, Follow, Following
from tests.sources.xds.rule_sets import received

from .follower_state import A2, BAD, A, B, C, versions


async def test_rules_stay_in_force_while_the_control_plane_is_unreachable(
    plane: ControlPlane, follow: Follow, logged: list[Any]
) -> None:
    """They hold for any length of time. There is one log line for each reason, with the time since when the
    rules may be old.
    """
    plane.send(A, B)
    following = await follow()
    await following.answered(2)
    following.clock.advance(100)
    await plane.stop()
    await following.until(lambda: not following.standing.connected)
    pauses = [1, 10, 20, 40, 60, 60, 60]
    for number, pause in enumerate(pauses[:-1], 1):
        await following.until(lambda number=number: following.clock.slept[1:] == pauses[:number])  # type: ignore[misc]
        attempts = following.connects
        following.clock.advance(pause - 0.01)
        await following.rest()
        assert attempts == following.connects
        following.clock.advance(0.01)
        await following.until(lambda before=attempts: following.connects == before + 1)  # type: ignore[misc]
    await following.until(lambda: following.clock.slept[1:] == pauses)
    assert {"a": [5], "b": [5]} == following.book.amounts()
    assert (START + 100, START + 100) == (following.standing.stale_since, following.standing.since)
    away = [line["why"] for line in logged if line["event"] == "the control plane is away"]
    assert 2 == len(away) == len(set(away))
    await plane.start()
    following.clock.advance(60)
    await following.until(lambda: following.standing.stale_since == 0 and following.standing.connected)
    assert 1 == len(following.book.wanted)


async def test_pauses_start_again_after_a_set(plane: ControlPlane, follow: Follow) -> None:
    """Upstream never resets its pauses."""
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


async def test_a_call_that_keeps_ending_is_reopened_with_pauses(
    plane: ControlPlane, follow: Follow, logged: list[Any]
) -> None:
    """Upstream retried without a pause after RST_STREAM with NO_ERROR, and logged thousands of lines a
    second.
    """

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


async def test_a_successful_call_is_soon_followed_by_another(plane: ControlPlane, follow: Follow) -> None:
    """During a rollout, a control plane sends GOAWAY, and another replica continues."""
    plane.send(A)
    following = await follow()
    await following.answered(2)
    following.clock.advance(31)
    plane.peers[0].goaway()
    await following.until(lambda: following.clock.slept[-1:] == [1])
    following.clock.advance(1)
    await following.until(lambda: following.connects == 2 and following.standing.connected)
    assert {"UNAVAILABLE": 1} == following.standing.ends


async def test_a_new_call_starts_without_the_state_of_the_old_one(
    plane: ControlPlane, follow: Follow
) -> None:
    """It sends no nonce, and a version that no control plane uses, so that each of them sends its set."""
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
    """Upstream keeps its old rules without an error."""
    plane.send(A)
    following = await follow(largest=1_000)
    await following.answered(2)
    plane.send(A, resource("b", limit("x" * 1_000, 1)))
    await following.until(lambda: following.standing.ends)
    assert ({"RESOURCE_EXHAUSTED": 1}, {"a": [5]}) == (following.standing.ends, following.book.amounts())
    (line,) = [line for line in logged if line["event"] == "the control plane is away"]
    assert "raise XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES" in line["why"]


async def test_resources_of_another_type_are_rejected_and_the_rules_stay(
    plane: ControlPlane, follow: Follow, logged: list[Any]
) -> None:
    """The rejection is paced like any other, and logged once."""
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


async def test_an_invalid_response_ends_the_call(plane: ControlPlane, follow: Follow) -> None:
    """There is no nonce to answer. The rules hold, and the follower connects again."""
    plane.send(A)
    following = await follow()
    await following.answered(2)
    plane.peers[0].send(b"\x12\x7fabc")
    await following.until(lambda: following.standing.ends)
    assert ({"INTERNAL": 1}, {"a": [5]}) == (following.standing.ends, following.book.amounts())
    await following.until(lambda: following.clock.slept[-1:] == [10])


async def test_a_silent_control_plane_is_logged(
    plane: ControlPlane, follow: Follow, logged: list[Any]
) -> None:
    """A control plane does not answer an unknown node: Envoy Gateway only knows envoy-ratelimit."""
    plane.nodes = {"another"}
    plane.send(A)
    following = await follow()
    await following.until(lambda: plane.requests)
    following.clock.advance(15)
    await following.until(lambda: [line for line in logged if "sends nothing" in line["event"]])
    (line,) = [line for line in logged if "sends nothing" in line["event"]]
    assert "envoy-ratelimit" == line["node_id"]
    assert "has sent nothing since" in next(following.standing.lines())


# The last good set in a file


async def test_a_start_without_the_control_plane_uses_the_last_good_set(
    plane: ControlPlane, follow: Follow, tmp_path: Path, logged: list[Any]
) -> None:
    """The cached set includes the last good rules of bad domains.

    The status shows its age, and a new set is compared with it.
    """
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


async def test_an_unwritable_directory_only_causes_a_log_line(
    plane: ControlPlane, follow: Follow, tmp_path: Path, logged: list[Any]
) -> None:
    """There is one line for each set, not for each answer."""
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


# Misbehaving control planes


async def test_sets_that_differ_each_time_are_read_once_a_second(plane: ControlPlane, follow: Follow) -> None:
    """A control plane may put a time into its resources, and send a rejected set again at once. Twenty sets
    are read without a pause, because a control plane that starts may send one for each of its sources.
    """

    def send_another(peer: Peer) -> bool:
        number = len(plane.requests)
        other = resource("a", limit("team", number, 9))
        plane.version = str(number)
        plane.resources = [Resource(type_url=TYPE_URL, value=other.SerializeToString())]
        return False

    plane.on_request = send_another
    plane.send(A)
    following = await follow()
    for sets in (20, 21, 22):
        await following.until(lambda number=sets: following.standing.responses["rejected"] == number)  # type: ignore[misc]
        await following.until(lambda number=sets: len(plane.requests) == number + 1)  # type: ignore[misc]
        await following.rest()
        following.clock.advance(0.99)
        await following.rest()
        assert sets == following.standing.responses["rejected"]
        following.clock.advance(0.01)
    await following.until(lambda: following.standing.responses["rejected"] == 23)


async def test_two_control_planes_in_turn_remove_no_domain(plane: ControlPlane, follow: Follow) -> None:
    """A name may lead to two of them with different sets, and each call to the other one."""
    plane.send(A, B)
    following = await follow(grace=60.0)
    await following.answered(2)
    for configs, missing in [((A2, C), "b"), ((A, B), "c"), ((A2, C), "b")]:
        plane.resources = [Resource(type_url=TYPE_URL, value=each.SerializeToString()) for each in configs]
        plane.peers[0].cut()
        await following.until(lambda: following.clock.slept[-1:] == [10])
        following.clock.advance(10)
        await following.until(lambda name=missing: following.standing.missing == (name,))  # type: ignore[misc]
    assert {"a": [6], "b": [5], "c": [5]} == following.book.amounts()


def test_thousands_of_domains_can_be_missing() -> None:
    """The time grows with their number, not with its square, which would be a quarter of a minute here."""
    following = Following(ControlPlane())
    everything = received(*(resource(f"d{place}") for place in range(30_000)))
    subscription = following.follower._subscription
    subscription.take(list(everything.groups.values()), frozenset(everything.groups), {})
    began = thread_time()
    following.follower._miss(received(A), 0.0)
    assert 30_000 == len(subscription.missing)
    assert thread_time() - began < 5


def test_thousands_of_problems_can_be_in_one_domain() -> None:
    """The time grows with their number, not with its square."""
    problems = tuple(
        [Problem("xds cp: a", 0, f"descriptors[{place}]", "is wrong") for place in range(200_000)]
    )
    stored = stored_resources("cp", list(received(A).groups.values()))
    began = thread_time()
    found = by_domain(ChangeOutcome(problems=problems), stored, {})
    assert {"a": problems} == found
    assert thread_time() - began < 5

"""The order of waiting input: fair between networks, then between calls and other input, then between
connections.
"""

from __future__ import annotations

from typing import Any

import pytest

from ratelimit_service.listening.networks import network_of
from ratelimit_service.transports.native import queues
from ratelimit_service.transports.native.queues import Queue


class Waiting:
    """The fields of a connection that the queue reads."""

    def __init__(self, network: str, calls: bool) -> None:
        self.network, self.calls, self.group, self.used = network, calls, None, 0


def connection(network: str, *, calls: bool = True) -> Any:
    """Return a connection of a network."""
    return Waiting(network, calls)


def served(queue: Queue, times: int, work: int = 1, again: bool = True) -> list[Any]:
    """Return the connections that are served next. Each does this much work, and waits again at once."""
    order = []
    for _ in range(times):
        group, each = queue.serve()
        order.append(each)
        queue.served(group, each, work)
        if again:
            queue.push(each)
    return order


def test_networks_take_turns_however_many_connections_they_have() -> None:
    """A network with a single connection has half of the turns."""
    queue = Queue()
    many, one = [connection("a") for _ in range(100)], connection("b")
    for each in (*many, one):
        queue.push(each)
    assert 50 == served(queue, 100).count(one)


def test_calls_and_anything_else_of_a_network_take_turns() -> None:
    """So a caller does not wait for a thousand connections of its address that send other bytes."""
    queue = Queue()
    for each in [connection("a", calls=False) for _ in range(100)]:
        queue.push(each)
    caller = connection("a")
    queue.push(caller)
    assert caller in served(queue, 2)


def test_connections_of_a_group_are_served_by_the_work_they_have_caused() -> None:
    """A connection whose input is ten times the work is served a tenth as often."""
    queue = Queue()
    heavy, light = connection("a"), connection("a")
    queue.push(heavy)
    queue.push(light)
    order = []
    for _ in range(110):
        group, each = queue.serve()
        order.append(each)
        queue.served(group, each, 19 if each is heavy else 1)
        queue.push(each)
    assert 10 == pytest.approx(order.count(heavy), abs=1)


def test_a_network_that_comes_later_has_no_claim_to_the_past() -> None:
    """It gets its share from now on, and does not catch up on a thousand turns."""
    queue = Queue()
    old = connection("a")
    queue.push(old)
    queue.push(connection("c"))
    served(queue, 1_000)
    new = connection("b")
    queue.push(new)
    assert 10 >= served(queue, 30).count(new) >= 9


def test_arrears_end_when_no_connection_waits() -> None:
    """Work that delayed no other network does not count against its own."""
    queue = Queue()
    busy = connection("a")
    for _ in range(100):
        queue.push(busy)
        served(queue, 1, work=50, again=False)
    assert not queue
    other = connection("b")
    queue.push(busy)
    queue.push(other)
    assert {id(busy), id(other)} == {id(each) for each in served(queue, 2)}


def test_new_networks_without_end_neither_add_up_nor_hold_up_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attacker may use a new network for each connection."""
    monkeypatch.setattr(queues, "_WORTH_PRUNING", 10)
    queue = Queue()
    queue._prune_at = 10
    stays = connection("stays")
    queue.push(stays)
    turns_of_stays = 0
    for number in range(1_000):
        queue.push(connection(f"n{number}"))
        (each,) = served(queue, 1, again=False)
        if each is stays:
            turns_of_stays += 1
            queue.push(stays)
        assert len(queue._groups) <= 8 * len(queue) + 40
    assert turns_of_stays >= 10


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        (("192.0.2.7", 1), "192.0.2.7"),
        (("::ffff:192.0.2.7", 1, 0, 0), "192.0.2.7"),
        (("2001:db8:1:2:3:4:5:6", 1, 0, 0), "2001:db8:1:2::"),
        (("2001:db8:1:2::9", 1, 0, 0), "2001:db8:1:2::"),
        (("2001:db8:1:3::9", 1, 0, 0), "2001:db8:1:3::"),
        (("fe80::1%eth0", 1, 0, 2), "fe80::"),
        ("", ""),
        (None, ""),
    ],
)
def test_a_network_is_the_part_of_an_address_that_a_host_cannot_choose(peer: object, network: str) -> None:
    """It is an IPv4 address, the /64 of an IPv6 address, or all of a Unix socket."""
    assert network == network_of(peer)

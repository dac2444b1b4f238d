"""The check that all keys are on one server, behind many kinds of transparent proxies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any
from zlib import crc32

import pytest
from redis.exceptions import ClusterCrossSlotError, InvalidResponse, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from ratelimit_service.stores.redis.key_spread import Spread, find_out
from ratelimit_service.stores.redis.slots import slot_of, tag_of
from ratelimit_service.stores.redis.wire import Command


def fnv1a(key: str) -> int:
    """FNV-1a with 64 bits, the default of twemproxy: the last characters change only the low bits."""
    value = 0xCBF29CE484222325
    for byte in key.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


HASHES: dict[str, Callable[[str], int]] = {
    "FNV-1a, by ranges": lambda key: fnv1a(key) >> 63,
    "CRC-32, by remainder": lambda key: crc32(key.encode()) % 2,
    "CRC-32, by ranges": lambda key: crc32(key.encode()) >> 31,
    "hash tags": lambda key: crc32(tag_of(key).encode()) % 2,
    "a fifth of the keys": lambda key: fnv1a(key) >> 32 < 2**32 // 5,
}


class Servers:
    """Several servers, as hit.lua uses them: a call goes to the server of its first key, by `server_of`."""

    def __init__(self, server_of: Callable[[str], int]) -> None:
        self._server_of = server_of
        self._held: Counter[tuple[int, str]] = Counter()
        self.failures: dict[int, Exception] = {}
        self.asked = 0

    async def ask(self, command: Command) -> Any:
        self.asked += 1
        arguments = command[2:]
        number = int(arguments[0])
        *keys, _ = map(str, arguments[1 : number + 1])
        server = self._server_of(keys[0])
        if server in self.failures:
            raise self.failures[server]
        rest = iter(arguments[number + 3 :])
        found = [self._held[server, key] for key in keys]
        for key in keys:
            amount = int(next(rest))
            if amount:
                next(rest)  # the time to live
            self._held[server, key] += amount
        return found


@pytest.mark.parametrize("name", HASHES)
async def test_several_servers_are_detected_for_any_hash_function(name: str) -> None:
    """In every attempt: the probed keys are random, and miss the smallest server of these once in a
    million.
    """
    assert {Spread.TAGS} == {await find_out(Servers(HASHES[name]).ask, "rl:") for _ in range(20)}


async def test_one_server_is_recognized() -> None:
    """The check makes 65 calls."""
    servers = Servers(lambda key: 0)
    assert (Spread.ONE, 65) == (await find_out(servers.ask, ""), servers.asked)


async def test_a_prefix_with_a_hash_tag_is_on_one_server_if_tags_are_hashed() -> None:
    """If the proxy hashes tags, it has all keys; if the proxy hashes whole keys, it does not."""
    assert Spread.ONE is await find_out(Servers(HASHES["hash tags"]).ask, "{rl}:")
    assert Spread.TAGS is await find_out(Servers(HASHES["FNV-1a, by ranges"]).ask, "{rl}:")


async def test_an_error_for_one_of_several_servers_reveals_the_proxy() -> None:
    """The proxy sends an error for the missing server; a broken connection reveals nothing."""
    servers = Servers(HASHES["CRC-32, by ranges"])
    for failure, found in ((ResponseError("upstream failure"), Spread.TAGS), (RedisConnectionError(), None)):
        for away in (0, 1):
            servers.failures = {away: failure}
            try:
                assert found is await find_out(servers.ask, "")
            except ResponseError:
                pass  # the reply for the marker
            except RedisConnectionError:
                assert found is None
    servers.failures = dict.fromkeys((0, 1), ResponseError("upstream failure"))
    with pytest.raises(ResponseError):
        await find_out(servers.ask, "")


async def test_a_cluster_refuses_keys_of_several_slots() -> None:
    """So the check is not needed."""

    async def ask(command: Command) -> Any:
        arguments = command[2:]
        keys = map(str, arguments[1 : int(arguments[0]) + 1])
        if len(set(map(slot_of, keys))) > 1:
            raise ClusterCrossSlotError("Keys in request don't hash to the same slot")
        return [0]

    assert Spread.SLOTS is await find_out(ask, "")


async def test_an_invalid_reply_of_the_script_is_an_error() -> None:
    """A proxy may have sent it."""
    replies = iter([[0], *[[0, 1, 2]] * 64])

    async def ask(command: Command) -> Any:
        return next(replies)

    with pytest.raises(InvalidResponse):
        await find_out(ask, "")

"""Events in Redis: a bounded stream, with a consumer group for each receiver, in one slot.

{events}:stream         the events, in the field `event`
{events}:seen:<id>      a mark that this one was emitted, until its window has ended
{events}:receivers      for each receiver, the second in which a replica last used it or nothing waited for
                        it; once it is forgotten, the id of the last event that it got
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import RedisError

from ...core.errors import StoreError
from ...ports import DroppedEvent, EmitResult, PendingEvent
from ..events import FORGOTTEN_AFTER, MOST_EVENTS, TAKEN_AGAIN
from .background_scripts import Evaluation, Run, Script, decoded, script

_FIELDS = b"""
local function fields(list)
    local found = {}
    for at = 1, #list, 2 do found[list[at]] = list[at + 1] end
    return found
end
"""
"""Makes a table of a list of names and values, as XINFO replies. An error has no fields."""

# Returns whether the event is new, then the name of a group and the text of an event for each event that XADD
# drops before the group has read it. An ACL may forbid these reads: then the event is stored all the same.
EMIT = script(
    _FIELDS
    + b"""
local stream, most = KEYS[1], tonumber(ARGV[3])
if not redis.call('SET', KEYS[2], 1, 'NX', 'EX', ARGV[2]) then return {0} end
local found = {1}
local length = fields(redis.pcall('XINFO', 'STREAM', stream))['length'] or 0
local excess = length + 1 - most
if excess > 0 then
    local oldest = {}
    for _, entry in ipairs(redis.pcall('XRANGE', stream, '-', '+', 'COUNT', excess)) do
        oldest[entry[1]] = true
    end
    for _, group in ipairs(redis.pcall('XINFO', 'GROUPS', stream)) do
        local own = fields(group)
        local unread = '(' .. own['last-delivered-id']
        for _, entry in ipairs(redis.pcall('XRANGE', stream, unread, '+', 'COUNT', excess)) do
            if oldest[entry[1]] then
                found[#found + 1] = own['name']
                found[#found + 1] = entry[2][2]
            end
        end
    end
end
redis.call('XADD', stream, 'MAXLEN', most, '*', 'event', ARGV[1])
return found
"""
)

OPEN = script(b"""
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '$', 'MKSTREAM')
if made.err and not string.find(made.err, 'BUSYGROUP') then return made end
""")

# OPEN has created the group. If it is missing, Redis has lost its data, and the stream has only later events;
# or FORGET_UNUSED has deleted it while this replica could not reach Redis, and noted its place. An ACL may
# forbid the notes: then there are none.
TAKE = script(b"""
local stream, notes, group, consumer = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local made = redis.pcall('XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM')
if made.err then
    if not string.find(made.err, 'BUSYGROUP') then return made end
else
    local note = redis.pcall('HGET', notes, group)
    if type(note) == 'string' and string.find(note, '-', 1, true) then
        redis.call('XGROUP', 'SETID', stream, group, note)
        redis.call('HDEL', notes, group)
    end
end
local found = {}
local claimed = redis.call('XAUTOCLAIM', stream, group, consumer, ARGV[4], '0-0', 'COUNT', ARGV[3])
for _, entry in ipairs(claimed[2]) do
    if entry and entry[2] then
        found[#found + 1] = entry[1]
        found[#found + 1] = entry[2][2]
    end
end
if #found == 0 then
    local new = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', ARGV[3], 'STREAMS', stream, '>')
    if new then
        for _, entry in ipairs(new[1][2]) do
            found[#found + 1] = entry[1]
            found[#found + 1] = entry[2][2]
        end
    end
end
return found
""")

HOLD = script(b"return redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'JUSTID')")

DONE = script(b"return redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])")

WAITING = script(
    _FIELDS
    + b"""
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local own = fields(group)
    if own['name'] == ARGV[1] then
        local after = #redis.call('XRANGE', KEYS[1], '(' .. own['last-delivered-id'], '+', 'COUNT', ARGV[2])
        return own['pending'] + after
    end
end
return 0
"""
)

# A group without a note is of a version without notes, or new: its time begins now. Replicas of such a
# version may read a group, and would create it again at the oldest event. Before Redis 7.2, the idle time of
# their consumers shows only when they last got something. But nothing waits for a receiver that is read, so a
# week counts from the last time at which nothing waited. A replica has another name after a restart, so
# consumers without events are deleted after a day.
FORGET_UNUSED = script(
    _FIELDS
    + b"""
local stream, notes, after, lately = KEYS[1], KEYS[2], tonumber(ARGV[1]), tonumber(ARGV[2])
local now, in_use = tonumber(redis.call('TIME')[1]), {}
for at = 3, #ARGV do
    in_use[ARGV[at]] = true
    if not string.find(redis.call('HGET', notes, ARGV[at]) or '', '-', 1, true) then  -- TAKE needs the place
        redis.call('HSET', notes, ARGV[at], now)
    end
end
local groups, gone = {}, {}
if redis.call('EXISTS', stream) == 1 then
    for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
        local own = fields(group)
        local name, place = own['name'], own['last-delivered-id']
        groups[name] = true
        local used = tonumber(redis.call('HGET', notes, name) or '')
        local waits = own['pending'] > 0 or #redis.call('XRANGE', stream, '(' .. place, '+', 'COUNT', 1) > 0
        if not used or not waits then
            redis.call('HSET', notes, name, now)
            used = now
        end
        for _, each in ipairs(redis.call('XINFO', 'CONSUMERS', stream, name)) do
            local consumer = fields(each)
            if consumer['idle'] < after * 1000 then used = now end
            if consumer['pending'] == 0 and consumer['idle'] > lately then
                redis.call('XGROUP', 'DELCONSUMER', stream, name, consumer['name'])
            end
        end
        if not in_use[name] and now - used > after then
            redis.call('XGROUP', 'DESTROY', stream, name)
            redis.call('HSET', notes, name, place)
            groups[name] = nil
            gone[#gone + 1] = name
        end
    end
end
local noted = redis.call('HGETALL', notes)
for at = 1, #noted, 2 do
    local name, note = noted[at], noted[at + 1]
    if not groups[name] then
        local needed
        if string.find(note, '^%d+%-%d+$') then
            -- Otherwise it is older than all events.
            needed = #redis.call('XRANGE', stream, '-', note, 'COUNT', 1) > 0
        else
            needed = now - (tonumber(note) or 0) <= after
        end
        if not needed then redis.call('HDEL', notes, name) end
    end
end
return gone
"""
)

IDLE = 86_400
"""Seconds after which a consumer without events is deleted."""


class RedisEvents:
    """An EventStore (ports.py) in a Redis that `run` reaches."""

    def __init__(self, run: Run, on_error: Callable[[Exception], StoreError], prefix: str = "") -> None:
        self._run = run
        self._on_error = on_error
        self._stream = f"{prefix}{{events}}:stream"
        self._seen = f"{prefix}{{events}}:seen:"
        self._receivers = f"{prefix}{{events}}:receivers"

    async def emit(self, event_id: str, text: str, kept: int) -> EmitResult:
        """Keep an event (ports.EventStore.emit)."""
        new, *dropped = await self._call(EMIT, (text, kept, MOST_EVENTS), f"{self._seen}{event_id}")
        pairs = zip(dropped[::2], dropped[1::2], strict=True)
        return EmitResult(bool(new), [DroppedEvent(decoded(name), decoded(old)) for name, old in pairs])

    async def open(self, receiver: str) -> None:
        """Begin to keep events for a receiver (ports.EventStore.open)."""
        await self._call(OPEN, (receiver,))

    async def take(self, receiver: str, replica: str, most: int) -> Sequence[PendingEvent]:
        """Return what a receiver is to get (ports.EventStore.take)."""
        found = await self._call(TAKE, (receiver, replica, most, TAKEN_AGAIN * 1_000), self._receivers)
        return [
            PendingEvent(place.decode(), decoded(text))
            for place, text in zip(found[::2], found[1::2], strict=True)
        ]

    async def hold(self, receiver: str, replica: str, place: str) -> None:
        """Keep a taken event (ports.EventStore.hold)."""
        await self._call(HOLD, (receiver, replica, place))

    async def done(self, receiver: str, place: str) -> None:
        """Note that a receiver has got an event (ports.EventStore.done)."""
        await self._call(DONE, (receiver, place))

    async def forget_unused(self, receivers: Sequence[str]) -> Sequence[str]:
        """Note the receivers in use, and forget old ones (ports.EventStore.forget_unused)."""
        arguments: list[str | int] = [FORGOTTEN_AFTER, IDLE * 1_000, *receivers]
        gone = await self._call(FORGET_UNUSED, arguments, self._receivers)
        return [decoded(name) for name in gone]

    async def waiting(self, receiver: str) -> int:
        """Return how many events wait (ports.EventStore.waiting)."""
        return int(await self._call(WAITING, (receiver, MOST_EVENTS)))

    async def _call(self, what: Script, arguments: Sequence[str | int], *more: str) -> Any:
        try:
            return await self._run(Evaluation(what, (self._stream, *more), arguments))
        except (RedisError, OSError) as error:
            raise self._on_error(error) from None

"""Sends events to their receivers, at least once, with the same id each time.

    EventStore ──take──▶ Delivery ──POST──▶ receiver
                    ◀──done──

Each receiver has its own task, so that a receiver that hangs delays neither other receivers nor callers.
Other replicas take over the events of a replica that has ended (ports.EventStore.take).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import random
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog

from ..core.errors import StoreError
from ..ports import Clock, EventStore, PendingEvent
from .receivers import Receiver, secret_of

if TYPE_CHECKING:
    import httpx

TIMEOUT = 10.0
"""Seconds for one delivery, from the connection to the status."""

LONGEST = 86_400
"""Seconds for which the delivery of an event is retried."""

_FIRST_PAUSE, _LAST_PAUSE = 1.0, 30.0
"""Seconds between two attempts, at first and at most, each shortened at random by up to half. The last one is
shorter than the time after which another replica takes an event over."""

_AT_ONCE = 20
"""Events that are taken from the store at once."""

_EVERY = 1.0
"""Seconds between two checks of the store."""

_LOG = 60.0
"""Seconds between two lines of the log about one receiver."""

Sleep = Callable[[float], Awaitable[None]]


def signed(secret: bytes, event_id: str, at: int, body: bytes) -> dict[str, str]:
    """Return the headers of Standard Webhooks."""
    content = f"{event_id}.{at}.".encode() + body
    signature = base64.b64encode(hmac.digest(secret, content, hashlib.sha256)).decode()
    return {"webhook-id": event_id, "webhook-timestamp": f"{at}", "webhook-signature": f"v1,{signature}"}


async def open_for(receiver: str, store: EventStore, pause: float, sleep: Sleep = asyncio.sleep) -> None:
    """Make the store keep events for the receiver of this name. Retries after `pause` seconds while the store
    is unreachable.
    """
    while True:
        try:
            return await store.open(receiver)
        except StoreError:
            await sleep(pause)


class Delivery:
    """Delivers the events in `store` to one receiver. `replica` returns the name of this process."""

    def __init__(
        self,
        receiver: Receiver,
        store: EventStore,
        clock: Clock,
        replica: Callable[[], str],
        verify: ssl.SSLContext | None = None,
        sleep: Sleep = asyncio.sleep,
        random_share: Callable[[], float] = random.random,
    ) -> None:
        self.receiver = receiver
        self._store = store
        self._clock = clock
        self._replica = replica
        self._verify = verify
        self._sleep = sleep
        self._random_share = random_share
        self._log = structlog.get_logger("ratelimit_service.events")
        self._secret: tuple[str, bytes] | None = None
        """The last usable secret, with its file."""
        self._secret_problem = ""
        self._logged_at = self._overflow_logged_at = float("-inf")
        self._unlogged = 0
        self.delivered = self.failures = self.dropped = self.overflowed = 0
        """Events that were delivered, attempts that failed, events that were dropped, and events that the
        store dropped.
        """

    async def run(self) -> None:
        """Deliver until cancelled."""
        if self.receiver.secret_file:
            with suppress(OSError, ValueError):  # the first delivery reports it
                await self._read_secret(self.receiver)
        # `take` alone would begin with the oldest stored event.
        await open_for(self.receiver.name, self._store, _EVERY, self._sleep)
        async with await asyncio.to_thread(self._client) as client:
            while True:
                try:
                    taken = await self._store.take(self.receiver.name, self._replica(), _AT_ONCE)
                    for each in taken:
                        await self._deliver(client, each)
                except StoreError:  # the health check of the store logs it
                    taken = ()
                if not taken:
                    await self._sleep(_EVERY)

    def overflow(self, text: str) -> None:
        """Count an event that the store dropped undelivered, if the receiver wants it, and log it."""
        event = _parsed(text)
        if event is None or not self.receiver.wants(event):
            return
        self.overflowed += 1
        self._unlogged += 1
        now = self._clock()
        if now - self._overflow_logged_at >= _LOG:
            said = "events are dropped: too many wait for their receiver"
            self._log.warning(said, receiver=self.receiver.name, events=self._unlogged)
            self._overflow_logged_at, self._unlogged = now, 0

    def _client(self) -> httpx.AsyncClient:
        """Return a client. Takes some 200 ms of CPU with the first import: call it in a thread."""
        # It imports a hundred modules, which only a service with receivers needs.
        from .posting import make_client

        return make_client(TIMEOUT, self._verify)

    async def _deliver(self, client: httpx.AsyncClient, taken: PendingEvent) -> None:
        event = _parsed(taken.text)
        if event is None:
            self.dropped += 1
        elif self.receiver.wants(event):
            await self._send(client, taken, event)
        await self._store.done(self.receiver.name, taken.place)

    async def _send(self, client: httpx.AsyncClient, taken: PendingEvent, event: Mapping[str, Any]) -> None:
        began, pause = self._clock(), _FIRST_PAUSE
        while True:
            receiver = (
                self.receiver
            )  # for the whole attempt: a new one has another address, template and secret
            try:
                body = receiver.body(event)
            except Exception as error:  # one event must not delay all others
                problem, final = f"its body cannot be made: {type(error).__name__}: {error}", True
            else:
                problem, final = await self._post(client, receiver, str(event["id"]), body)
            if not problem:
                self.delivered += 1
                return
            self.failures += 1
            gives_up = (final and receiver == self.receiver) or self._clock() - began > LONGEST
            self._say(problem, gives_up, event)
            if gives_up:
                self.dropped += 1
                return
            await self._sleep(pause * (1 - self._random_share() / 2))
            pause = min(2 * pause, _LAST_PAUSE)
            await self._store.hold(self.receiver.name, self._replica(), taken.place)

    async def _post(
        self, client: httpx.AsyncClient, receiver: Receiver, event_id: str, body: bytes
    ) -> tuple[str, bool]:
        """Send an event once. Return the error (empty for none), and whether a retry is pointless."""
        from .posting import ERRORS, post

        kind = "application/json" if receiver.template is not None else "application/cloudevents+json"
        headers = {"content-type": kind, "user-agent": "ratelimit-service"}
        try:
            if receiver.secret_file:
                headers |= signed(await self._read_secret(receiver), event_id, int(self._clock()), body)
            async with asyncio.timeout(TIMEOUT):
                status = await post(client, receiver.url, body, headers)
        except ERRORS as error:
            return str(error) or type(error).__name__, False
        if 200 <= status < 300:
            return "", False
        return f"status {status}", 400 <= status < 500 and status not in (408, 425, 429)

    async def _read_secret(self, receiver: Receiver) -> bytes:
        """Return the secret of the receiver: the content of its file, or its last usable content.

        Raises OSError or ValueError if there has been none.
        """
        file = receiver.secret_file
        try:
            self._secret, problem = (file, await asyncio.to_thread(secret_of, file)), ""
        except (OSError, ValueError) as error:
            if self._secret is None or self._secret[0] != file:
                raise
            problem = str(error)
        if problem and problem != self._secret_problem:
            said = "a secret cannot be used: the previous secret stays in use"
            self._log.error(said, receiver=receiver.name, file=file, error=problem)
        self._secret_problem = problem
        return self._secret[1]

    def _say(self, problem: str, gives_up: bool, event: Mapping[str, Any]) -> None:
        now = self._clock()
        if now - self._logged_at < _LOG and not gives_up:
            return
        self._logged_at = now
        said = "an event is dropped" if gives_up else "an event cannot be delivered, and is tried again"
        self._log.warning(
            said, receiver=self.receiver.name, error=problem[:300], id=event["id"], type=event["type"]
        )


def _parsed(text: str) -> Mapping[str, Any] | None:
    try:
        event = json.loads(text)
    except ValueError:
        return None
    return event if isinstance(event, dict) and {"id", "type"} <= event.keys() else None

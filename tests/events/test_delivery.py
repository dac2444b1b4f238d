"""Deliveries to receivers that work, fail, hang, send invalid answers, or require a signature."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from ratelimit_service.events import delivery as module
from ratelimit_service.events.delivery import Delivery
from ratelimit_service.events.model import THRESHOLD, Event
from ratelimit_service.events.receivers import Receiver, secret_of
from ratelimit_service.stores.events import MemoryEvents
from testing.waiting import until

from .receiver import Webhook

NOW = 1_000.0
SECRET = base64.b64encode(bytes(range(32))).decode()


def event(number: int = 1, domain: str = "llm") -> Event:
    data = {"domain": domain, "bucket": "llm|team=dba", "share": 0.8}
    return Event(f"id-{number}", THRESHOLD, domain, "llm|team=dba", NOW, data)


class Clock:
    """A clock that each pause advances."""

    def __init__(self) -> None:
        self.now = NOW
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds
        await asyncio.sleep(0.001)


@asynccontextmanager
async def delivering(receiver: Receiver, store: MemoryEvents, clock: Clock) -> AsyncIterator[Delivery]:
    await store.open(receiver.name)
    made = Delivery(receiver, store, clock, lambda: "a", sleep=clock.sleep, random_share=lambda: 0.0)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def emit(store: MemoryEvents, *events: Event) -> None:
    for each in events:
        await store.emit(each.id, each.text, each.kept)


async def test_a_cloud_event_arrives_signed(tmp_path: Path) -> None:
    """As in Standard Webhooks, the signature covers the id, the time and the body."""
    (tmp_path / "secret").write_text(f"whsec_{SECRET}\n")
    store, clock = MemoryEvents(lambda: NOW), Clock()
    with Webhook() as webhook:
        receiver = Receiver("ops", webhook.url, secret_file=str(tmp_path / "secret"))
        async with delivering(receiver, store, clock) as made:
            await emit(store, event())
            await until(lambda: made.delivered)
    (got,) = webhook.got
    assert {"specversion": "1.0", "id": "id-1", "type": THRESHOLD} == {
        name: got.event[name] for name in ("specversion", "id", "type")
    }
    assert "application/cloudevents+json" == got.headers["content-type"]
    signed = f"id-1.{got.headers['webhook-timestamp']}.".encode() + got.body
    expected = base64.b64encode(hmac.digest(bytes(range(32)), signed, hashlib.sha256)).decode()
    assert f"v1,{expected}" == got.headers["webhook-signature"]
    assert "id-1" == got.headers["webhook-id"]


async def test_a_failed_delivery_is_repeated_with_the_same_id_before_the_next_one() -> None:
    store, clock = MemoryEvents(lambda: NOW), Clock()
    with Webhook(lambda number: 503 if number < 4 else 200) as webhook:
        async with delivering(Receiver("ops", webhook.url), store, clock) as made:
            await emit(store, event(1), event(2))
            await until(lambda: made.delivered == 2)
        assert ["id-1"] * 4 + ["id-2"] == [each["id"] for each in webhook.events]
        assert (3, 0) == (made.failures, made.dropped)
        assert [2.0, 4.0] == [pause for pause in clock.pauses if pause > module._FIRST_PAUSE]
        assert 0 == await store.waiting("ops")


@pytest.mark.parametrize("status", [400, 404, 410])
async def test_an_event_that_a_receiver_refuses_permanently_is_dropped(status: int) -> None:
    store, clock = MemoryEvents(lambda: NOW), Clock()
    with Webhook(lambda number: status) as webhook:
        async with delivering(Receiver("ops", webhook.url), store, clock) as made:
            await emit(store, event())
            await until(lambda: made.dropped)
    assert (0, 1) == (made.delivered, made.failures)


async def test_a_redirect_is_not_followed() -> None:
    """The receiver chooses its target, which may be inside the service's network."""
    store, clock = MemoryEvents(lambda: NOW), Clock()
    with Webhook(lambda number: 302 if number == 1 else 204) as webhook:
        async with delivering(Receiver("ops", webhook.url), store, clock) as made:
            await emit(store, event())
            await until(lambda: made.delivered)
    assert ["id-1", "id-1"] == [each["id"] for each in webhook.events]
    assert 1 == made.failures


async def test_a_receiver_that_hangs_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.05)
    store, clock = MemoryEvents(lambda: NOW), Clock()
    with Webhook(lambda number: None if number == 1 else 200) as webhook:
        async with delivering(Receiver("ops", webhook.url), store, clock) as made:
            await emit(store, event())
            await until(lambda: made.delivered)
        assert 1 <= made.failures


async def test_an_event_that_cannot_be_delivered_for_a_day_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LONGEST", 100)  # of the 86,400 seconds of a day
    store, clock = MemoryEvents(lambda: NOW), Clock()
    async with delivering(Receiver("ops", "http://127.0.0.1:1/"), store, clock) as made:
        await emit(store, event())
        await until(lambda: made.dropped)
    assert clock.now - NOW > 100
    assert module._LAST_PAUSE == max(clock.pauses)


async def test_a_receiver_gets_its_chosen_events_in_its_own_format() -> None:
    store, clock = MemoryEvents(lambda: NOW), Clock()
    with Webhook() as webhook:
        receiver = Receiver(
            "chat",
            webhook.url,
            types=("ratelimit.budget.*",),
            domains=("llm",),
            template={"text": "{data.bucket} has used {data.share} {no.such}"},
        )
        async with delivering(receiver, store, clock) as made:
            await emit(store, event(1, "other"), event(2))
            await until(lambda: made.delivered)
            assert 0 == await store.waiting("chat")
    assert [{"text": "llm|team=dba has used 0.8 {no.such}"}] == webhook.events
    assert "application/json" == webhook.got[0].headers["content-type"]


async def test_an_event_whose_body_cannot_be_made_is_dropped_and_the_next_ones_arrive() -> None:
    class Broken(Receiver):
        def body(self, event: Mapping[str, Any]) -> bytes:
            if event["id"] == "id-1":
                raise TypeError("not JSON")
            return super().body(event)

    store, clock = MemoryEvents(lambda: NOW), Clock()
    with Webhook() as webhook, capture_logs() as logs:
        async with delivering(Broken("ops", webhook.url), store, clock) as made:
            await emit(store, event(1), event(2))
            await until(lambda: made.delivered)
    assert (["id-2"], 1) == ([each["id"] for each in webhook.events], made.dropped)
    assert ["its body cannot be made: TypeError: not JSON"] == [
        log["error"] for log in logs if log["event"] == "an event is dropped"
    ]


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_receiver_that_is_replaced_during_an_attempt_gets_the_event_again(
    status: int, tmp_path: Path
) -> None:
    """The attempt is for one receiver only: its answer does not count for the new one, which has its own
    format and secret.
    """
    (tmp_path / "old").write_text(SECRET)
    (tmp_path / "new").write_text(base64.b64encode(bytes(32)).decode())
    store, clock = MemoryEvents(lambda: NOW), Clock()
    with Webhook() as new:
        replacement = Receiver("ops", new.url, secret_file=str(tmp_path / "new"), template={"form": "new"})

        def answer(number: int) -> int:
            made.receiver = replacement
            return status

        with Webhook(answer) as old:
            receiver = Receiver("ops", old.url, secret_file=str(tmp_path / "old"))
            async with delivering(receiver, store, clock) as made:
                await emit(store, event())
                await until(lambda: made.delivered or made.dropped)
    assert (1, 0, 1) == (made.delivered, made.dropped, len(old.got))
    assert [{"form": "new"}] == new.events
    content = f"id-1.{new.got[0].headers['webhook-timestamp']}.".encode() + new.got[0].body
    expected = base64.b64encode(hmac.digest(bytes(32), content, hashlib.sha256)).decode()
    assert f"v1,{expected}" == new.got[0].headers["webhook-signature"]


async def test_an_attempt_has_the_address_and_the_secret_of_one_receiver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the receiver is replaced while its secret is read."""
    (tmp_path / "old").write_text(SECRET)
    store, clock = MemoryEvents(lambda: NOW), Clock()
    with Webhook() as old, Webhook() as new:

        def replaced(path: str) -> bytes:
            if len(reads := [*reads_of, path]) > 1:  # after the one at the start
                made.receiver = Receiver("ops", new.url)
            reads_of[:] = reads
            return secret_of(path)

        reads_of: list[str] = []
        monkeypatch.setattr(module, "secret_of", replaced)
        receiver = Receiver("ops", old.url, secret_file=str(tmp_path / "old"))
        async with delivering(receiver, store, clock) as made:
            await emit(store, event())
            await until(lambda: made.delivered)
    assert (1, 0) == (len(old.got), len(new.got))


async def test_an_invalid_secret_keeps_the_previous_one(tmp_path: Path) -> None:
    """The file may be half written. A valid secret is used at the next delivery."""
    file = tmp_path / "secret"
    file.write_text(SECRET)
    store, clock = MemoryEvents(lambda: NOW), Clock()
    with Webhook() as webhook, capture_logs() as logs:
        async with delivering(Receiver("ops", webhook.url, secret_file=str(file)), store, clock) as made:
            await until(lambda: made._secret)
            for number, text in enumerate(("half", "not base64!", base64.b64encode(bytes(32)).decode()), 1):
                file.write_text(text)
                await emit(store, event(number))
                await until(lambda number=number: made.delivered == number)  # type: ignore[misc]
        expected = [bytes(range(32)), bytes(range(32)), bytes(32)]
        for secret, got in zip(expected, webhook.got, strict=True):
            content = f"{got.headers['webhook-id']}.{got.headers['webhook-timestamp']}.".encode() + got.body
            signature = base64.b64encode(hmac.digest(secret, content, hashlib.sha256)).decode()
            assert f"v1,{signature}" == got.headers["webhook-signature"]
    assert 0 == made.failures
    said = [log["error"] for log in logs if "the previous secret stays in use" in log["event"]]
    assert 2 == len(said)
    assert (True, True) == ("16 bytes" in said[0], "base64" in said[1])


@pytest.mark.parametrize(
    "lie",
    [
        # the response is not HTTP, or ends within its status line
        b"what?\r\n\r\n",
        b"HTTP/1.1 2",
        b"HTTP/1.1 999 Fine\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 50,
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 300_000,
    ],
    ids=["no HTTP", "half", "status 999", "negative length", "continue", "endless header"],
)
async def test_an_invalid_response_causes_a_retry(lie: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a failed delivery, and uses no memory. The next delivery succeeds."""
    monkeypatch.setattr(module, "TIMEOUT", 1.0)
    calls = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await reader.readuntil(b"}}")
            writer.write(lie if calls == 1 else b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
            await writer.drain()
        writer.close()

    store, clock = MemoryEvents(lambda: NOW), Clock()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        async with delivering(Receiver("ops", url), store, clock) as made:
            await emit(store, event())
            await until(lambda: made.delivered)
    assert (1, 1, 2) == (made.delivered, made.failures, calls)

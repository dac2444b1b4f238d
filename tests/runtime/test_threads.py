"""A thread for calls that may never return."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from ratelimit_service.runtime.threads import StuckError, Thread

SOON = 0.02
LONG = 60.0


@pytest.fixture
def held() -> Iterator[threading.Event]:
    """An event that a call waits for. It is set at the end of the test, so that no thread is left behind."""
    event = threading.Event()
    yield event
    event.set()


async def test_calls_run_one_after_another_in_one_daemon_thread() -> None:
    """Results and exceptions are passed on."""
    thread = Thread("reading")
    first, second = [await thread.do(threading.current_thread, LONG) for _ in range(2)]
    assert (True, "reading", True) == (first is second, first.name, first.daemon)
    with pytest.raises(ZeroDivisionError):
        await thread.do(lambda: 1 / 0, LONG)
    with pytest.raises(RuntimeError, match="SystemExit in a thread"):
        await thread.do(sys.exit, LONG)
    assert 1 == await thread.do(lambda: 1, LONG)


async def test_a_call_that_hangs_is_abandoned_with_its_name(
    held: threading.Event,
) -> None:
    """Later calls fail, too, until it returns."""

    def reading() -> None:
        threading.current_thread().name = "/rules/fifo"
        held.wait()

    thread = Thread("reading")
    done: list[str] = []
    with pytest.raises(StuckError, match=r"^/rules/fifo does not answer: no progress for 0.02 s$"):
        await thread.do(reading, SOON)
    with pytest.raises(StuckError):
        await thread.do(lambda: done.append("not this"), SOON)
    held.set()
    await thread.do(lambda: done.append("this"), LONG)
    assert ["this"] == done


async def test_a_call_that_is_working_does_not_time_out(
    held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes: the machine may be busy, and the file does answer."""
    seen: list[float] = []

    def used(_: Thread) -> float:
        if len(seen) == 5:
            held.set()
        seen.append(len(seen))
        return seen[-1]

    monkeypatch.setattr(Thread, "_used", used)
    await Thread("working").do(held.wait, SOON)
    assert len(seen) > 5


async def test_the_time_of_a_call_is_that_of_its_thread() -> None:
    """Without the time that others use meanwhile."""

    def work() -> float:
        until = time.thread_time() + SOON
        while time.thread_time() < until:
            sum(range(1_000))
        return time.thread_time()

    thread = Thread("working")
    assert await thread.do(work, LONG) <= thread._used() < time.process_time()


async def test_a_cancelled_call_leaves_the_thread_to_the_next_one(held: threading.Event) -> None:
    """Its result is dropped."""
    thread = Thread("reading")
    call = asyncio.create_task(thread.do(held.wait, LONG))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    held.set()
    assert "next" == await thread.do(lambda: "next", LONG)


async def test_if_no_thread_can_be_started_the_next_call_tries_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It does not wait for the call that was never started."""
    thread = Thread("reading")

    def refused(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await thread.do(lambda: None, LONG)
    assert "done" == await thread.do(lambda: "done", LONG)


def test_a_thread_that_hangs_does_not_keep_the_process_from_ending() -> None:
    """A thread of asyncio's executor would."""
    script = """\
import asyncio, threading
from ratelimit_service.runtime.threads import StuckError, Thread
async def main():
    try:
        await Thread("stuck").do(threading.Event().wait, 0.02)
    except StuckError:
        print("given up")
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=LONG, check=True
    )
    assert ("given up\n", "") == (done.stdout, done.stderr)

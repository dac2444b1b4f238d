"""Work in slices: all of it is done, and other tasks run between slices."""

from __future__ import annotations

import asyncio
from collections.abc import Generator

import pytest

from ratelimit_service.loading import slices
from ratelimit_service.loading.slices import Pace, at_once, in_slices


def counting(to: int, done: list[int]) -> Generator[None, None, str]:
    """Return a generator that appends the number of each step to `done`, and returns a text."""
    for number in range(to):
        done.append(number)
        yield
    return "done"


async def test_all_steps_run_in_order_and_return_their_result() -> None:
    """In slices and without."""
    sliced: list[int] = []
    whole: list[int] = []
    assert ("done", "done") == (await in_slices(counting(50, sliced)), at_once(counting(50, whole)))
    assert list(range(50)) == sliced == whole


async def test_other_tasks_run_after_each_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """If every step takes longer than a slice, after each step."""
    monkeypatch.setattr(slices, "SLICE", 0.0)
    monkeypatch.setattr(slices, "BREATH", 0.0)
    done: list[int] = []
    seen: list[int] = []
    working = asyncio.create_task(in_slices(counting(5, done)))
    while not working.done():
        await asyncio.sleep(0)
        seen.append(len(done))
    assert [1, 2, 3, 4, 5] == sorted(set(seen))


async def test_no_other_task_runs_within_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes microseconds, and a turn of the event loop takes longer."""
    monkeypatch.setattr(slices, "SLICE", 1e9)
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1

    asyncio.get_running_loop().call_soon(turn)
    await in_slices(counting(1_000, []))
    assert 0 == turns


async def test_an_exception_in_a_step_is_raised() -> None:
    """As in a function call."""

    def failing() -> Generator[None, None, None]:
        yield
        raise ValueError("a step")

    with pytest.raises(ValueError, match="a step"):
        await in_slices(failing())
    with pytest.raises(ValueError, match="a step"):
        at_once(failing())


async def test_a_new_slice_begins_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pause is not part of the slice."""
    now = 0.0
    monkeypatch.setattr(slices, "perf_counter", lambda: now)
    monkeypatch.setattr(slices, "BREATH", 0.0)
    pace = Pace()
    seen = [pace.over]
    now += slices.SLICE
    seen.append(pace.over)
    now += 100
    await pace.breathe()
    seen.append(pace.over)
    assert [False, True, False] == seen

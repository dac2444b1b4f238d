"""Work in slices: all of it is done, and the others have their turns."""

from __future__ import annotations

import asyncio
from collections.abc import Generator

import pytest

from ratelimit_service.loading import slices
from ratelimit_service.loading.slices import Pace, at_once, in_slices


def counting(to: int, done: list[int]) -> Generator[None, None, str]:
    """Work of so many steps, that comes to a text."""
    for number in range(to):
        done.append(number)
        yield
    return "done"


async def test_all_steps_are_done_in_their_order_and_the_result_is_theirs() -> None:
    """In slices as in one go."""
    sliced: list[int] = []
    whole: list[int] = []
    assert ("done", "done") == (await in_slices(counting(50, sliced)), at_once(counting(50, whole)))
    assert list(range(50)) == sliced == whole


async def test_others_have_their_turn_after_each_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a slice is shorter than any step, that is after each of them."""
    monkeypatch.setattr(slices, "SLICE", 0.0)
    monkeypatch.setattr(slices, "BREATH", 0.0)
    done: list[int] = []
    seen: list[int] = []
    working = asyncio.create_task(in_slices(counting(5, done)))
    while not working.done():
        await asyncio.sleep(0)
        seen.append(len(done))
    assert [1, 2, 3, 4, 5] == sorted(set(seen))


async def test_nobody_has_a_turn_within_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes microseconds, and a turn of the loop costs more than it."""
    monkeypatch.setattr(slices, "SLICE", 1e9)
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1

    asyncio.get_running_loop().call_soon(turn)
    await in_slices(counting(1_000, []))
    assert 0 == turns


async def test_what_goes_wrong_in_a_step_goes_to_who_wanted_the_work() -> None:
    """As if it were called."""

    def failing() -> Generator[None, None, None]:
        yield
        raise ValueError("a step")

    with pytest.raises(ValueError, match="a step"):
        await in_slices(failing())
    with pytest.raises(ValueError, match="a step"):
        at_once(failing())


async def test_a_new_slice_begins_after_a_breath(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the breath was: what others do is not counted."""
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

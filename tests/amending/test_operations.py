"""The operations on limits: each with its preview and its effect on this replica."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from ratelimit_service.amending.follower import Follower
from ratelimit_service.amending.operations import Attribution, Operations, new_key
from ratelimit_service.core.amendments.index import MOST_STEPS
from ratelimit_service.core.amendments.model import Amendment, EditResult, Put, Remove
from ratelimit_service.core.amendments.target import Target, parse
from ratelimit_service.core.errors import Conflict, InvalidRequest, StoreError
from tests.limiter import Limiter, decision_text, descriptor, entries_of

RULES = """
domain: d
descriptors:
  - key: team
    warn_at: [0.125, 0.8]
    rate_limits: [{unit: hour, tokens_per_unit: 100}, {unit: day, tokens_per_unit: 1000}]
  - {key: path, value: "a*", share_threshold: true, rate_limit: {unit: hour, tokens_per_unit: 100}}
  - {key: free, rate_limit: {unlimited: true}}
"""


class Desk:
    """An operator at a replica that counts in memory."""

    def __init__(self) -> None:
        self.limiter = Limiter(RULES)
        store, amendments = self.limiter.store, self.limiter.amendments
        follower = Follower(
            store.amendments, amendments, [self.limiter.service], now=lambda: self.limiter.now
        )
        self.operations = Operations(
            store, amendments, follower, lambda: self.limiter.service.tree, now=lambda: self.limiter.now
        )
        self.keys = 0

    def by(self) -> Attribution:
        self.keys += 1
        return Attribution("ana", "launch", f"key {self.keys}")

    def ask(self, text: str = "team=dba", hits: int = 0) -> str:
        return decision_text(self.limiter.ask(descriptor(text, hits)))

    async def override(self, text: str, amount: int, **more: Any) -> Amendment:
        by = self.by()
        edit = self.operations.make_override(by, target(text), amount, **more)
        (edited,) = (await self.operations.apply(by, [edit])).edits
        assert edited.after is not None
        return edited.after

    def limits(self, text: str, *edits: Put | Remove) -> dict[str, tuple[int, int]]:
        """Return by window the limit of the rule and the amended one."""
        found = self.operations.bucket("d", entries_of(text), edits)
        assert found is not None
        return {
            window.limit.window.unit.name: (window.limit.amount, window.effect.amount)
            for window in found.windows
        }


@pytest.fixture
async def desk() -> Desk:
    return Desk()


def target(text: str) -> Target:
    return parse("d", text)


async def test_an_override_is_in_force_here_when_it_returns(desk: Desk) -> None:
    """The log has its author and reason. The same holds for its removal."""
    assert "OK: OK 100 3600" == desk.ask()
    with capture_logs() as logged:
        made = await desk.override("team=dba", 7, window="hour")
    assert "OK: OK 7 3600" == desk.ask()
    line = next(line for line in logged if line["event"] == "amended")
    assert {
        "author": "ana",
        "reason": "launch",
        "key": "key 1",
        "version": 1,
        "before": None,
    }.items() <= line.items()
    assert (7, "team=dba", "hour") == tuple(
        line["after"][name] for name in ("amount", "descriptor", "window")
    )
    applied = await desk.operations.apply(desk.by(), [Remove(made.id)])
    assert (EditResult(made.id, made),) == applied.edits
    assert "OK: OK 100 3600" == desk.ask()
    assert [None, made] == [line.edited.after for line in await desk.operations.audit()]


async def test_a_top_up_lets_a_team_in_again_until_the_window_ends(desk: Desk) -> None:
    """The count does not change."""
    desk.ask(hits=100)
    assert "OVER_LIMIT: OVER_LIMIT 0 3600" == desk.ask()
    by = desk.by()
    await desk.operations.apply(by, [desk.operations.make_top_up(by, target("team=dba"), 20, windows=1)])
    assert "OK: OK 20 3600" == desk.ask()
    assert {"HOUR": (100, 120), "DAY": (1_000, 1_020)} == desk.limits("team=dba")
    desk.limiter.now += 3_600
    assert {"HOUR": (100, 100), "DAY": (1_000, 1_020)} == desk.limits("team=dba")
    assert "OK: OK 100 3600" == desk.ask()


async def test_a_preview_shows_the_resulting_limits_and_changes_nothing(desk: Desk) -> None:
    """For a change that would be made, and for the removal of one that exists."""
    made = await desk.override("team=*", 50)
    by = desk.by()
    edit = desk.operations.make_override(by, target("team=dba"), 7, window="day")
    applied = await desk.operations.apply(by, [edit], dry_run=True)
    assert (EditResult(edit.amendment.id, None, edit.amendment),) == applied.edits
    assert {"HOUR": (100, 50), "DAY": (1_000, 50)} == desk.limits("team=dba")
    assert {"HOUR": (100, 50), "DAY": (1_000, 7)} == desk.limits("team=dba", edit)
    assert {"HOUR": (100, 100), "DAY": (1_000, 7)} == desk.limits("team=dba", edit, Remove(made.id))
    assert {"HOUR": (100, 50), "DAY": (1_000, 50)} == desk.limits("team=ops", edit)
    assert [made] == desk.operations.all()
    assert ([made], []) == (desk.operations.all("d"), desk.operations.all("e"))
    assert 1 == len(await desk.operations.audit())


async def test_a_change_is_refused_if_the_amendments_differ_from_the_preview(desk: Desk) -> None:
    """If the amendments have changed since the preview, the change is refused."""
    by = desk.by()
    edit = desk.operations.make_override(by, target("team=dba"), 7)
    seen = await desk.operations.apply(by, [edit], dry_run=True)
    await desk.override("team=dba", 9)
    with pytest.raises(Conflict):
        await desk.operations.apply(by, [edit], expected=[edited.before for edited in seen.edits])
    assert "OK: OK 9 3600" == desk.ask()


async def test_a_kill_switch_shows_its_exceptions(desk: Desk) -> None:
    """These are the overrides with a higher precedence. Top-ups, and overrides of other keys, are not."""
    team = await desk.override("team=dba", 7)
    pattern = await desk.override("team=d*", 8)
    await desk.override("user=eve", 9)
    switch = await desk.override("*", 0)
    exceptions = desk.operations.exceptions(switch)
    assert {team.id, pattern.id} < {one.id for one in exceptions}
    assert [team] == desk.operations.exceptions(pattern)
    assert [] == desk.operations.exceptions(team)


async def test_a_reset_sets_used_to_0_in_one_window_or_all(desk: Desk) -> None:
    """Other windows and the limit do not change."""
    desk.ask(hits=100)
    applied = await desk.operations.reset(desk.by(), target("team=dba"), window="hour", dry_run=True)
    reset = applied.edits[0].reset
    assert reset is not None
    assert [("{d|team=dba}:hour:2026-11-21T00Z", 100)] == list(reset.counters)
    assert "OVER_LIMIT: OVER_LIMIT 0 3600" == desk.ask()
    applied = await desk.operations.reset(desk.by(), target("team=dba"), window="hour")
    assert reset == applied.edits[0].reset
    assert {"{d|team=dba}:hour:2026-11-21T00Z": 0, "{d|team=dba}:day:2026-11-21": 100} == await held(desk)
    await desk.operations.reset(desk.by(), target("team=dba"))
    assert {0} == set((await held(desk)).values())
    assert "OK: OK 100 3600" == desk.ask()
    audited = [line.edited.reset for line in await desk.operations.audit()]
    assert [(0, 100), (100,)] == [tuple(dict(one.counters).values()) for one in audited if one is not None]


async def test_the_log_of_a_reset_has_the_previous_counts(desk: Desk) -> None:
    """It has no amendment, so it has no `before` and `after`."""
    desk.ask(hits=100)
    with capture_logs() as logged:
        await desk.operations.reset(desk.by(), target("team=dba"), window="hour")
    (line,) = [line for line in logged if line["event"] == "reset"]
    counters = {"{d|team=dba}:hour:2026-11-21T00Z": 100}
    assert {"domain": "d", "descriptor": "team=dba", "window": "hour", "counters": counters} == line["reset"]
    assert {"event", "log_level", "version", "author", "reason", "key", "reset"} == line.keys()


async def test_a_reset_that_is_sent_again_forgives_nothing_that_was_used_since(desk: Desk) -> None:
    desk.ask(hits=100)
    by = desk.by()
    first = await desk.operations.reset(by, target("team=dba"))
    desk.ask(hits=30)
    again = await desk.operations.reset(by, target("team=dba"))
    assert (first.edits, True) == (again.edits, again.replayed)
    assert {30} == set((await held(desk)).values())


async def test_a_reset_that_was_interrupted_is_done_when_it_is_sent_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The audit has it once, and its windows are those of the first attempt."""
    desk.ask(hits=100)
    by = desk.by()

    async def fail(keys: object) -> dict[str, int | None]:
        raise StoreError("Redis is away")

    with monkeypatch.context() as context:
        context.setattr(desk.limiter.store, "delete_counters", fail)
        with pytest.raises(StoreError):
            await desk.operations.reset(by, target("team=dba"))
    assert "OVER_LIMIT: OVER_LIMIT 0 3600" == desk.ask()
    applied = await desk.operations.reset(by, target("team=dba"))
    assert (True, False) == (applied.replayed, applied.unfinished)
    assert {0} == set((await held(desk)).values())
    assert 1 == len(await desk.operations.audit())


async def test_a_reset_takes_the_markers_of_thresholds_with_it(desk: Desk) -> None:
    """Thresholds are then reported again."""
    markers = [f"{{d|team=dba}}:hour:2026-11-21T00Z:warned-{percent}" for percent in ("80", "12.5")]
    for marker in markers:
        desk.limiter.store._counters[marker] = 1
    await desk.operations.reset(desk.by(), target("team=dba"))
    assert [0, 0] == [desk.limiter.store._counters[marker] for marker in markers]


async def test_a_reset_of_a_shared_counter_is_for_all_its_values(desk: Desk) -> None:
    """Any of its values names it."""
    desk.ask("path=ab", 100)
    applied = await desk.operations.reset(desk.by(), target("path=ac"))
    assert applied.edits[0].reset is not None
    assert {"{d|path=a*}:hour:2026-11-21T00Z": 100} == dict(applied.edits[0].reset.counters)
    assert "OK: OK 100 3600" == desk.ask("path=ab")


@pytest.mark.parametrize(
    "text, window, words",
    [
        ("team=*", "", "is for one descriptor"),
        ("*", "", "is for one descriptor"),
        ("nobody=x", "", "there is nothing to reset"),
        ("free=x", "", "there is nothing to reset"),
        ("team=dba", "week", "it has hour, day"),
    ],
)
async def test_a_reset_without_counters_has_a_reason(desk: Desk, text: str, window: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        await desk.operations.reset(desk.by(), target(text), window=window)
    assert [] == await desk.operations.audit()


async def test_a_descriptor_that_no_limit_is_for_has_none_to_show(desk: Desk) -> None:
    for text in ("nobody=x", "free=x"):
        assert None is desk.operations.bucket("d", entries_of(text))
    assert None is desk.operations.bucket("e", entries_of("team=dba"))


async def test_patterns_that_would_slow_down_finding_are_refused(desk: Desk) -> None:
    """Patterns that fix neither the first nor the last bytes of a value are refused; a prefix is accepted."""
    for number in range(MOST_STEPS - 1):
        await desk.override(f"team=*{number:04}*", 1)
    with pytest.raises(InvalidRequest, match="too many patterns like"):
        await desk.override("team=*one more*", 1)
    await desk.override("team=dba", 1)
    await desk.override("user=*one more*", 1)


async def test_a_change_needs_an_author_a_reason_and_a_key(desk: Desk) -> None:
    by = Attribution("ana", "", new_key())
    with pytest.raises(InvalidRequest, match="a reason"):
        await desk.operations.apply(by, [desk.operations.make_override(by, target("team=dba"), 7)])


async def held(desk: Desk) -> dict[str, int | None]:
    found = await desk.limiter.store.read_bucket("{d|team=dba}")
    return {key: count for key, count in found.items() if "warned" not in key}

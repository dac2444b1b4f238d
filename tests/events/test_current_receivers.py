"""The file of receivers and their secrets, which changes while the service runs."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from ratelimit_service.core.amendments.model import AuditLine, EditResult, override
from ratelimit_service.core.amendments.target import parse
from ratelimit_service.core.errors import StartError
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import DescriptorRule, DomainRules, Limit, Rule, StatKey, Unit, Use, Window
from ratelimit_service.events import delivery, emitting
from ratelimit_service.events import events as module
from ratelimit_service.events.current_receivers import CurrentReceivers
from ratelimit_service.events.events import Events
from ratelimit_service.runtime.tasks import Background
from ratelimit_service.stores import events as stored
from ratelimit_service.stores.amendments import MemoryAmendments
from ratelimit_service.stores.events import MemoryEvents
from testing.waiting import until

from .receiver import Webhook

NOW = 1_000
LIMIT = Limit(100, Window(Unit.DAY), name="daily")


def entry(name: str, url: str, more: str = "") -> str:
    return f"  - {{name: {name}, url: '{url}'{more}}}\n"


class File:
    """A file of receivers that a test rewrites."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "receivers.yaml"

    def write(self, *entries: str) -> None:
        self.path.write_text("receivers:\n" + "".join(entries))


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path)


def names(configured: CurrentReceivers) -> list[str]:
    return [receiver.name for receiver in configured.receivers]


def test_a_changed_file_adds_receivers(file: File) -> None:
    """The addresses of the setting stay in use."""
    file.write(entry("a", "http://a.example"))
    configured = CurrentReceivers(("http://url.example",), "", str(file.path))
    assert (["webhook", "a"], False) == (names(configured), configured.refresh())
    file.write(entry("b", "http://b.example"))
    assert (True, ["webhook", "b"]) == (configured.refresh(), names(configured))
    assert not configured.refresh()


@pytest.mark.parametrize("text", ["receivers: [", "receivers: [{name: a}]", "", None])
def test_an_invalid_file_keeps_the_receivers_and_is_reported_once(text: str | None, file: File) -> None:
    """The file may be half written, or missing for a moment."""
    file.write(entry("a", "http://a.example"))
    configured = CurrentReceivers((), "", str(file.path))
    if text is None:
        file.path.unlink()
    else:
        file.path.write_text(text)
    with capture_logs() as logs:
        assert [False, False] == [configured.refresh(), configured.refresh()]
    assert (["a"], 1) == (names(configured), len(logs))
    assert "the previous receivers stay in use" in logs[0]["event"]
    assert "EVENTS_WEBHOOKS" in logs[0]["error"]
    file.write(entry("b", "http://b.example"))
    assert (True, ["b"]) == (configured.refresh(), names(configured))


def test_a_secret_may_arrive_after_the_file(file: File, tmp_path: Path) -> None:
    """Two mounts do not change at the same moment."""
    file.write(entry("a", "http://a.example"))
    configured = CurrentReceivers((), "", str(file.path))
    file.write(entry("b", "http://b.example", f", secret_file: {tmp_path / 'secret'}"))
    assert (False, ["a"]) == (configured.refresh(), names(configured))
    (tmp_path / "secret").write_text(base64.b64encode(bytes(32)).decode())
    assert (True, ["b"]) == (configured.refresh(), names(configured))


def test_an_unchanged_file_is_not_read(file: File, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked at every two seconds, valid or not; a large invalid one would take seconds of CPU each
    time.
    """
    secret = tmp_path / "secret"
    secret.write_text(base64.b64encode(bytes(32)).decode())
    file.write(entry("a", "http://a.example", f", secret_file: {secret}"))
    configured = CurrentReceivers((), "", str(file.path))
    opened: list[str] = []
    opens = Path.open

    def noted(path: Path, mode: str = "r") -> object:
        opened.append(path.name)
        return opens(path, mode)

    monkeypatch.setattr(Path, "open", noted)
    assert [False, False, []] == [configured.refresh(), configured.refresh(), opened]
    monkeypatch.undo()
    for broken in (file.path, secret):
        text = broken.read_text()
        broken.write_text("receivers: [" if broken == file.path else "!")
        monkeypatch.setattr(Path, "open", noted)
        assert not configured.refresh()
        assert broken.name in opened
        opened.clear()
        assert [False, []] == [configured.refresh(), opened]
        monkeypatch.undo()
        broken.write_text(text)
        assert not configured.refresh()


@pytest.mark.parametrize("length", [4_097, 10_000_000])
def test_a_secret_is_read_up_to_its_bound(length: int, file: File, tmp_path: Path) -> None:
    """A wrong path may lead to a file of any size."""
    secret = tmp_path / "secret"
    secret.write_text(base64.b64encode(bytes(32)).decode())
    file.write(entry("a", "http://a.example", f", secret_file: {secret}"))
    configured = CurrentReceivers((), "", str(file.path))
    secret.write_bytes(b"A" * length)
    with capture_logs() as logs:
        assert not configured.refresh()
    assert "cannot be used: is longer than 4096 bytes" in logs[0]["error"]
    with pytest.raises(StartError, match="longer than 4096 bytes"):
        CurrentReceivers((), "", str(file.path))


def test_an_invalid_file_stops_the_start(file: File) -> None:
    """There are no earlier receivers to keep."""
    with pytest.raises(StartError, match="cannot be read"):
        CurrentReceivers((), "", str(file.path))


class Running:
    """The events of a leading process. A test sets the rules."""

    def __init__(self, file: File) -> None:
        self.tree: RuleTree | None = None
        self.now = NOW
        self.store = MemoryEvents(lambda: float(NOW))
        self.events = Events(
            CurrentReceivers((), "", str(file.path)),
            self.store,
            MemoryAmendments(),
            lambda: 0,
            lambda: float(self.now),
            lambda: "a",
            lambda: True,
            self._rules,
        )
        self.background = Background()
        self.looks = 0
        """How often the rules were read."""

    def _rules(self) -> RuleTree | None:
        self.looks += 1
        return self.tree

    async def start(self) -> None:
        self.events.keep(self.background)
        self.events.lead(self.background)
        await until(lambda: all(name in self.store._next for name in self.events.deliveries))

    def refuse(self, team: str, notify: tuple[str, ...] | None = None) -> None:
        """Emit the event of a first refusal."""
        rule = Rule(StatKey("d", ("team",)), (LIMIT,), notify=notify)
        use = Use(LIMIT, f"{{d|team={team}}}:day:1970-01-01", 86_400, 100, 100, True, 80)
        self.events.emitter.refused(rule, use, NOW)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "_RECEIVERS_EVERY", 0.01)
    for each in (delivery, emitting):
        monkeypatch.setattr(each, "_EVERY", 0.01)
    yield
    structlog.reset_defaults()


async def test_receivers_are_added_and_removed_while_the_service_runs(file: File) -> None:
    """A new receiver gets no earlier events, a removed one no later events, and the counters stay."""
    with Webhook() as first, Webhook() as second:
        file.write(entry("first", first.url))
        running = Running(file)
        await running.start()
        running.refuse("a")
        await until(lambda: len(first.got) == 1)
        file.write(entry("second", second.url))
        await until(lambda: "second" in running.events.deliveries)
        running.refuse("b")
        await until(lambda: len(second.got) == 1)
        file.write(entry("first", first.url), entry("second", second.url))
        await until(lambda: "first" in running.events.deliveries)
        running.refuse("c")
        await until(lambda: len(second.got) == 2 and first.events[-1]["subject"] == "d|team=c")

        def delivered() -> dict[str, int]:
            return {name: count for name, outcome, count in running.events.counts() if outcome == "delivered"}

        await until(lambda: delivered() == {"first": len(first.got), "second": 2})
        await running.background.stop()
        assert ["d|team=b", "d|team=c"] == [each["subject"] for each in second.events]


async def test_an_address_that_changes_is_used_for_the_next_delivery(file: File) -> None:
    """It is still the same receiver, with its queued events."""
    with Webhook(lambda number: 503) as broken, Webhook() as fixed:
        file.write(entry("ops", broken.url))
        running = Running(file)
        await running.start()
        running.refuse("a")
        await until(lambda: broken.got)
        file.write(entry("ops", fixed.url))
        await until(lambda: fixed.got)
        await running.background.stop()
        assert [broken.events[0]["id"]] == [each["id"] for each in fixed.events]


async def test_a_rule_chooses_its_receivers(file: File) -> None:
    """It names them; `off` selects none, and a rule without `notify` selects all. The names are not sent."""
    with Webhook() as finance, Webhook() as chat:
        file.write(entry("finance", finance.url), entry("chat", chat.url))
        running = Running(file)
        await running.start()
        for team, notify in (("a", ("finance",)), ("b", ()), ("c", ("chat", "finance")), ("d", None)):
            running.refuse(team, notify)
        await until(lambda: len(finance.got) == 3 and len(chat.got) == 2)
        await running.background.stop()
        assert ["a", "c", "d"] == [each["subject"][-1] for each in finance.events]
        assert ["c", "d"] == [each["subject"][-1] for each in chat.events]
        assert not [each for each in (*finance.events, *chat.events) if "notify" in each]


async def test_the_rule_of_an_amendment_chooses_its_receivers_too(file: File) -> None:
    """An event of the store belongs to no rule, so all receivers get it."""
    with Webhook() as finance, Webhook() as chat:
        file.write(entry("finance", finance.url), entry("chat", chat.url))
        running = Running(file)
        rule = Rule(StatKey("d", ("team",)), (LIMIT,), notify=("finance",))
        running.tree = RuleTree([DomainRules("d", (DescriptorRule(b"team", rule=rule),))])
        await running.start()
        emitter = running.events.emitter
        for version, text in ((1, "team=a"), (2, "team=*"), (3, "user=a")):
            amendment = override(parse("d", text), 5)
            line = AuditLine(version, NOW, "ana", "why", "key", EditResult(text, None, amendment))
            await emitter.audited([])
            await emitter.audited([line])
        emitter.store_is(False)
        await until(lambda: len(finance.got) == 4 and len(chat.got) == 2)
        await running.background.stop()
        assert ["team=a", "team=*", "user=a", "store"] == [each["subject"] for each in finance.events]
        assert ["user=a", "store"] == [each["subject"] for each in chat.events]


async def test_a_name_without_a_receiver_is_reported(file: File) -> None:
    """It is reported when rules or receivers change. A name that has a receiver is not reported."""
    file.write(entry("finance", "http://a.example"))
    running = Running(file)

    def rules(*notify: str) -> RuleTree:
        rule = Rule(StatKey("d", ("team",)), (LIMIT,), notify=notify, source="rules.yaml:4")
        return RuleTree([DomainRules("d", (DescriptorRule(b"team", rule=rule),))])

    with capture_logs() as logs:
        await running.start()
        running.tree = rules("finance")
        read = running.looks
        await until(lambda: running.looks >= read + 2)  # the first of them has been checked
        assert [] == [log for log in logs if "receivers" in log]
        running.tree = rules("finance", "finanse")
        await until(lambda: logs)
        file.write(entry("chat", "http://a.example"))
        await until(lambda: ["finance", "finanse"] in [log.get("receivers") for log in logs])
        await running.background.stop()
    said = [log for log in logs if log["event"] == "a rule notifies receivers that do not exist"]
    assert [["finanse"], ["finance", "finanse"]] == [log["receivers"] for log in said]
    assert ("d.team", "rules.yaml:4") == (said[0]["rule"], said[0]["source"])


async def test_events_that_the_store_drops_are_counted_and_logged_once_a_minute(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each receiver that wants them, in the process that emits, which need not be the one that
    delivers.
    """
    monkeypatch.setattr(stored, "MOST_EVENTS", 2)
    address = "http://127.0.0.1:1/"
    file.write(
        entry("all", address),
        entry("chat", address),
        entry("stores", address, ", types: [ratelimit.store.*]"),
    )
    with capture_logs() as logs:
        running = Running(file)
        await running.store.open("removed")
        running.events.keep(running.background)
        await until(lambda: all(name in running.store._next for name in running.events.deliveries))

        async def refuse(count: int, notify: tuple[str, ...] | None = None) -> None:
            before = running.store._last
            for number in range(count):
                running.refuse(f"{before + number}", notify)
            await until(lambda: running.store._last == before + count)

        def overflowed() -> dict[str, int]:
            return {
                name: count for name, outcome, count in running.events.counts() if outcome == "overflowed"
            }

        await refuse(5)
        await until(lambda: overflowed() == {"all": 3, "chat": 3, "stores": 0})
        await refuse(2, ("all",))
        await refuse(2)
        await until(lambda: overflowed() == {"all": 7, "chat": 5, "stores": 0})
        running.now += 60
        await refuse(1)
        await until(lambda: overflowed() == {"all": 8, "chat": 6, "stores": 0})
        await running.background.stop()
    assert [("all", 1), ("chat", 1), ("all", 7), ("chat", 5)] == [
        (log["receiver"], log["events"]) for log in logs if "too many wait for their receiver" in log["event"]
    ]

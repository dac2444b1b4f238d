"""Changes from several sources: the resulting rules, their sources, and the cost."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pytest
import structlog

from ratelimit_service.core.model import DomainRules
from ratelimit_service.core.rules.document import Contents
from ratelimit_service.loading.combined import CombinedRules
from ratelimit_service.loading.rulebook import FILES, Rulebook
from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.ports import RuleChange
from ratelimit_service.service import RateLimitService
from ratelimit_service.sources.yaml_text import read
from ratelimit_service.stores.memory import MemoryStore
from tests.limiter import MIDNIGHT, NoObserver
from tests.loading import fake_readers

CONFIG_TYPE = (FILES, "xds eg", "xds ai")


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    """Unfreeze what a load has frozen."""
    yield
    gc.enable()
    gc.unfreeze()


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    """Yield every line of the log."""
    with structlog.testing.capture_logs() as lines:
        yield lines


def documents(texts: Sequence[str]) -> Contents:
    """Return the documents of a source. Another process imports this function by its name."""
    return Contents([read(f"text {place}", text) for place, text in enumerate(texts)])


def rules(domain: str, amount: object) -> str:
    return (
        f"{{domain: {domain}, descriptors: [{{key: team, rate_limit: {{unit: hour, "
        f"requests_per_unit: {amount}}}}}]}}"
    )


def change(*texts: str, gone: str = "", whole: bool = False) -> RuleChange:
    """Return a change of domains whose names have one letter."""
    domains = frozenset(text.partition(",")[0].removeprefix("{domain: ") for text in texts)
    return RuleChange(partial(documents, texts) if texts else None, (), domains, frozenset(gone), whole)


class Book:
    """A rulebook with three sources."""

    def __init__(self) -> None:
        self.files = [rules("f", 1)]
        self.metrics = Metrics()
        self.service = RateLimitService(MemoryStore(lambda: MIDNIGHT), NoObserver(), lambda: MIDNIGHT)
        self.book = Rulebook(
            [self.service], self._read, self.metrics, merge_domains=False, sources=CONFIG_TYPE
        )

    def _read(self) -> Contents:
        return documents(self.files)

    async def load(self, *files: str) -> bool:
        self.book._task = self.book._task._replace(read=partial(documents, files))
        return await self.book.load()

    def in_force(self) -> dict[str, int]:
        tree = self.service.tree
        assert tree is not None
        return {rule.path.domain: rule.limits[0].amount for rule in tree.rules}

    def metric(self, name: str) -> float:
        values = {sample.name: sample.value for sample in self.metrics.counters() if not sample.labels}
        return values[f"ratelimit_service_config_{name}"]


@pytest.fixture
def book() -> Book:
    return Book()


async def test_a_source_changes_only_its_own_domains(book: Book) -> None:
    """Domains of other sources stay."""
    assert await book.load(rules("f", 1))
    taken = await book.book.change("xds eg", change(rules("a", 2), rules("b", 3)))
    assert ({"a", "b"}, (), True) == (set(taken.accepted), taken.problems, taken.changed)
    await book.book.change("xds ai", change(rules("c", 4)))
    await book.book.change("xds eg", change(rules("b", 5), gone="a"))
    assert {"f": 1, "b": 5, "c": 4} == book.in_force()
    assert await book.load(rules("g", 6))
    assert {"g": 6, "b": 5, "c": 4} == book.in_force()


async def test_a_domain_with_an_error_keeps_its_last_good_rules(book: Book, logged: list[Any]) -> None:
    """The change counts, and is logged, both as a failed load and as a successful one."""
    await book.book.change("xds eg", change(rules("a", 2), rules("b", 3)))
    taken = await book.book.change("xds eg", change(rules("a", 4), rules("b", "many")))
    assert ({"a"}, ["text 1:1"]) == (
        set(taken.accepted),
        [str(each).partition(": ")[0] for each in taken.problems],
    )
    assert {"a": 4, "b": 3} == book.in_force()
    assert [2, 1, 1] == [book.metric(name) for name in ("load_success", "load_error", "rejected")]
    (line,) = [line for line in logged if line["event"] == "the configuration was not loaded"]
    assert "the last good rules of these domains" == line["in_force"]


async def test_a_change_is_rejected_as_a_whole_for_any_error(book: Book) -> None:
    """The valid domains stay as they were, and none is removed."""
    await book.book.change("xds eg", change(rules("a", 2), rules("b", 3)))
    taken = await book.book.change("xds eg", change(rules("a", 4), rules("c", "many"), gone="b", whole=True))
    assert (set(), False, {"a": 2, "b": 3}) == (set(taken.accepted), taken.changed, book.in_force())


async def test_a_domain_belongs_to_the_first_source_that_has_it(book: Book) -> None:
    """The others get a problem, and take over as soon as the first source drops it."""
    await book.book.change("xds ai", change(rules("d", 1)))
    await book.book.change("xds eg", change(rules("d", 2)))
    assert {"d": 2} == book.in_force()
    assert ["'d' has rules at text 0:1, which take precedence: use another domain"] == [
        problem.message for problem in book.book.combined.hidden("xds ai").values()
    ]
    await book.load(rules("d", 3))
    assert ({"d": 3}, ["d"], ["d"], []) == (
        book.in_force(),
        *(list(book.book.combined.hidden(source)) for source in ("xds eg", "xds ai", FILES)),
    )
    await book.load(rules("f", 1))
    await book.book.change("xds eg", change(gone="d"))
    assert {"f": 1, "d": 1} == book.in_force()


async def test_unchanged_domains_are_not_compiled_again(book: Book) -> None:
    """A change of one domain in a thousand takes as long as with one domain."""
    await book.book.change("xds eg", change(rules("a", 2), rules("b", 3)))
    before = book.service.tree
    await book.book.change("xds eg", change(rules("a", 4)))
    after = book.service.tree
    assert before is not None and after is not None
    assert (True, False) == tuple(before.domains[name] is after.domains[name] for name in "ba")
    assert {"a": 4, "b": 3} == book.in_force()


async def test_an_empty_first_change_makes_the_service_ready_and_an_invalid_one_does_not(book: Book) -> None:
    """A service without rules must not report that it has some."""
    taken = await book.book.change("xds eg", change(rules("a", "many")))
    assert (False, None) == (taken.changed, book.service.tree)
    taken = await book.book.change("xds eg", RuleChange())
    assert (True, {}) == (taken.changed, book.in_force())
    assert not (await book.book.change("xds eg", RuleChange())).changed


async def test_a_killed_process_rejects_nothing(book: Book) -> None:
    """A retry may succeed, so the control plane receives no rejection."""
    await book.load(rules("f", 1))
    taken = await book.book.change("xds eg", change(rules("a", 2))._replace(read=fake_readers.killed))
    assert (True, False, {"f": 1}) == (taken.again, taken.changed, book.in_force())


async def test_the_metric_reports_an_error_while_any_source_has_problems(book: Book) -> None:
    """A good load of one source does not hide the problems of another."""
    await book.book.change("xds eg", change(rules("a", "many")))
    await book.load(rules("f", 1))
    assert 1 == book.metric("rejected")
    book.book.blame("xds eg", [])
    assert 0 == book.metric("rejected")
    await book.load("{domain: f, x: 1}")
    book.book.blame("xds eg", [])
    assert (1, 1) == (book.metric("rejected"), len(book.book.problems))


async def test_simultaneous_changes_are_applied_one_after_another(book: Book) -> None:
    """No change is lost."""
    await asyncio.gather(
        book.load(rules("f", 1)),
        book.book.change("xds eg", change(rules("a", 2))),
        book.book.change("xds ai", change(rules("b", 3))),
    )
    assert {"f": 1, "a": 2, "b": 3} == book.in_force()


def test_combined_rules_keep_the_order_of_their_sources() -> None:
    """Also if the second source changes last."""
    one, other = DomainRules("d", (), source="1"), DomainRules("d", (), source="2")
    combined = CombinedRules({"a": {}, "b": {"d": other}}).with_("a", {"d": one})
    assert ((one,), {}, ["2"]) == (
        combined.domains,
        combined.hidden("a"),
        [problem.file for problem in combined.hidden("b").values()],
    )

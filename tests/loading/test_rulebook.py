"""Loading rules does not disturb calls: they are read elsewhere, change in one step, and leave no garbage."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path
from threading import get_ident
from typing import Any

import pytest
import structlog

from ratelimit_service.core import planner, prepared
from ratelimit_service.core.matching import tree as matcher
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import Descriptor, DescriptorRule, DomainRules, Entry, Limit, Request, Rule
from ratelimit_service.core.plan import Policy
from ratelimit_service.core.rules.loaded import Loaded
from ratelimit_service.loading import rulebook, slices
from ratelimit_service.loading.pieces import Assembly
from ratelimit_service.loading.process import read_elsewhere
from ratelimit_service.loading.rulebook import Rulebook, _Previous, _release
from ratelimit_service.loading.task import Task
from ratelimit_service.sources import files
from testing.waiting import until
from tests.limiter import MIDNIGHT
from tests.loading.blocking_file import HeldFile, children
from tests.loading.observed_rulebook import BROKEN, RULES, Book, Observed, Reader, made_service


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


@pytest.fixture
async def book(tmp_path: Path) -> Book:
    """Yield a Book with RULES in force."""
    made = Book(tmp_path / "rules.yaml")
    assert await made.load(RULES)
    made.observed.service = made.services[0]
    return made


def amounts(tree: RuleTree) -> list[int]:
    return [limit.amount for rule in tree.rules for limit in rule.limits]


async def is_read(held: HeldFile, others: set[int]) -> int:
    """Wait for a process that is not among `others` to read a file, and return it."""
    await until(held.is_being_read)
    (child,) = children(os.getpid()) - others
    return child


# The first load


async def test_the_first_load_has_normal_priority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be served before it. Later loads have low priority."""
    hurries = []

    async def watched(task: Task, *, hurry: bool) -> Loaded | None:
        hurries.append(hurry)
        return await read_elsewhere(task, hurry=hurry)

    monkeypatch.setattr(rulebook, "read_elsewhere", watched)
    book = Book(tmp_path / "rules.yaml")
    loads = [await book.load(text) for text in (BROKEN, RULES, RULES.replace("5", "6"))]
    assert ([False, True, True], [True, True, False]) == (loads, hurries)
    assert {get_ident()} == set(book.observed.threads)


# Without a process


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(subprocess, "Popen", refuse)


async def test_if_no_process_can_be_started_a_thread_reads_the_rules(
    book: Book, alone: None, logged: list[Any]
) -> None:
    """With one warning for each load. Observers may take their time there."""
    assert await book.load(RULES.replace("5", "6"))
    assert [6, 9] == amounts(book.tree)
    in_thread, on_loop = book.observed.threads[2:]
    assert (True, get_ident()) == (in_thread != on_loop, on_loop)
    assert 1 == len([line for line in logged if line["log_level"] == "warning"])


@pytest.mark.parametrize("text, loaded", [(RULES, True), (BROKEN, False)])
async def test_no_garbage_is_collected_while_rules_are_read(alone: None, text: str, loaded: bool) -> None:
    """The collector is on afterwards, even if the load fails."""
    reader = Reader(text)
    book = Rulebook([made_service()], reader.read, Observed(), merge_domains=False)
    assert loaded == await book.load()
    assert ([False], True) == (reader.collecting, gc.isenabled())


async def test_the_document_is_freed_without_the_collector(alone: None) -> None:
    """It is frozen with the rules, so a cycle in it would never be freed."""
    reader = Reader()
    gc.disable()
    await Rulebook([made_service()], reader.read, Observed(), merge_domains=False).load()
    assert [None] == [root() for root in reader.roots]


# Later loads


async def test_changed_rules_are_read_by_another_process(book: Book) -> None:
    """All services get the same rules. This process does nothing in a thread."""
    held, others = HeldFile(book.path), children(os.getpid())
    loading = asyncio.create_task(book.book.load())
    child = await is_read(held, others)
    before = amounts(book.tree)
    held.release(RULES.replace("5", "6"))
    assert await loading
    assert ([5, 9], [6, 9]) == (before, amounts(book.tree))
    assert book.services[0].tree is book.services[1].tree
    assert child != os.getpid()
    assert {get_ident()} == set(book.observed.threads[2:])
    assert others == children(os.getpid())


async def test_the_configured_rules_are_the_objects_in_force(book: Book) -> None:
    """After every load."""
    await book.load(RULES.replace("5", "6"))
    (domain,) = book.book.domains
    (rule,) = book.tree.rules
    assert rule is domain.descriptors[0].children[0].rule


async def test_rules_change_in_one_step(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls between two slices find all of the previous rules."""
    monkeypatch.setattr(slices, "SLICE", 0.0)
    before = book.tree
    more = "".join(
        f"      - {{key: model, value: b{number}, rate_limit: {{unit: hour, tokens_per_unit: 5}}}}\n"
        for number in range(29)
    )
    seen = set()
    loading = asyncio.create_task(book.load(RULES + more))
    while not loading.done():
        seen.add(book.tree)
        await asyncio.sleep(0)
    assert await loading
    assert {before, book.tree} == seen
    assert (30, [before] * 30) == (len(book.tree.rules), book.observed.in_force[1:])
    assert 2 == book.observed.replaced  # the previous rules, after the first load as well


async def test_calls_have_a_turn_after_every_limit_that_is_taken_over(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a table of limits, as of a rule. Here, each step takes as long as a slice."""
    number = 500
    table = "domain,descriptor,limit\n" + "".join(f"d,team=t{each},{each + 1}\n" for each in range(number))
    (book.path.parent / "limits.csv").write_text(table)
    both = partial(files.read, files.find_in([book.path, book.path.parent / "limits.csv"]))
    made = Rulebook(book.services, both, book.observed, merge_domains=False)
    monkeypatch.setattr(slices, "SLICE", 0.0)
    monkeypatch.setattr(slices, "BREATH", 0.0)
    steps, most = [0, 0], 0
    add = Assembly.add

    def counted(*arguments: Any, **options: Any) -> Generator[None, None, None]:
        for step in add(*arguments, **options):
            steps[0] += 1
            yield step

    monkeypatch.setattr(Assembly, "add", counted)
    loading = asyncio.create_task(made.load())
    while not loading.done():
        await asyncio.sleep(0)
        most = max(most, steps[0] - steps[1])
        steps[1] = steps[0]
    assert await loading
    assert number == sum(len(domain.limits) for domain in made.domains)
    assert (True, 1) == (steps[0] > number, most)


async def test_no_garbage_is_collected_while_rules_are_taken_over(book: Book) -> None:
    """The collector is on afterwards, even if the load fails."""
    book.observed.collecting.clear()
    seen = []
    for text in (RULES.replace("5", "6"), BROKEN):
        await book.load(text)
        seen.append(gc.isenabled())
    assert ([False], [True, True]) == (book.observed.collecting, seen)


def alive() -> dict[str, int]:
    """Return the number of objects that rules consist of, frozen or not."""
    gc.unfreeze()
    kinds = Counter(type(each) for each in gc.get_objects())
    return {
        kind.__name__: kinds[kind]
        for kind in (RuleTree, matcher.Domain, matcher.RuleNode, DomainRules, DescriptorRule, Rule, Limit)
    }


async def test_replaced_rules_are_freed_without_the_collector(book: Book) -> None:
    """They are frozen, so a cycle in them would never be freed."""
    book.observed.service = None  # would keep the previous rules alive
    gc.collect()
    gc.disable()
    before = alive()
    await book.load(RULES.replace("5", "6"))
    assert before == alive()


def test_replaced_rules_are_released_in_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rules one level has. Releasing them at once would block calls."""
    gone = 0

    class Node(matcher.RuleNode):
        __slots__ = ()

        def __del__(self) -> None:
            nonlocal gone
            gone += 1

    class Written(DescriptorRule):
        __slots__ = ()

        def __del__(self) -> None:
            nonlocal gone
            gone += 1

    class Prepared(prepared.PreparedRequest):
        __slots__ = ()

        def __del__(self) -> None:
            nonlocal gone
            gone += 1

    monkeypatch.setattr(matcher, "RuleNode", Node)
    inner = tuple([Written(b"model", b"%d" % number) for number in range(100)])
    source = DomainRules(
        "d", (*[Written(b"team", b"%d" % number) for number in range(100)], Written(b"team", children=inner))
    )
    tree = RuleTree([source])
    plans = planner.Planner(tree, Policy(), lambda: 0)
    monkeypatch.setattr(planner, "PreparedRequest", Prepared)
    for number in range(100):
        entries = (Entry(b"team", b"%d" % number),)
        plans.plan(Request("d", (Descriptor(entries),), key=b"%d" % number), MIDNIGHT)
    rules = [_Previous(tree, (source,), [plans])]
    del inner, source, tree, plans
    at_each_step = []
    for _ in _release(rules):
        at_each_step.append(gone)
        gone = 0
    assert (1, 2 * 201 + 1 + 100) == (max(at_each_step), sum(at_each_step) + gone)


# Failures


@pytest.mark.parametrize("text, problem", [(BROKEN, "rules.yaml:1"), ("", "the file is empty")])
async def test_a_change_that_cannot_be_loaded_changes_nothing(
    book: Book, text: str, problem: str, logged: list[Any]
) -> None:
    """Its problems are logged, and kept until a load succeeds."""
    assert not await book.load(text)
    assert problem in str(book.book.problems[0])
    assert (1, [5, 9]) == (book.observed.failures, amounts(book.tree))
    assert [str(each) for each in book.book.problems] == [
        line["problem"] for line in logged if line["event"] == "configuration refused"
    ]
    assert "the rules before" == logged[-1]["in_force"]
    assert await book.load(RULES.replace("5", "6"))
    assert ((), [6, 9]) == (book.book.problems, amounts(book.tree))


async def test_the_log_has_the_first_hundred_problems_of_a_load(book: Book, logged: list[Any]) -> None:
    """A template repeats a mistake thousands of times. The last line has their number."""
    wrong = "".join(f"  - {{key: k{place}, rate_limit: {{unit: fortnight}}}}\n" for place in range(150))
    assert not await book.load(f"domain: d\ndescriptors:\n{wrong}")
    problems = len(book.book.problems)
    refused = [line for line in logged if line["event"] == "configuration refused"]
    assert (True, 100, problems) == (problems >= 150, len(refused), logged[-1]["problems"])


async def test_a_killed_reader_changes_nothing_and_the_next_load_succeeds(book: Book) -> None:
    """As if killed by the kernel for lack of memory."""
    held, others = HeldFile(book.path), children(os.getpid())
    loading = asyncio.create_task(book.book.load())
    os.kill(await is_read(held, others), signal.SIGKILL)
    assert not await loading
    held.close()
    assert "SIGKILL" in str(book.book.problems[0])
    assert (1, [5, 9], True) == (book.observed.failures, amounts(book.tree), gc.isenabled())
    book.path.unlink()
    assert await book.load(RULES.replace("5", "6"))
    assert [6, 9] == amounts(book.tree)


async def test_a_stop_while_rules_are_read_leaves_no_process(book: Book) -> None:
    """The garbage collector is on afterwards."""
    held, others = HeldFile(book.path), children(os.getpid())
    loading = asyncio.create_task(book.book.load())
    await is_read(held, others)
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    held.close()
    assert (others, True) == (children(os.getpid()), gc.isenabled())

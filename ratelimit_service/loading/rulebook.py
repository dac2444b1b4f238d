"""Loads rules and puts them in force. A load that fails leaves the previous rules in force."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import structlog

from ..core.errors import InvalidRules, Problem
from ..core.holds.entries import DEFAULT_ENTRIES, HoldEntries
from ..core.matching.tree import Domain, RuleTree
from ..core.model import DomainRules
from ..core.planner import Planner
from ..core.rules.document import Contents, Read
from ..core.rules.loaded import Loaded
from ..ports import ChangeOutcome, RuleChange
from ..runtime import garbage
from ..runtime.threads import StuckError, Thread
from ..service import RateLimitService
from .combined import CombinedRules
from .pieces import Assembly
from .process import STALLED_AFTER, read_elsewhere
from .slices import Pace, at_once, in_slices
from .task import Task


class LoadObserver(Protocol):
    """Observes every load. Its generators run in slices or in a thread, in steps of some microseconds."""

    def config_read(self, tree: RuleTree) -> Generator[None, None, None]:
        """Prepare for rules that are about to come into force."""
        ...

    def config_loaded(self, tree: RuleTree, now: float) -> None:
        """Observe that rules came into force at `now`, in seconds since 1970."""
        ...

    def config_replaced(self) -> Generator[None, None, None]:
        """Release what is cached for the previous rules."""
        ...

    def config_failed(self) -> None:
        """Observe that a load failed. The rules in force stay."""
        ...

    def config_rejected(self, rejected: bool) -> None:
        """Observe whether any source has problems, although other rules may have come into force."""
        ...


FILES = "files"
"""The source that Rulebook.load reads."""


class _NewRules(NamedTuple):
    """The rules that were read, and the rules of all sources with their tree; None if these do not change."""

    rules: Loaded
    combined: CombinedRules | None
    tree: RuleTree


_Merge = Callable[[Loaded], CombinedRules | None]

_Source = Task | Sequence[bytes] | None
"""A task to do, the pieces of rules that were read already, or nothing."""


class Rulebook:
    """Reads the rules of all sources, and puts them in force for the services.

    Another process reads them. A thread would delay calls repeatedly; besides, the memory for reading is
    freed with the process. This process takes the new rules over in slices, replaces the old ones in one
    step, and releases these in slices. The first load does not pause, because nothing can be served before
    it. The garbage collector is off during a load (runtime/garbage.py).

    If two of the `sources` have the same domain, the first one takes precedence. `read` must be picklable.
    """

    def __init__(
        self,
        services: Sequence[RateLimitService],
        read: Read,
        observer: LoadObserver,
        *,
        merge_domains: bool,
        budget_domains: frozenset[str] = frozenset(),
        sources: Sequence[str] = (FILES,),
        hold_entries: HoldEntries = DEFAULT_ENTRIES,
    ) -> None:
        self._services = services
        several = len(sources) > 1
        self._task = Task(read, merge_domains, budget_domains, several=several, hold_entries=hold_entries)
        self._observer = observer
        self._log = structlog.get_logger(__name__)
        self._loading = asyncio.Lock()
        self._wrong: dict[str, Sequence[Problem]] = {}
        self.combined = CombinedRules({source: {} for source in sources})
        """The rules of each source."""
        self.loaded_at = 0.0
        """When the rules in force came into force, in seconds since 1970; 0 before the first are loaded."""
        self.again = False
        """Whether a retry of the last load may succeed without a change of the files."""
        self._thread = Thread("reading the rules")

    @property
    def problems(self) -> Sequence[Problem]:
        """The problems of the last load of the files."""
        return self._wrong.get(FILES, ())

    @property
    def digest(self) -> str:
        """The hash of the rules in force; empty before the first are loaded."""
        return self.combined.digest if self._tree is not None else ""

    @property
    def domains(self) -> Sequence[DomainRules]:
        """The rules in force, as in the configuration."""
        return self.combined.domains

    @property
    def _tree(self) -> RuleTree | None:
        """The rules in force, which all services share."""
        return self._services[0].tree

    async def load(self) -> bool:
        """Load the files once, and return whether this succeeded. Problems are logged, counted, and kept."""
        return await self._load(self._task, None)

    async def take(self, pieces: Sequence[bytes], agreed: Callable[[], Awaitable[None]]) -> bool:
        """Load what another process has read of the files, like `load`.

        The rules come into force when `agreed` returns, which is called once they are ready.
        """
        return await self._load(pieces, agreed)

    async def _load(self, source: _Source, agreed: Callable[[], Awaitable[None]] | None) -> bool:
        def merge(rules: Loaded) -> CombinedRules:
            return self.combined.with_(FILES, {domain.name: domain for domain in rules.domains})

        async with self._loading:
            try:
                new = await self._read(source, merge)
            except InvalidRules as error:
                self.again = error.again
                await self._failed(FILES, error.problems)
                return False
            self.again = False
            if agreed is not None:
                await agreed()
            self._wrong.pop(FILES, None)
            return await self._use(new)

    async def change(self, source: str, change: RuleChange) -> ChangeOutcome:
        """Put the changed domains of a source in force, except those with problems."""
        read = change.read or _nothing
        task = self._task._replace(read=read, files=change.files, apart=True)

        def merge(rules: Loaded) -> CombinedRules | None:
            previous = self.combined.of(source)
            found = {domain.name: domain for domain in rules.domains if domain.name in change.domains}
            gone = change.gone.intersection(previous)
            first = self._tree is None and not rules.problems
            if (change.whole and rules.problems) or not (found or gone or first):
                return None
            return self.combined.with_(
                source, {name: rules for name, rules in previous.items() if name not in gone} | found
            )

        async with self._loading:
            try:
                new = await self._read(task if change.read else None, merge)
            except InvalidRules as error:
                await self._failed(source, error.problems)
                return ChangeOutcome(problems=tuple(error.problems), again=error.again)
            changed = await self._use(new)
            if new.rules.problems:
                await self._failed(source, new.rules.problems, "the last good rules of these domains")
        accepted = {domain.name for domain in new.rules.domains} if changed else set()
        return ChangeOutcome(
            change.domains.intersection(accepted), tuple(new.rules.problems), changed=changed
        )

    def blame(self, source: str, problems: Sequence[Problem]) -> None:
        """Set the problems of a source that have changed without a load."""
        self._wrong[source] = problems
        self._observer.config_rejected(any(self._wrong.values()))

    async def _failed(
        self, source: str, problems: Sequence[Problem], in_force: str = "the rules before"
    ) -> None:
        self._wrong[source] = problems
        self._observer.config_failed()
        await in_slices(self._refuse(problems, in_force))

    async def _use(self, new: _NewRules) -> bool:
        """Log the warnings, and put the rules in force. Return whether the rules in force have changed."""
        await in_slices(self._warn(new.rules.warnings))
        if new.combined is None:
            return False
        tree, previous = new.tree, self.combined
        released = [
            _Previous(
                self._tree,
                previous.domains,
                [service.use(tree) for service in self._services],
                frozenset(map(id, new.combined.domains)),
            ),
        ]
        self.combined = new.combined
        del previous, new
        self.loaded_at = time.time()
        self._observer.config_loaded(tree, self.loaded_at)
        if any(self._wrong.values()):
            self._observer.config_rejected(True)
        limits = sum(len(domain.limits) for domain in self.domains)
        more = {"limits": limits} if limits else {}
        self._log.info("configuration loaded", domains=len(tree.domains), rules=len(tree.rules), **more)
        await in_slices(self._observer.config_replaced())
        await in_slices(_release(released))
        return True

    async def _read(self, source: _Source, merge: _Merge) -> _NewRules:
        """Read rules, and compile the rules of all sources. Raises InvalidRules."""
        try:
            with garbage.paused_for_loading():
                return await self._new_rules(source, merge)
        except InvalidRules:
            raise
        except Exception as error:  # no file descriptors, threads or memory, or a bug
            # Not `report`, which counts failures of tasks: this one is handled, and counted as a failed load
            # of rules.
            self._log.error("the rules cannot be loaded", exc_info=error)
            text = f"could not be loaded: {type(error).__name__}: {error}. A retry follows soon"
            raise InvalidRules([Problem("configuration", 0, "", text)], again=True) from None

    async def _new_rules(self, source: _Source, merge: _Merge) -> _NewRules:
        hurry = self._tree is None
        pace = Pace(0) if hurry else Pace()
        rules: Loaded | None
        if source is None:
            rules = Loaded((), ())
        elif isinstance(source, Task):
            rules = await read_elsewhere(source, hurry=hurry)
        else:
            rules = await _assembled(source, pace)
        if rules is None:
            assert isinstance(source, Task)
            try:
                return await self._thread.do(partial(self._new_rules_here, source, merge), STALLED_AFTER)
            except StuckError as error:
                problem = Problem(error.doing, 0, "", f"could not be read: {error}. A retry follows soon")
                raise InvalidRules([problem], again=True) from None
        combined = merge(rules)
        if combined is None:
            return _NewRules(rules, None, _NO_RULES)
        tree = await in_slices(RuleTree.in_steps(combined.domains, self._compiled(combined)), pace)
        await in_slices(self._observer.config_read(tree), pace)
        return _NewRules(rules, combined, tree)

    def _new_rules_here(self, task: Task, merge: _Merge) -> _NewRules:
        rules = task.rules()
        combined = merge(rules)
        if combined is None:
            return _NewRules(rules, None, _NO_RULES)
        tree = RuleTree(combined.domains)
        at_once(self._observer.config_read(tree))
        return _NewRules(rules, combined, tree)

    def _compiled(self, combined: CombinedRules) -> dict[str, Domain]:
        """Return the compiled domains that stay in force unchanged."""
        tree = self._tree
        if tree is None:
            return {}
        same = set(map(id, combined.domains)).intersection(map(id, self.combined.domains))
        return {each.name: tree.domains[each.name] for each in combined.domains if id(each) in same}

    def _warn(self, warnings: Sequence[Problem]) -> Generator[None, None, None]:
        for warning in warnings[:_MOST_LOGGED]:
            self._log.warning("configuration", problem=str(warning))
            yield
        if len(warnings) > _MOST_LOGGED:
            self._log.warning("the configuration has more warnings", warnings=len(warnings) - _MOST_LOGGED)

    def _refuse(self, problems: Sequence[Problem], in_force: str) -> Generator[None, None, None]:
        for problem in problems[:_MOST_LOGGED]:
            self._log.error("configuration refused", problem=str(problem))
            yield
        self._log.error(
            "the configuration was not loaded",
            problems=len(problems),
            in_force=in_force if self._tree else "none",
        )


_MOST_LOGGED = 100
"""The most problems of one load, and the most warnings, that have a line in the log: a template may repeat a
mistake ten thousand times. `check-config` and /rlconfig have all problems.
"""

_NO_RULES = RuleTree()


async def _assembled(pieces: Sequence[bytes], pace: Pace) -> Loaded:
    """Return the rules in these pieces. Raises InvalidRules."""
    rules = Assembly()
    for piece in pieces:
        for _ in rules.add(piece):
            if pace.over:
                await pace.breathe()
    return rules.result()


def _nothing() -> Contents:
    return Contents()


class _Previous(NamedTuple):
    """The previous rules and their planners. `kept` has the ids of the domains that are still in force."""

    tree: RuleTree | None
    domains: Sequence[DomainRules]
    planners: Sequence[Planner] = ()
    kept: frozenset[int] = frozenset()


def _release(rules: list[_Previous]) -> Generator[None, None, None]:
    """Release the rules in this list, to which there are no other references, in small steps.

    Clearing the list alone would free everything in one call of many milliseconds. So a queue refers to each
    object first. Parents are released before their children, so that no single release frees a whole tree.
    """
    queue: deque[object] = deque()
    for each in _objects_of(rules[0]):
        queue.append(each)
        yield
    rules.clear()
    while queue:
        queue.popleft()
        yield


def _objects_of(rules: _Previous) -> Iterator[object]:
    for planner in rules.planners:
        yield planner
        yield from planner.cached
    released = [source for source in rules.domains if id(source) not in rules.kept]
    compiled = rules.tree.domains if rules.tree else {}
    for domain in [compiled[source.name] for source in released if source.name in compiled]:
        yield domain
        yield from domain.nodes()
    for source in released:
        yield source
        yield from source.limits
        pending = list(source.descriptors)
        while pending:
            descriptor = pending.pop()
            yield descriptor
            pending += descriptor.children
            if descriptor.rule is not None:
                yield descriptor.rule

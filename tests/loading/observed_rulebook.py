"""A rulebook whose loads are observed, for tests of loading."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Generator
from functools import partial
from pathlib import Path
from threading import get_ident

from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.rules.document import Contents, MappingNode
from ratelimit_service.loading.rulebook import Rulebook
from ratelimit_service.service import RateLimitService
from ratelimit_service.sources import files
from ratelimit_service.sources.yaml_text import read
from ratelimit_service.stores.memory import MemoryStore
from tests.limiter import MIDNIGHT, NoObserver

RULES = """
domain: d
descriptors:
  - key: team
    descriptors:
      - key: model
        value: "a*"
        rate_limits: [{unit: hour, tokens_per_unit: 5}, {unit: day, tokens_per_unit: 9}]
"""
BROKEN = "{domain: d, x: 1}"


class Root(MappingNode):
    """The root of a document, which can be referenced weakly."""


class Reader:
    """A source that this process reads."""

    def __init__(self, text: str = RULES) -> None:
        self.text = text
        self.collecting: list[bool] = []
        self.roots: list[weakref.ref[Root]] = []

    def read(self) -> Contents:
        self.collecting.append(gc.isenabled())
        document = read("rules.yaml", self.text)
        assert isinstance(document.root, MappingNode)
        root = Root(document.root.line, document.root.items)
        self.roots.append(weakref.ref(root))
        document.root = root
        return Contents([document])


class Observed:
    """An observer of loads: their threads, and whether the garbage collector was on."""

    def __init__(self) -> None:
        self.threads: list[int] = []
        self.collecting: list[bool] = []
        self.steps = 0
        self.failures = self.replaced = 0
        self.rejected = False
        self.in_force: list[RuleTree | None] = []
        self.service: RateLimitService | None = None

    def config_read(self, tree: RuleTree) -> Generator[None, None, None]:
        self.threads.append(get_ident())
        for _ in tree.rules:
            self.collecting.append(gc.isenabled())
            self.in_force.append(self.service.tree if self.service else None)
            self.steps += 1
            yield

    def config_loaded(self, tree: RuleTree, now: float) -> None:
        self.threads.append(get_ident())

    def config_replaced(self) -> Generator[None, None, None]:
        self.replaced += 1
        yield

    def config_failed(self) -> None:
        self.failures += 1

    def config_rejected(self, rejected: bool) -> None:
        self.rejected = rejected


def made_service() -> RateLimitService:
    return RateLimitService(MemoryStore(lambda: MIDNIGHT), NoObserver(), lambda: MIDNIGHT)


class Book:
    """A Rulebook with one file, which has been loaded once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.observed = Observed()
        self.services = [made_service(), made_service()]
        self.book = Rulebook(
            self.services, partial(files.read, files.find_in([path])), self.observed, merge_domains=False
        )

    @property
    def tree(self) -> RuleTree:
        tree = self.services[0].tree
        assert tree is not None
        return tree

    async def load(self, text: str) -> bool:
        self.path.write_text(text)
        return await self.book.load()

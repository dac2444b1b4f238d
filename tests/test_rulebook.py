"""Loading rules leaves callers alone: no garbage collection while they are made, and none needed to be rid of them."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from threading import get_ident

import pytest

from ratelimit_service.core.document import Document, Mapping
from ratelimit_service.core.errors import Problem
from ratelimit_service.core.matcher import RuleTree
from ratelimit_service.rulebook import Rulebook
from ratelimit_service.service import RateLimitService
from ratelimit_service.sources.yaml_text import read
from ratelimit_service.stores.memory import MemoryStore
from tests.limiter import MIDNIGHT, Unobserved

RULES = """
domain: d
descriptors:
  - key: team
    descriptors:
      - {key: model, value: "a*", rate_limits: [{unit: hour, tokens_per_unit: 5}, {unit: day, tokens_per_unit: 9}]}
"""


class Root(Mapping):
    """The top of a document, such that it can be told whether it is still there."""


class Reader:
    """Where the rules come from, and who is told of them."""

    def __init__(self, text: str = RULES) -> None:
        self.text = text
        self.collecting: list[bool] = []
        self.threads: set[int] = set()
        self.roots: list[weakref.ref[Root]] = []

    def read(self) -> tuple[Sequence[Document], Sequence[Problem]]:
        self.collecting.append(gc.isenabled())
        document = read("rules.yaml", self.text)
        assert isinstance(document.root, Mapping)
        root = Root(document.root.line, document.root.items)
        self.roots.append(weakref.ref(root))
        document.root = root
        return [document], []

    def config_read(self, tree: RuleTree) -> None:
        self.threads.add(get_ident())

    def config_loaded(self, tree: RuleTree, now: float) -> None:
        self.threads.add(get_ident())

    def config_failed(self) -> None:
        pass


def rulebook(reader: Reader) -> tuple[Rulebook, RateLimitService]:
    service = RateLimitService(MemoryStore(lambda: MIDNIGHT), Unobserved(), lambda: MIDNIGHT)
    return Rulebook(service, reader.read, reader, merge_domains=False), service


@pytest.mark.parametrize("text, loaded", [(RULES, True), ("{domain: d, x: 1}", False)])
async def test_no_garbage_is_collected_while_rules_are_made(text: str, loaded: bool) -> None:
    """And it is afterwards, whether or not they could be."""
    reader = Reader(text)
    book, _ = rulebook(reader)
    try:
        assert loaded == await book.load()
        assert ([False], True) == (reader.collecting, gc.isenabled())
    finally:
        gc.unfreeze()


async def test_rules_that_are_replaced_go_without_being_collected() -> None:
    """They are frozen when they come into force, so a cycle in them would stay for ever; and so would their text."""
    reader = Reader()
    book, service = rulebook(reader)
    try:
        await book.load()
        before = weakref.ref(service.tree)
        gc.disable()
        reader.text = RULES.replace("5", "6")
        await book.load()
        assert [None, None] == [before(), reader.roots[0]()]
    finally:
        gc.enable()
        gc.unfreeze()


async def test_who_is_told_of_new_rules_may_take_time_for_them() -> None:
    """In the thread that has read them; what is told on the event loop is only that they are in force."""
    reader = Reader()
    book, _ = rulebook(reader)
    try:
        await book.load()
        assert 2 == len(reader.threads)
    finally:
        gc.unfreeze()

"""Rules as bytes for a pipe: taken apart into small pieces, and put together again a little at a time.

A piece is a few pickles, one behind the other. Each is `(thing, parts)`: a descriptor, a domain, a problem or the end, and how
many of the things before it belong into it. So whoever reads them needs a stack and nothing else, holds no more than the
rules themselves, and can pause between any two; to unpickle everything in one call would take a tenth of a second.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from itertools import chain
from typing import Any, NamedTuple

from ..core.errors import InvalidRules, Problem
from ..core.model import Calendar, DescriptorRule, DomainRules, Limit, Rule, StatKey, Unit, Window
from ..core.rules.reader import Loaded

LENGTH = 4
"""Bytes that stand before a message on a pipe: its length, the highest byte first."""

_LONG_ENOUGH = 4096
"""Bytes after which a piece ends, which is some thirty rules. Within one, what is the same is sent once."""


class End(NamedTuple):
    """Behind everything else: how many things before it are warnings, and before those, problems. The others are domains.

    `again` is InvalidRules.again. Where the domains hold in spite of the problems (Loaded.problems), `hold` says so.
    """

    problems: int
    warnings: int
    again: bool = False
    hold: bool = False


class Nonsense(ValueError):
    """What was read is not what was taken apart."""


_DATACLASSES = (Rule, DescriptorRule, DomainRules, Limit)
_FIELDS = {each: tuple([field.name for field in fields(each) if field.init]) for each in _DATACLASSES}
_KNOWN = {
    (each.__module__, each.__qualname__): each
    for each in (*_DATACLASSES, StatKey, Window, Calendar, Unit, Problem, End)
}


class _Pickler(pickle.Pickler):
    """Has dataclasses made by their own `__init__`, which takes half as long as what they say of themselves."""

    def reducer_override(self, obj: Any) -> Any:
        """See pickle.Pickler."""
        kind = type(obj)
        if kind is Unit:
            return kind, (obj.value,)
        names = _FIELDS.get(kind)
        return NotImplemented if names is None else (kind, tuple([getattr(obj, name) for name in names]))


class _Unpickler(pickle.Unpickler):
    """Makes what rules are made of, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """See pickle.Unpickler."""
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise Nonsense(f"{module}.{name} is no part of a rule") from None


def framed(message: bytes) -> bytes:
    """A message as it goes through a pipe, with its length before it."""
    return len(message).to_bytes(LENGTH, "big") + message


def loaded(rules: Loaded) -> Iterator[bytes]:
    """The pieces of rules that were loaded."""
    yield from _pieces(chain(_apart(rules.domains), _listed(rules.problems, rules.warnings, hold=True)))


def refused(error: InvalidRules) -> Iterator[bytes]:
    """The pieces of rules that cannot be loaded."""
    yield from _pieces(_listed(error.problems, error.warnings, again=error.again))


def _pieces(things: Iterable[tuple[object, int]]) -> Iterator[bytes]:
    piece = io.BytesIO()
    pickler = _Pickler(piece, pickle.HIGHEST_PROTOCOL)
    for thing in things:
        pickler.dump(thing)
        if piece.tell() >= _LONG_ENOUGH:
            yield piece.getvalue()
            piece = io.BytesIO()
            pickler = _Pickler(piece, pickle.HIGHEST_PROTOCOL)
    if piece.tell():
        yield piece.getvalue()


def _listed(
    problems: Sequence[Problem], warnings: Sequence[Problem], *, again: bool = False, hold: bool = False
) -> Iterator[tuple[object, int]]:
    for problem in (*problems, *warnings):
        yield problem, 0
    yield End(len(problems), len(warnings), again, hold), 0


def _apart(domains: Iterable[DomainRules]) -> Iterator[tuple[object, int]]:
    for domain in domains:
        yield from _below(domain.descriptors)
        yield replace(domain, descriptors=()), len(domain.descriptors)


def _below(descriptors: Iterable[DescriptorRule]) -> Iterator[tuple[object, int]]:
    for descriptor in descriptors:
        yield from _below(descriptor.children)
        yield (
            replace(descriptor, children=()) if descriptor.children else descriptor,
            len(descriptor.children),
        )


class Assembly:
    """Puts together what was taken apart."""

    def __init__(self) -> None:
        self._things: list[Any] = []
        self._end: End | None = None

    @property
    def complete(self) -> bool:
        """Whether the end was read."""
        return self._end is not None

    def add(self, piece: bytes) -> Generator[None, None, None]:
        """Take the things of a piece, each in a step. Raises Nonsense."""
        source = io.BytesIO(piece)
        unpickler = _Unpickler(source)
        while source.tell() < len(piece):
            try:
                thing, parts = unpickler.load()
                self._take(thing, parts)
            except Exception as error:  # damaged, a pickle raises anything
                raise Nonsense(f"{type(error).__name__}: {error}") from error
            yield

    def _take(self, thing: Any, parts: int) -> None:
        things = self._things
        if parts:
            within = tuple(things[-parts:])
            del things[-parts:]
            if isinstance(thing, DomainRules):
                thing = replace(thing, descriptors=within)
            else:
                thing = replace(thing, children=within)
        if isinstance(thing, End):
            self._end = thing
        else:
            things.append(thing)

    def result(self) -> Loaded:
        """The rules. Raises InvalidRules where they could not be loaded, Nonsense where there is something else."""
        if self._end is None:
            raise Nonsense("there is no end")
        things, (wrong, noticed, again, hold) = self._things, self._end
        warnings = tuple(things[len(things) - noticed :])
        problems = tuple(things[len(things) - noticed - wrong : len(things) - noticed])
        domains = tuple(things[: len(things) - noticed - wrong])
        if any([not isinstance(each, Problem) for each in (*problems, *warnings)]):
            raise Nonsense("a problem is none")
        if problems and not hold:
            raise InvalidRules(problems, warnings, again=again)
        if any([not isinstance(each, DomainRules) for each in domains]):
            raise Nonsense("a domain is none")
        return Loaded(domains, warnings, problems)

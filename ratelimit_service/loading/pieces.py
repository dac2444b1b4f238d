"""Rules as bytes for a pipe, in small pieces that can be read in slices.

A piece is a sequence of pickles. Each of them is `(item, children)`: a descriptor, a domain, a problem or the
End, and the number of preceding items that are its children. So a stack is enough to read them, no memory is
needed beside the rules, and the reader can pause after any item. Unpickling all rules in one call would take
a tenth of a second.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from itertools import chain
from typing import Any, NamedTuple, Protocol, TypeVar

from ..core.amendments.model import Amendment, Kind
from ..core.amendments.target import Target, TargetEntry
from ..core.errors import InvalidRules, Problem
from ..core.holds.rule import HoldRule
from ..core.ledger.rule import LedgerRule, Price
from ..core.model import Calendar, DescriptorRule, DomainRules, Limit, Rule, StatKey, Unit, Window
from ..core.rules.loaded import Loaded

LENGTH = 4
"""The bytes of the length before each message, in big-endian order."""

_LONG_ENOUGH = 4096
"""The bytes after which a piece ends: about thirty rules. Within a piece, pickle sends equal objects once."""


class End(NamedTuple):
    """The last item: the number of warnings before it, and of problems before these. The rest are domains.

    `again` is InvalidRules.again. With `hold`, the problems are Loaded.problems, and the domains are valid.
    """

    problems: int
    warnings: int
    again: bool = False
    hold: bool = False


class InvalidPieces(ValueError):
    """The bytes are not pieces of rules."""


_DATACLASSES = (Rule, DescriptorRule, DomainRules, Limit)
_FIELDS = {each: tuple([field.name for field in fields(each) if field.init]) for each in _DATACLASSES}
_KNOWN = {
    (each.__module__, each.__qualname__): each
    for each in (
        *_DATACLASSES,
        *(StatKey, Window, Calendar, Unit, HoldRule, LedgerRule, Price, Problem, End),
        *(Amendment, Kind, Target, TargetEntry),
    )
}


class _Pickler(pickle.Pickler):
    """Pickles dataclasses as calls of their class, which takes half as long as their own `__reduce__`."""

    def reducer_override(self, obj: Any) -> Any:
        """See pickle.Pickler."""
        kind = type(obj)
        if kind is Unit or kind is Kind:
            return kind, (obj.value,)
        names = _FIELDS.get(kind)
        return NotImplemented if names is None else (kind, tuple([getattr(obj, name) for name in names]))


class _Unpickler(pickle.Unpickler):
    """Unpickles only the classes that rules consist of."""

    def find_class(self, module: str, name: str) -> Any:
        """See pickle.Unpickler."""
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise InvalidPieces(f"{module}.{name} is not a class of rules") from None


def framed(message: bytes) -> bytes:
    """Return a message with its length before it."""
    return len(message).to_bytes(LENGTH, "big") + message


def pieces_of_rules(rules: Loaded) -> Iterator[bytes]:
    """Yield the pieces of loaded rules."""
    yield from _pieces(chain(_flattened(rules.domains), _with_end(rules.problems, rules.warnings, hold=True)))


def pieces_of_problems(error: InvalidRules) -> Iterator[bytes]:
    """Yield the pieces of rules that cannot be loaded."""
    yield from _pieces(_with_end(error.problems, error.warnings, again=error.again))


def _pieces(items: Iterable[tuple[object, int]]) -> Iterator[bytes]:
    piece = io.BytesIO()
    pickler = _Pickler(piece, pickle.HIGHEST_PROTOCOL)
    for item in items:
        pickler.dump(item)
        if piece.tell() >= _LONG_ENOUGH:
            yield piece.getvalue()
            piece = io.BytesIO()
            pickler = _Pickler(piece, pickle.HIGHEST_PROTOCOL)
    if piece.tell():
        yield piece.getvalue()


def _with_end(
    problems: Sequence[Problem], warnings: Sequence[Problem], *, again: bool = False, hold: bool = False
) -> Iterator[tuple[object, int]]:
    for problem in (*problems, *warnings):
        yield problem, 0
    yield End(len(problems), len(warnings), again, hold), 0


def _flattened(domains: Iterable[DomainRules]) -> Iterator[tuple[object, int]]:
    for domain in domains:
        yield from _flattened_descriptors(domain.descriptors)
        for limit in domain.limits:
            yield limit, 0
        yield replace(domain, descriptors=(), limits=()), len(domain.descriptors) + len(domain.limits)


def _flattened_descriptors(descriptors: Iterable[DescriptorRule]) -> Iterator[tuple[object, int]]:
    for descriptor in descriptors:
        yield from _flattened_descriptors(descriptor.children)
        yield (
            replace(descriptor, children=()) if descriptor.children else descriptor,
            len(descriptor.children),
        )


def end_of(piece: bytes) -> End:
    """Return the End in the last piece. Raises InvalidPieces."""
    rules = Assembly()
    for _ in rules.add(piece, whole=False):
        pass
    return rules.end


T_co = TypeVar("T_co", covariant=True)


class Collector(Protocol[T_co]):
    """What is made of pieces, as they arrive."""

    @property
    def complete(self) -> bool:
        """Return whether the last piece was added."""
        ...

    def add(self, piece: bytes) -> Generator[None, None, None]:
        """Add a piece, in small steps."""
        ...

    def result(self) -> T_co:
        """Return what was made."""
        ...


class Copy:
    """Keeps the pieces as they are, for other processes."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.complete = False

    def add(self, piece: bytes) -> Generator[None, None, None]:
        """Add a piece; an empty one stands before the first and behind the last."""
        if piece:
            self._pieces.append(piece)
        elif self._pieces:
            self.complete = True
        yield

    def result(self) -> tuple[bytes, ...]:
        """Return the pieces."""
        return tuple(self._pieces)


class Assembly:
    """Assembles rules from their pieces."""

    def __init__(self) -> None:
        self._items: list[Any] = []
        self._end: End | None = None

    @property
    def complete(self) -> bool:
        """Return whether the End was read."""
        return self._end is not None

    @property
    def end(self) -> End:
        """Return the End. Raises InvalidPieces if there is none."""
        if self._end is None:
            raise InvalidPieces("there is no end")
        return self._end

    def add(self, piece: bytes, *, whole: bool = True) -> Generator[None, None, None]:
        """Add the items of a piece, one at each step. Raises InvalidPieces.

        Unless `whole`, pieces before this one are missing, and only the End is added.
        """
        source = io.BytesIO(piece)
        unpickler = _Unpickler(source)
        while source.tell() < len(piece):
            try:
                item, children = unpickler.load()
                if whole or isinstance(item, End):
                    self._add(item, children)
            except Exception as error:  # a damaged pickle may raise any exception
                raise InvalidPieces(f"{type(error).__name__}: {error}") from error
            yield

    def _add(self, item: Any, number: int) -> None:
        items = self._items
        if number:
            children = tuple(items[-number:])
            del items[-number:]
            if isinstance(item, DomainRules):
                limits = tuple([child for child in children if isinstance(child, Amendment)])
                item = replace(item, descriptors=children[: len(children) - len(limits)], limits=limits)
            else:
                item = replace(item, children=children)
        if isinstance(item, End):
            self._end = item
        else:
            items.append(item)

    def result(self) -> Loaded:
        """Return the rules. Raises InvalidRules if they could not be loaded, or InvalidPieces."""
        items, end = self._items, self.end
        first_warning = len(items) - end.warnings
        first_problem = first_warning - end.problems
        domains, problems = tuple(items[:first_problem]), tuple(items[first_problem:first_warning])
        warnings = tuple(items[first_warning:])
        if any([not isinstance(each, Problem) for each in (*problems, *warnings)]):
            raise InvalidPieces("an item is not a problem")
        if problems and not end.hold:
            raise InvalidRules(problems, warnings, again=end.again)
        if any([not isinstance(each, DomainRules) for each in domains]):
            raise InvalidPieces("an item is not a domain")
        return Loaded(domains, warnings, problems)

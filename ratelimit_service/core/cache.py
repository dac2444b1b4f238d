"""A bounded cache of recently used values, weighed by the memory that they take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")

MIB = 2**20


class Generations:
    """What BoundedCache does. This class has fields of C where it is compiled, so it cannot be generic."""

    __slots__ = ("_before", "_evicted", "_heaviest", "_most", "_now", "_weigh", "_weight", "newest")

    def __init__(self, most: int, weigh: Callable[[Any, Any], int]) -> None:
        self._most = most
        self._heaviest = most // 8
        self._weigh = weigh
        self._weight = 0
        self._now: dict[Any, Any] = {}
        self._before: dict[Any, Any] = {}
        self._evicted: dict[Any, Any] = {}
        self.newest: Callable[[Any], Any] = self._now.get
        """Look up a key in the younger generation, in one call of C. `get` finds those of both."""

    def __len__(self) -> int:
        return len(self._now) + len(self._before) + len(self._evicted)

    def get(self, key: Any) -> Any:
        """Return the value of `key`, or None."""
        value = self._now.get(key)
        return self.older(key) if value is None else value

    def older(self, key: Any) -> Any:
        """Return the value of a key that `newest` has not found, or None."""
        value = self._before.pop(key, None) if self._before else None
        if value is not None:
            self.put(key, value)
        return value

    def values(self) -> Iterator[Any]:
        """Yield every value once."""
        yield from self._now.values()
        yield from self._before.values()
        yield from self._evicted.values()

    def put(self, key: Any, value: Any, weight: int = 0) -> None:
        """Store `value`. Its `weight` is computed unless the caller gives it."""
        weight = weight or self._weigh(key, value)
        if weight > self._heaviest:
            return
        replaced = self._now.get(key)
        if replaced is not None:
            self._weight -= self._weigh(key, replaced)
        self._weight += weight
        if self._weight > self._most:
            # `newest` is bound to this dictionary, so the values move and the dictionary stays.
            self._evicted, self._before = self._before, self._now.copy()
            self._now.clear()
            self._weight = weight
        self._now[key] = value
        # Released together, thousands of values would stop the event loop for milliseconds.
        evicted = self._evicted
        if evicted:
            evicted.popitem()
            if evicted:
                evicted.popitem()


class BoundedCache(Generations, Generic[Key, Value]):
    """A dictionary of the recently used values, in two generations of at most `most` bytes each.

    A flood of new keys evicts unused values, and keeps those in use. `weigh` returns the bytes of memory of a
    key and its value. It runs when a value is stored, not when one is looked up. A value that weighs more
    than an eighth of `most` is not stored.
    """

    __slots__ = ()

    if TYPE_CHECKING:
        newest: Callable[[Key], Value | None]

        def __init__(self, most: int, weigh: Callable[[Key, Value], int]) -> None: ...
        def get(self, key: Key) -> Value | None:
            """See Generations."""

        def older(self, key: Key) -> Value | None:
            """See Generations."""

        def values(self) -> Iterator[Value]:
            """See Generations."""

        def put(self, key: Key, value: Value, weight: int = 0) -> None:
            """See Generations."""

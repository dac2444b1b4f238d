"""`@record`: a class of a few fields that is made for every request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def record(cls: type[T]) -> type[T]:
    """Make `cls` a dataclass with slots that mypy treats as frozen.

    At run time its fields can be set: a frozen dataclass sets each field through object.__setattr__, and
    takes three times as long to make. A field of a record is read faster than one of a NamedTuple.
    """
    return dataclass(slots=True)(cls)

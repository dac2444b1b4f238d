"""The settings that bound requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from .field import setting
from .types import whole_number

BOUNDS = "Bounds"


@dataclass(frozen=True, kw_only=True)
class BoundsSettings:
    """The fields of `table.Settings` that bound requests; docs/bounds.md lists every bound."""

    memory_store_size_in_bytes: Annotated[int, whole_number(0, 2**53)] = setting(
        BOUNDS,
        "67108864",
        "Memory for the counters of the memory store, about 210 bytes each. When it is full, new buckets "
        "get the answer of STORE_FAILURE_MODE. Ours.",
    )
    request_max_descriptors: Annotated[int, whole_number(1)] = setting(
        BOUNDS, "100", "The most descriptors of a request; more are refused with INVALID_ARGUMENT. Ours."
    )
    request_max_entries: Annotated[int, whole_number(1)] = setting(
        BOUNDS, "1000", "The most entries of all descriptors of a request; more are refused likewise. Ours."
    )

"""The settings of what one request, and all of them together, may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from .field import setting
from .types import whole_number

BOUNDS = "Bounds"


@dataclass(frozen=True, kw_only=True)
class BoundsSettings:
    """The part of `settings.Settings` that bounds requests; docs/bounds.md has every bound."""

    memory_store_size_in_bytes: Annotated[int, whole_number(0, 2**53)] = setting(
        BOUNDS,
        "134217728",
        "Memory for the counters of the memory store, some 210 bytes each; beyond it, new buckets get the answer of "
        "STORE_FAILURE_MODE. Ours.",
    )
    request_max_descriptors: Annotated[int, whole_number(1)] = setting(
        BOUNDS, "100", "Descriptors that a request may have; more are refused with INVALID_ARGUMENT. Ours."
    )
    request_max_entries: Annotated[int, whole_number(1)] = setting(
        BOUNDS, "1000", "Entries that all descriptors of a request may have together; likewise. Ours."
    )

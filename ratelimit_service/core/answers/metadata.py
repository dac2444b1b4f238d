"""The dynamic metadata of an answer: the request, and the metadata of its rules (RESPONSE_DYNAMIC_METADATA).

Envoy adds it to the metadata of the HTTP request, for later filters, access logs and load balancers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..model import OVER_LIMIT, STATUS_CODE, Descriptor, StatusValues, Unit
from ..plan import Plan
from ..text import excerpt, shorten

_LONGEST, _MOST_SHOWN = 4_096, 131_072
"""The bytes of a key or value that are shown, and of all keys and values.

Without this bound, a request of 4 MB could have an answer of 16 MB. gRPC clients accept 4 MiB.
"""


def dynamic_metadata(plan: Plan, statuses: Sequence[StatusValues]) -> dict[str, Any]:
    """Return `{domain, descriptors: [{entries, limit, hitsAddend}], hitsAddend, metadata}`.

    `metadata` is that of the rules whose descriptors passed, merged. All of it fits a protobuf Struct.
    """
    request = plan.request
    entries = sum([len(descriptor.entries) for descriptor in request.descriptors])
    longest = min(_LONGEST, _MOST_SHOWN // max(1, 2 * entries))
    metadata: dict[str, Any] = {
        "domain": shorten(request.domain, _LONGEST),
        "descriptors": [_descriptor(descriptor, longest) for descriptor in request.descriptors],
    }
    if request.hits_addend:
        metadata["hitsAddend"] = request.hits_addend
    merged: dict[str, Any] = {}
    for planned, status in zip(plan.descriptors, statuses, strict=True):
        rule = planned.rule
        if status[STATUS_CODE] is not OVER_LIMIT and rule is not None and rule.metadata:
            merged = _merge(merged, rule.metadata)
    if merged:
        metadata["metadata"] = merged
    return metadata


def _descriptor(descriptor: Descriptor, longest: int) -> dict[str, Any]:
    entries = [f"{excerpt(key, longest)}={excerpt(value, longest)}" for key, value in descriptor.entries]
    found: dict[str, Any] = {"entries": entries}
    if descriptor.override is not None:
        amount, unit, multiplier = descriptor.override
        fields = [f"requests_per_unit:{amount}"] if amount else []
        fields.append(f"unit:{Unit(unit).name}" if unit in Unit._value2member_map_ else f"unit:{unit}")
        if multiplier > 1:
            fields.append(f"unit_multiplier:{{value:{multiplier}}}")
        found["limit"] = " ".join(fields)
    if descriptor.hits_addend is not None:
        found["hitsAddend"] = descriptor.hits_addend
    return found


def _merge(into: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return both in a new mapping. For a key in both, mappings are merged; otherwise `into` wins."""
    merged = dict(into)
    for key, value in more.items():
        mine = merged.get(key)
        if key not in merged:
            merged[key] = value
        elif isinstance(mine, Mapping) and isinstance(value, Mapping):
            merged[key] = _merge(mine, value)
    return merged

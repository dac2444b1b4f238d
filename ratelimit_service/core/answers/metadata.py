"""The dynamic metadata of an answer (RESPONSE_DYNAMIC_METADATA): what was asked, and what the rules that passed carry.

Envoy puts it into the request's metadata, where later filters, access logs and load balancers read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..model import Code, Descriptor, StatusValues, Unit
from ..planning import Plan
from ..text import excerpt, shorten

_LONGEST, _MOST_SHOWN = 4_096, 131_072
"""Bytes of a key or value that are shown, and of all of them together. In full, a request of 4 MB would have an answer of 16 MB,
which no gateway takes: gRPC reads 4 MiB."""


def dynamic_metadata(plan: Plan, told: Sequence[StatusValues]) -> dict[str, Any]:
    """`{domain, descriptors: [{entries, limit, hitsAddend}], hitsAddend, metadata}`; fit for a protobuf Struct."""
    request = plan.request
    entries = sum([len(descriptor.entries) for descriptor in request.descriptors])
    longest = min(_LONGEST, _MOST_SHOWN // max(1, 2 * entries))
    metadata: dict[str, Any] = {
        "domain": shorten(request.domain, _LONGEST),
        "descriptors": [_descriptor(descriptor, longest) for descriptor in request.descriptors],
    }
    if request.hits:
        metadata["hitsAddend"] = request.hits
    merged: dict[str, Any] = {}
    for item, (code, _, _, _) in zip(plan.items, told, strict=True):
        if code is not Code.OVER_LIMIT and item.rule is not None and item.rule.metadata:
            merged = _merge(merged, item.rule.metadata)
    if merged:
        metadata["metadata"] = merged
    return metadata


def _descriptor(descriptor: Descriptor, longest: int) -> dict[str, Any]:
    entries = [f"{excerpt(key, longest)}={excerpt(value, longest)}" for key, value in descriptor.entries]
    said: dict[str, Any] = {"entries": entries}
    if descriptor.override is not None:
        amount, unit, multiplier = descriptor.override
        fields = [f"requests_per_unit:{amount}"] if amount else []
        fields.append(f"unit:{Unit(unit).name}" if unit in Unit._value2member_map_ else f"unit:{unit}")
        if multiplier > 1:
            fields.append(f"unit_multiplier:{{value:{multiplier}}}")
        said["limit"] = " ".join(fields)
    if descriptor.hits is not None:
        said["hitsAddend"] = descriptor.hits
    return said


def _merge(into: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Both, in a new mapping; where both have a key the first one's value stays, and mappings are merged in turn."""
    merged = dict(into)
    for key, value in more.items():
        mine = merged.get(key)
        if key not in merged:
            merged[key] = value
        elif isinstance(mine, Mapping) and isinstance(value, Mapping):
            merged[key] = _merge(mine, value)
    return merged

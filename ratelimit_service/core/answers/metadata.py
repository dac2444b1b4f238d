"""The dynamic metadata of an answer (RESPONSE_DYNAMIC_METADATA): what was asked, and what the rules that passed carry.

Envoy puts it into the request's metadata, where later filters, access logs and load balancers read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..model import Code, Descriptor, StatusValues, Unit
from ..planning import Plan
from ..text import show


def dynamic_metadata(plan: Plan, told: Sequence[StatusValues]) -> dict[str, Any]:
    """`{domain, descriptors: [{entries, limit, hitsAddend}], hitsAddend, metadata}`; fit for a protobuf Struct."""
    request = plan.request
    metadata: dict[str, Any] = {
        "domain": request.domain,
        "descriptors": [_descriptor(descriptor) for descriptor in request.descriptors],
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


def _descriptor(descriptor: Descriptor) -> dict[str, Any]:
    said: dict[str, Any] = {"entries": [f"{show(key)}={show(value)}" for key, value in descriptor.entries]}
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

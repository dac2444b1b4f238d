"""The definition of the API by its descriptors, as plain data, so that two definitions can be compared.

It needs only protobuf. As a script, it prints the definition in the `xds-protos` of its interpreter as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

API_PACKAGES = (
    "envoy.service.ratelimit.v3.",
    "envoy.extensions.common.ratelimit.v3.",
    "envoy.config.core.v3.",
    "envoy.type.v3.",
)
"""Envoy's packages for the messages that our proto file has in one."""

Table = dict[str, dict[str, Any]]
"""{"RateLimitRequest": {"domain": [1, "string"], …}, "RateLimitUnit": {"UNKNOWN": 0, …}, …}."""


def describe(messages: list[Any], enums: list[Any]) -> Table:
    """Return the fields of these messages (descriptors) and the values of these enums, including nested
    ones.
    """
    table: Table = {_name(enum): {value.name: value.number for value in enum.values} for enum in enums}
    for message in messages:
        table[_name(message)] = {field.name: [field.number, _type(field)] for field in message.fields}
        table |= describe(message.nested_types, message.enum_types)
    return table


def method(service: Any) -> list[str]:
    """Return the path, the request and the response of a service's only method."""
    (only,) = service.methods
    return [f"/{service.full_name}/{only.name}", _name(only.input_type), _name(only.output_type)]


def _name(descriptor: Any) -> str:
    name: str = descriptor.full_name
    for package in API_PACKAGES:
        name = name.removeprefix(package)
    return name


def _type(field: Any) -> str:
    names = {
        getattr(field, name): name.removeprefix("TYPE_").lower()
        for name in dir(field)
        if name.startswith("TYPE_")
    }
    of = field.message_type or field.enum_type
    words = [
        "repeated" if field.is_repeated else "",
        _name(of) if of else names[field.type],
        f"in oneof {field.containing_oneof.name}" if field.containing_oneof else "",
    ]
    return " ".join(filter(None, words))


def _xds_protos() -> dict[str, Any]:
    from envoy.config.core.v3 import base_pb2
    from envoy.extensions.common.ratelimit.v3 import ratelimit_pb2
    from envoy.service.ratelimit.v3 import rls_pb2
    from envoy.type.v3 import ratelimit_unit_pb2

    return {
        "method": method(rls_pb2.DESCRIPTOR.services_by_name["RateLimitService"]),
        "table": describe(
            [
                rls_pb2.RateLimitRequest.DESCRIPTOR,
                rls_pb2.RateLimitResponse.DESCRIPTOR,
                ratelimit_pb2.RateLimitDescriptor.DESCRIPTOR,
                base_pb2.HeaderValue.DESCRIPTOR,
            ],
            [ratelimit_unit_pb2.RateLimitUnit.DESCRIPTOR],
        ),
    }


if __name__ == "__main__":
    json.dump(_xds_protos(), sys.stdout)

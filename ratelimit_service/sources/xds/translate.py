"""RateLimitConfig, a protobuf message, to a document (core/rules/document.py).

The message has no fields for budgets, several windows and calendars. The metadata of a descriptor may contain
them, under OURS: the rule keys of a configuration file, which are applied to the descriptor like an overlay.
The nodes made here have no lines. The nodes of an overlay have the lines of its file.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError

from ...core.errors import Problem
from ...core.rules.document import Document, Kind, MappingNode, Node, ScalarNode, SequenceNode
from ...proto.xds_pb2 import RateLimitConfig
from .overlays import lay

OURS = "ratelimit-service"
"""A key in the metadata of a descriptor. Its value is a mapping of rule keys."""

_UNITS = ("", "second", "minute", "hour", "day", "month", "year", "week")
_LARGEST_WHOLE = 2**53
_FLAGS = ("shadow_mode", "detailed_metric", "quota_mode")


def document(file: str, data: bytes) -> tuple[Document | None, list[Problem]]:
    """Return the document of a RateLimitConfig, and the problems that only the message can have.

    `file` is the name of the document in problems.
    """
    try:
        config = RateLimitConfig.FromString(data)
    except DecodeError:
        return None, [Problem(file, 0, "", "is damaged: its bytes are not a RateLimitConfig")]
    translation = _Translation(file)
    items: list[tuple[ScalarNode, Node]] = []
    if config.domain:
        items.append((_key("domain"), _text(config.domain)))
    if config.descriptors:
        items.append((_key("descriptors"), translation.descriptors(config.descriptors, "")))
    return Document(file, MappingNode(0, items)), translation.problems


def drop_shadow_of_levels(node: Node | None) -> None:
    """Remove `shadow_mode` from descriptors without a limit, after overlays and metadata have given theirs.

    Envoy Gateway sets it on every level of a rule. In a file, and in an overlay, whose nodes have lines, it
    is a mistake there, and causes a warning.
    """
    if not isinstance(node, MappingNode):
        return
    names = {key.text for key, _ in node.items}
    if names.isdisjoint(("rate_limit", "rate_limits")):
        node.items = [(key, value) for key, value in node.items if key.text != "shadow_mode" or key.line]
    for key, value in node.items:
        if key.text == "descriptors" and isinstance(value, SequenceNode):
            for item in value.items:
                drop_shadow_of_levels(item)


class _Translation:
    def __init__(self, file: str) -> None:
        self._file = file
        self.problems: list[Problem] = []

    def descriptors(self, messages: Any, path: str) -> SequenceNode:
        return SequenceNode(
            0,
            [
                self._descriptor(message, f"{path}descriptors[{place}]")
                for place, message in enumerate(messages)
            ],
        )

    def _descriptor(self, message: Any, path: str) -> MappingNode:
        items: list[tuple[ScalarNode, Node]] = [(_key("key"), _text(message.key))]
        if message.value:
            items.append((_key("value"), _text(message.value)))
        if message.HasField("rate_limit"):
            items.append((_key("rate_limit"), _limit(message.rate_limit)))
        items += [(_key(name), _TRUE) for name in _FLAGS if getattr(message, name)]
        ours = self._metadata(message, items, path) if message.HasField("metadata") else None
        if message.descriptors:
            items.append((_key("descriptors"), self.descriptors(message.descriptors, f"{path}.")))
        mapping = MappingNode(0, items)
        if ours is not None:
            lay(mapping, ours)
        return mapping

    def _metadata(self, message: Any, items: list[tuple[ScalarNode, Node]], path: str) -> MappingNode | None:
        """Add the metadata to `items`, except for the value of OURS, which is returned."""
        fields = dict(message.metadata.fields)
        ours = fields.pop(OURS, None)
        if fields:
            items.append((_key("metadata"), _struct(fields)))
        if ours is None:
            return None
        keys = _value(ours)
        if not isinstance(keys, MappingNode):
            self._wrong(path, "must be a mapping of rule keys, such as {rate_limit: {tokens_per_unit: 5000}}")
            return None
        for name in ("key", "value", "descriptors"):
            if any(key.text == name for key, _ in keys.items):
                self._wrong(path, f"{name} cannot stand here: the resource itself has it")
        return keys

    def _wrong(self, path: str, message: str) -> None:
        self.problems.append(Problem(self._file, 0, f"{path}.metadata.{OURS}", message))


def _limit(policy: Any) -> MappingNode:
    items: list[tuple[ScalarNode, Node]] = []
    if policy.unit:
        known = 0 < policy.unit < len(_UNITS)
        items.append((_key("unit"), _plain(_UNITS[policy.unit]) if known else _whole(policy.unit)))
    if policy.requests_per_unit or not policy.unlimited:
        items.append((_key("requests_per_unit"), _whole(policy.requests_per_unit)))
    if policy.unlimited:
        items.append((_key("unlimited"), _TRUE))
    if policy.name:
        items.append((_key("name"), _text(policy.name)))
    if policy.replaces:
        named = [MappingNode(0, [(_key("name"), _text(each.name))]) for each in policy.replaces]
        items.append((_key("replaces"), SequenceNode(0, list(named))))
    return MappingNode(0, items)


def _struct(fields: Any) -> MappingNode:
    """Return a mapping that is sorted by key.

    Protobuf has no order, and output should not change by itself.
    """
    return MappingNode(0, [(_key(name), _value(value)) for name, value in sorted(fields.items())])


def _value(value: Any) -> Node:
    match value.WhichOneof("kind"):
        case "string_value":
            return _plain(value.string_value)
        case "number_value":
            return _number(value.number_value)
        case "bool_value":
            return _TRUE if value.bool_value else ScalarNode(0, Kind.BOOL, "false", False)
        case "struct_value":
            return _struct(value.struct_value.fields)
        case "list_value":
            return SequenceNode(0, [_value(item) for item in value.list_value.values])
    return ScalarNode(0, Kind.NULL, "")


def _number(number: float) -> ScalarNode:
    if number.is_integer() and abs(number) <= _LARGEST_WHOLE:
        return _whole(int(number))
    return ScalarNode(0, Kind.FLOAT, repr(number), number)


def _key(name: str) -> ScalarNode:
    return ScalarNode(0, Kind.STRING, name, name)


_TRUE = ScalarNode(0, Kind.BOOL, "true", True)


def _whole(number: int) -> ScalarNode:
    return ScalarNode(0, Kind.INT, str(number), number)


def _text(data: bytes) -> ScalarNode:
    return _plain(data.decode("utf-8", "surrogateescape"))


def _plain(text: str) -> ScalarNode:
    return ScalarNode(0, Kind.STRING, text, text)

"""From YAML text to a document with line numbers, as upstream's parser reads it.

This module composes the events of PyYAML's parser itself, because

- kinds are those of Go's yaml.v2, which upstream uses: YAML 1.1 truth values, no dates, no base 60;
- a scalar keeps its raw text, a node its line, and a mapping its repeated keys;
- no file can construct an object, recurse without end, or grow beyond `MOST_NODES` by aliases.

Only the first document of a file is a configuration, as with upstream. manifests.py reads the documents after
it.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from ..core.errors import InvalidRules, Problem
from ..core.rules.document import Document, Kind, MappingNode, Node, ScalarNode, SequenceNode
from .yaml_errors import explain, line_of

DEEPEST = 300
"""The deepest nesting of lists and mappings: 150 levels of descriptors."""

MOST_NODES = 1_000_000
"""The most nodes of a file after expanding all aliases."""

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_STANDARD = "tag:yaml.org,2002:"
_KIND_TAGS = {
    "!": Kind.STRING,
    _STANDARD + "str": Kind.STRING,
    _STANDARD + "timestamp": Kind.STRING,
    _STANDARD + "int": Kind.INT,
    _STANDARD + "float": Kind.FLOAT,
    _STANDARD + "bool": Kind.BOOL,
    _STANDARD + "null": Kind.NULL,
}
_BINARY = _STANDARD + "binary"
_MERGE = _STANDARD + "merge"
_CONTAINER_TAGS = (None, "!", _STANDARD + "map", _STANDARD + "seq")

_WORDS: dict[str, tuple[Kind, Any]] = {"": (Kind.NULL, None), "~": (Kind.NULL, None)}
for _kind, _value, _words in (
    (Kind.NULL, None, ("null",)),
    (Kind.BOOL, True, ("y", "yes", "true", "on")),
    (Kind.BOOL, False, ("n", "no", "false", "off")),
):
    for _word in _words:
        _WORDS |= dict.fromkeys((_word, _word.capitalize(), _word.upper()), (_kind, _value))
for _sign in ("", "+", "-"):
    _WORDS |= dict.fromkeys(
        [_sign + word for word in (".inf", ".Inf", ".INF")], (Kind.FLOAT, float(_sign + "inf"))
    )
_WORDS |= dict.fromkeys((".nan", ".NaN", ".NAN"), (Kind.FLOAT, math.nan))

_number = re.compile(r"[-+.0-9]")
_int = re.compile(
    r"(?P<sign>[-+]?)"
    r"(?:0[xX](?P<hex>[0-9a-fA-F]+)|0[bB](?P<bin>[01]+)|0[oO]?(?P<oct>[0-7]+)|(?P<dec>0|[1-9][0-9]{0,19}))"
)
_BASES = {"hex": 16, "bin": 2, "oct": 8, "dec": 10}
_float = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def read(file: str, text: bytes | str, at: Callable[[int], int] = int) -> Document:
    """Return the first YAML document of `text`. Raises InvalidRules.

    Problems are about `file`, and `at` maps a line of `text` to a line of that file.
    """
    return next(read_all(file, text, at))


def read_all(file: str, text: bytes | str, at: Callable[[int], int] = int) -> Iterator[Document]:
    """Yield the YAML documents of `text`, at least one. Raises InvalidRules at the first error."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    try:
        yield from _documents(file, _Events(yaml.parse(data, Loader=_Loader)), at)
    except _Refused as refused:
        line, message = refused.line, refused.message
    except yaml.YAMLError as error:
        line, message = explain(error, data, at)
    else:
        return
    raise InvalidRules([Problem(file, line, "", message)])


class _Events:
    """The events of the parser, with a lookahead of two."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._seen: list[Any] = []

    def take(self) -> Any:
        """Return the next event; None at the end."""
        return self._seen.pop(0) if self._seen else next(self._events, None)

    def next_document(self) -> tuple[int, yaml.YAMLError | None]:
        """Return the line of the next document that is not empty, and its syntax error; 0 if there is none.

        Empty documents before it are skipped: a `---` at the end of a file begins one, which nobody means.
        """
        seen: list[Any] = []
        try:
            while isinstance(start := next(self._events, None), yaml.DocumentStartEvent):
                seen = [start]
                seen.append(next(self._events, None))
                if not _is_empty(seen[1]):
                    self._seen = seen
                    return line_of(start.start_mark), None
                seen = []
                next(self._events, None)  # the end of the empty document
        except yaml.YAMLError as error:
            return line_of(seen[0].start_mark if seen else getattr(error, "problem_mark", None)), error
        return 0, None


def _documents(file: str, events: _Events, at: Callable[[int], int]) -> Iterator[Document]:
    builder = _Builder(at)
    ended = False
    while (event := events.take()) is not None:
        if not isinstance(event, yaml.DocumentEndEvent):
            builder.take(event)
            continue
        following, broken = events.next_document()
        warnings = tuple([Problem(file, line, "", message) for line, message in builder.warnings])
        yield Document(file, builder.root, at(following) if following else 0, warnings=warnings)
        if broken:
            raise broken
        builder, ended = _Builder(at), True
    if not ended:
        yield Document(file, None)


def _is_empty(event: Any) -> bool:
    return isinstance(event, yaml.ScalarEvent) and event.implicit[0] and resolve(event.value)[0] is Kind.NULL


def resolve(text: str) -> tuple[Kind, Any]:
    """Return the kind and the value of a plain scalar, by the YAML 1.1 rules of yaml.v2."""
    word = _WORDS.get(text)
    if word is not None:
        return word
    if not _number.match(text):
        return Kind.STRING, text
    digits = text if text[0] == "." else text.replace("_", "")
    whole = _int.fullmatch(digits)
    if whole and whole.lastgroup:
        value = int(whole["sign"] + whole[whole.lastgroup], _BASES[whole.lastgroup])
        if -(2**63) <= value < 2**63 or (not whole["sign"] and value < 2**64):
            return Kind.INT, value
    if _float.fullmatch(digits) and math.isfinite(fraction := float(digits)):
        return Kind.FLOAT, fraction
    return Kind.STRING, text


class _Refused(Exception):
    """Valid YAML that a configuration must not have."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


class _Built(NamedTuple):
    """A complete node, with its number of nodes and its height after expanding all aliases."""

    node: Node
    size: int
    height: int


@dataclass(slots=True)
class _Open:
    """A list or mapping before its end. The `children` of a mapping are keys and values in turn."""

    node: SequenceNode | MappingNode
    anchor: str | None
    children: list[Node] = field(default_factory=list)
    merges: set[int] = field(default_factory=set)
    size: int = 1
    height: int = 1

    @property
    def expects_key(self) -> bool:
        return isinstance(self.node, MappingNode) and len(self.children) % 2 == 0


class _Builder:
    """Composes one document from events, with an explicit stack instead of recursion."""

    def __init__(self, at: Callable[[int], int]) -> None:
        self._at = at
        self._open: list[_Open] = []
        self._anchors: dict[str, _Built | None] = {}  # None while the node is still open
        self._nodes = 0
        self.warnings: list[tuple[int, str]] = []
        self.root: Node | None = None

    def take(self, event: Any) -> None:
        """Add an event. Events about streams and documents are ignored."""
        match event:
            case yaml.ScalarEvent():
                self._scalar(event)
            case yaml.AliasEvent():
                self._add(self._anchored(event), event)
            case yaml.SequenceStartEvent():
                self._start(SequenceNode(self._line(event)), event)
            case yaml.MappingStartEvent():
                self._start(MappingNode(self._line(event)), event)
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                self._end(event)

    def _line(self, event: Any) -> int:
        return self._at(line_of(event.start_mark))

    def _scalar(self, event: Any) -> None:
        opened = self._open[-1] if self._open else None
        if (
            opened
            and opened.expects_key
            and event.value == "<<"
            and (event.implicit[0] or event.tag == _MERGE)
        ):
            opened.merges.add(len(opened.children))
            scalar = ScalarNode(self._line(event), Kind.STRING, event.value, event.value)
        else:
            scalar = _typed(event, self._line(event))
        built = _Built(scalar, 1, 0)
        if event.anchor:
            self._anchors[event.anchor] = built
            if not event.value and event.implicit[0]:
                anchor = event.anchor
                message = f"&{anchor} names an empty value: quote it if it is text, as in value: '&{anchor}'"
                self.warnings.append((scalar.line, message))
        self._add(built, event)

    def _anchored(self, event: Any) -> _Built:
        if event.anchor not in self._anchors:
            raise _Refused(
                self._line(event),
                f"alias *{event.anchor} is not defined: define &{event.anchor} before it, "
                "or quote it if it is text",
            )
        built = self._anchors[event.anchor]
        if built is None:
            raise _Refused(
                self._line(event),
                f"alias *{event.anchor} refers to itself: it would never end",
            )
        return built

    def _start(self, node: SequenceNode | MappingNode, event: Any) -> None:
        if event.tag not in _CONTAINER_TAGS:
            raise _Refused(self._line(event), _unknown_tag(event.tag))
        if len(self._open) >= DEEPEST:
            raise _Refused(self._line(event), f"lists and mappings are nested more than {DEEPEST} deep")
        if event.anchor:
            self._anchors[event.anchor] = None
        self._open.append(_Open(node, event.anchor))

    def _end(self, event: Any) -> None:
        opened = self._open.pop()
        if isinstance(opened.node, SequenceNode):
            opened.node.items = opened.children
        else:
            _fill(opened.node, opened.children, opened.merges)
        built = _Built(opened.node, opened.size, opened.height)
        if opened.anchor:
            self._anchors[opened.anchor] = built
        self._nodes -= built.size - 1  # its children were counted already
        self._add(built, event)

    def _add(self, built: _Built, event: Any) -> None:
        self._nodes += built.size
        if self._nodes > MOST_NODES:
            raise _Refused(
                self._line(event), f"more than {MOST_NODES:,} nodes, when all aliases are written out"
            )
        if not self._open:
            self.root = built.node
            return
        if len(self._open) + built.height > DEEPEST:
            raise _Refused(
                self._line(event), f"lists and mappings are nested more than {DEEPEST} deep by this alias"
            )
        opened = self._open[-1]
        if opened.expects_key and not isinstance(built.node, ScalarNode):
            raise _Refused(
                built.node.line,
                "a list or mapping cannot be a key: quote it if it is text, such as '{{ name }}'",
            )
        opened.children.append(built.node)
        opened.size += built.size
        opened.height = max(opened.height, built.height + 1)


def _typed(event: Any, line: int) -> ScalarNode:
    """Return a scalar of the kind that its tag, its quotes or its text determine."""
    text, tag = event.value, event.tag
    if tag is None:
        kind, value = resolve(text) if event.implicit[0] else (Kind.STRING, text)
        return ScalarNode(line, kind, text, value, event.style == "|")
    if tag == _BINARY:
        try:
            data = base64.b64decode(text.replace("\n", "").replace("\r", ""), validate=True)
        except (binascii.Error, ValueError):
            raise _Refused(line, "tagged !!binary, but not valid base64") from None
        decoded = data.decode("utf-8", "surrogateescape")
        return ScalarNode(line, Kind.STRING, decoded, decoded)
    wanted = _KIND_TAGS.get(tag)
    if wanted is None:
        raise _Refused(line, _unknown_tag(tag))
    if wanted is Kind.STRING:
        return ScalarNode(line, wanted, text, text, event.style == "|")
    kind, value = resolve(text)
    if wanted is Kind.FLOAT and kind is Kind.INT:
        kind, value = Kind.FLOAT, float(value)
    if kind is not wanted:
        raise _Refused(line, f"tagged {_short(tag)}, but {text!r} is not {wanted.value}")
    return ScalarNode(line, kind, text, value)


def _fill(mapping: MappingNode, children: list[Node], merges: set[int]) -> None:
    """Set the items of `mapping`. The keys of `<<` win over keys before it, and lose to keys after it."""
    found: dict[tuple[Kind, str], tuple[ScalarNode, Node]] = {}
    written: set[tuple[Kind, str]] = set()

    def put(key: ScalarNode, value: Node, *, merged: bool) -> None:
        name = (key.kind, key.text)
        before = found.get(name)
        if before is not None:
            if name in written:
                mapping.repeated.append(before[0])
            value = _overlaid(before[1], value)
        if not merged:
            written.add(name)
        found[name] = (key, value)

    for at in range(0, len(children), 2):
        key, value = children[at], children[at + 1]
        assert isinstance(key, ScalarNode)
        if at in merges:
            for other in _to_merge(key, value):
                for item in other.items:
                    put(*item, merged=True)
        else:
            put(key, value, merged=False)
    mapping.items = list(found.values())


def _to_merge(key: ScalarNode, value: Node) -> list[MappingNode]:
    """Return the mappings that `<<` merges. The last one wins, which is the first of a list."""
    if isinstance(value, MappingNode):
        return [value]
    if isinstance(value, SequenceNode):
        mappings = [item for item in value.items if isinstance(item, MappingNode)]
        if len(mappings) == len(value.items):
            return mappings[::-1]
    raise _Refused(key.line, "'<<' merges a mapping or a list of mappings, such as '<<: *name'")


def _overlaid(before: Node, value: Node) -> Node:
    """Return the value of a repeated key. As with upstream's parser, the items of two mappings are merged."""
    if not (isinstance(before, MappingNode) and isinstance(value, MappingNode)):
        return value
    items = {(key.kind, key.text): (key, item) for key, item in (*before.items, *value.items)}
    return MappingNode(value.line, list(items.values()), before.repeated + value.repeated)


def _short(tag: str) -> str:
    return "!!" + tag.removeprefix(_STANDARD) if tag.startswith(_STANDARD) else tag


def _unknown_tag(tag: str) -> str:
    return f"unknown tag {_short(tag)!r}: a configuration needs no tags; remove it, or quote it if it is text"

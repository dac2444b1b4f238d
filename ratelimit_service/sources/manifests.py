"""From Kubernetes manifests to the configurations in them.

Rules are often part of a manifest: of a ConfigMap, where each key of `data` is a file, or of Solo's
RateLimitConfig. A file can have several manifests (`---`), or a List of them (the output of
`kubectl get -o yaml`), and manifests of other kinds. Problems are reported with the line and the path in the
manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..core.errors import InvalidRules, Problem
from ..core.rules.document import Document, Kind, MappingNode, Node, ScalarNode
from ..core.rules.fields import describe, quoted, shown
from ..core.rules.report import Report
from . import solo, yaml_text
from .manifest_mapping import ManifestMapping

MOST_TEXT = 16 * 2**20
"""The most characters of all files in the manifests of one file, after expanding aliases."""

_API_VERSIONS = {"ConfigMap": "v1", "List": "v1", "RateLimitConfig": "ratelimit.solo.io/v1alpha1"}
_OVER_XDS = (
    "makes the rules and sends them over xDS, which this service does not read; write them as a configuration"
)
_SENT_BY = {
    "BackendTrafficPolicy": f"BackendTrafficPolicy: Envoy Gateway {_OVER_XDS}",
    "QuotaPolicy": f"QuotaPolicy: Envoy AI Gateway {_OVER_XDS}",
}
"""Kinds with limits, which a controller sends to the rate-limit service as rules."""

_SENDERS = {
    kind: f"{kind}: it sets what the gateway sends, and has no limits; write those as a configuration"
    for kind in ("AgentgatewayPolicy", "EnvoyFilter", "GatewayExtension", "TrafficPolicy")
}
"""Kinds that make a gateway call the rate-limit service."""

_CONFIG_MAP = ("apiVersion", "kind", "metadata", "data", "binaryData", "immutable")


def expand(documents: Iterator[Document], domain: str = "") -> tuple[list[Document], list[Problem]]:
    """Return the configurations in the YAML documents of one file, and what is wrong with the others.

    A file that begins with a configuration is returned as it is, without the documents after it. `domain` is
    the domain of rules whose manifest has none.
    """
    try:
        first = document = next(documents)
        while _is_empty(document) and document.extra_documents:
            document = next(documents)
    except InvalidRules as error:
        return [], list(error.problems)
    if not _is_manifest(document.root):
        return [first], []
    found = _Found(first.file, domain)
    found.manifest(document.root, "")
    try:
        for document in documents:
            found.manifest(document.root, "")
    except InvalidRules as error:
        found.problems += error.problems
    return found.result()


def _is_empty(document: Document) -> bool:
    root = document.root
    return root is None or (isinstance(root, ScalarNode) and root.kind is Kind.NULL)


def _is_manifest(root: Node | None) -> bool:
    """Return whether a document has a kind, as a manifest, and no domain, as a configuration."""
    keys = {key.text for key, _ in root.items} if isinstance(root, MappingNode) else set()
    return bool(keys & {"apiVersion", "kind"}) and not keys & {"domain", "descriptors"}


class _Found:
    """The configurations in the manifests of a file."""

    def __init__(self, file: str, domain: str) -> None:
        self._file = file
        self._domain = domain
        self._documents: list[Document] = []
        self._report = Report()
        self._skipped: dict[str, str] = {}
        """The manifests without rules, each with a note where its rules are."""
        self._line = 0
        self._room = MOST_TEXT
        self.problems: list[Problem] = []

    def result(self) -> tuple[list[Document], list[Problem]]:
        """Return what `expand` returns."""
        problems, warnings = self._report.in_order([self._file])
        self.problems += problems
        if self._documents:
            self._documents[0].warnings = warnings
        elif not self.problems:
            others = ", ".join(self._skipped) or "an empty List"
            reasons = dict.fromkeys([reason for reason in self._skipped.values() if reason])
            message = f"has no rules, only {others}: there must be a ConfigMap or a RateLimitConfig"
            self.problems.append(Problem(self._file, self._line, "", ". ".join([message, *reasons])))
        return self._documents, self.problems

    def manifest(self, node: Node | None, path: str) -> None:
        """Read a manifest. `path` is that of its item in a List, or empty."""
        if node is None or (isinstance(node, ScalarNode) and node.kind is Kind.NULL):
            return
        if not isinstance(node, MappingNode):
            message = f"must be a manifest with apiVersion and kind, not {describe(node)}"
            self._report.error(Problem(self._file, node.line, path, message))
            return
        mapping = ManifestMapping(self._report, self._file, path, node)
        kind, version = mapping.text("kind"), mapping.text("apiVersion")
        for name, value in (("kind", kind), ("apiVersion", version)):
            if value == "":
                mapping.error(name, "is missing: a file with a manifest must have only manifests")
        if not kind or not version:
            return
        if kind not in _API_VERSIONS:
            self._skip(mapping, kind)
        elif version != _API_VERSIONS[kind]:
            mapping.error(
                "apiVersion", f"must be {_API_VERSIONS[kind]!r} for kind {kind}, not {quoted(version)}"
            )
        elif kind == "List":
            for item_path, item in mapping.items("items"):
                self.manifest(item, item_path)
        elif kind == "ConfigMap":
            self._config_map(mapping.only(_CONFIG_MAP))
        else:
            self._documents += solo.documents(mapping, self._file, self._domain)

    def _skip(self, mapping: ManifestMapping, kind: str) -> None:
        metadata = mapping.child("metadata")
        name = metadata.text("name") if metadata else None
        what = f"{shown(kind)} {quoted(name)}" if name else f"a {shown(kind)}"
        where = _SENT_BY.get(kind, "")
        self._skipped[what] = where or _SENDERS.get(kind, "")
        self._line = self._line or mapping.line_of("kind")
        mapping.warn("kind", f"{what} has no rules, and is skipped" + (f". {where}" if where else ""))

    def _config_map(self, mapping: ManifestMapping) -> None:
        binary, files = mapping.named_items("binaryData"), mapping.named_items("data")
        for key, path, _ in binary:
            mapping.problem(key.line, path, "is binary, but a configuration is text: move it to data")
        if not files and not binary and isinstance(mapping.node("data"), MappingNode | None):
            mapping.error("data", "is missing or empty: each of its keys is a file, such as 'config.yaml: |'")
        for key, path, value in files:
            if not isinstance(value, ScalarNode) or value.kind is not Kind.STRING:
                message = f"must be the text of a file, after '|', not {describe(value)}"
                mapping.problem(value.line, path, message)
            elif self._take_room(len(value.text)):
                self._read(key, path, value)
            else:
                message = f"the files in these manifests have more than {MOST_TEXT:,} characters together"
                mapping.problem(key.line, path, message)

    def _take_room(self, size: int) -> bool:
        self._room -= size
        return self._room >= 0

    def _read(self, key: ScalarNode, path: str, value: ScalarNode) -> None:
        try:
            document = yaml_text.read(
                self._file, value.text.encode("utf-8", "surrogateescape"), _lines_of(value)
            )
        except InvalidRules as error:
            for problem in error.problems:
                self._report.error(problem._replace(path=path))
        else:
            document.path, document.line = path, key.line
            self._documents.append(document)


def _lines_of(value: ScalarNode) -> Callable[[int], int]:
    """Return a function from lines of a text to lines of its manifest: exact in a block, else the first."""
    last = len(value.text.rstrip().splitlines())
    return (lambda line: value.line + min(line, last)) if value.block else (lambda line: value.line)

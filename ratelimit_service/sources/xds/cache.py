"""The last good set of a control plane in a file, so that a start without the control plane has rules.

The first line of the file is JSON: the format, the control plane, the time at which the set was taken, and
the SHA-256 of the rest. The rest is a DiscoveryResponse with the resources in force. A save replaces the file
in one step. A damaged file is ignored.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import structlog

from ...proto.xds_pb2 import DiscoveryResponse, Resource
from .response import TYPE_URL, Group, Malformed, OpenedResponse, open_response
from .spool import Spool

_FORMAT = "ratelimit-service xds 1"
_LONGEST_HEAD = 4_096
_CHUNK = 1 << 20


class CachedSet(NamedTuple):
    """A set from a file, and the time at which it was taken, in seconds since 1970."""

    received: OpenedResponse
    taken_at: float


class Cache:
    """Keeps the set that the control plane `name` sent to `node`.

    Its methods block; call them in a thread.
    """

    def __init__(self, directory: Path, name: str, node: str) -> None:
        safe = "".join([char if char.isalnum() or char in "-." else "_" for char in name])
        # The hash keeps names apart that are the same without their special characters.
        self.path = directory / f"xds-{safe[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        self._name = name
        self._node = node
        self._log = structlog.get_logger(__name__)

    def save(self, groups: Mapping[str, Group], taken_at: float) -> None:
        """Replace the file. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.path.with_name(
            f"{self.path.name}.new-{os.getpid()}"
        )  # several workers save the same set
        content = hashlib.sha256()
        for part in _response(groups):
            content.update(part)
        head = {
            "format": _FORMAT,
            "server": self._name,
            "node": self._node,
            "taken_at": taken_at,
            "sha256": content.hexdigest(),
        }
        scratch.touch(0o600)
        with scratch.open("wb") as file:
            file.write(json.dumps(head).encode() + b"\n")
            for part in _response(groups):
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(self.path)

    def load(self) -> CachedSet | None:
        """Return the set in the file, or None if there is no usable file, which is logged."""
        try:
            with self.path.open("rb") as file:
                head = json.loads(file.readline(_LONGEST_HEAD))
                if head["format"] != _FORMAT or (head["server"], head["node"]) != (self._name, self._node):
                    raise ValueError("belongs to another control plane, node or version")
                spool, content = Spool(), hashlib.sha256()
                while part := file.read(_CHUNK):
                    content.update(part)
                    spool.write(part)
                if content.hexdigest() != head["sha256"]:
                    raise ValueError("is damaged")
                return CachedSet(open_response(spool), float(head["taken_at"]))
        except FileNotFoundError:
            return None
        except (OSError, Malformed, ValueError, KeyError, TypeError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            self._log.warning("a file with rules is ignored", file=str(self.path), error=why)
            return None


def _response(groups: Mapping[str, Group]) -> Iterator[bytes | memoryview]:
    """Return a DiscoveryResponse with the resources of these groups, in parts that can be concatenated."""
    yield DiscoveryResponse(type_url=TYPE_URL).SerializeToString()
    head = Resource(type_url=TYPE_URL).SerializeToString()
    for _, group in sorted(groups.items()):
        for each in group.resources:
            length = b"\x12" + _varint(each.length)
            yield b"\x12" + _varint(len(head) + len(length) + each.length) + head + length
            yield from each.spool.chunks(each.start, each.length)


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    parts.append(number)
    return bytes(parts)

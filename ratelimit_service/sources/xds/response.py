"""A response of a control plane: its resources by domain, without their descriptors.

This module reads the outermost fields of a response in place, and hashes each resource. An unchanged set is
not parsed at all, and of a thousand domains only those that have changed are parsed, by another process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ...core.text import fit
from .spool import Spool

TYPE_URL = "type.googleapis.com/ratelimit.config.ratelimit.v3.RateLimitConfig"

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}
_VERSION, _RESOURCES, _TYPE_URL, _NONCE = 1, 2, 4, 5
_ANY_TYPE, _ANY_VALUE = 1, 2
_NAME, _DOMAIN = 1, 2
_LONGEST_VARINT = 10
_LONGEST_NAME = 4_096
_LONGEST_SHOWN = 200
_LONGEST_TEXT = 1 << 20
"""Bytes of a version, which each request repeats on the event loop."""


class Malformed(ValueError):
    """The bytes are not a protobuf message."""


class Resource(NamedTuple):
    """One resource, by its `name`; `spool` contains its RateLimitConfig at `start`.

    `wrong` says why the bytes cannot be a RateLimitConfig, or is empty.
    """

    name: str
    spool: Spool
    start: int
    length: int
    digest: bytes
    wrong: str = ""


class Group(NamedTuple):
    """The resources of one domain, sorted by name. Several are valid with MERGE_DOMAIN_CONFIG only."""

    domain: str
    resources: tuple[Resource, ...]
    digest: bytes


class OpenedResponse(NamedTuple):
    """One response. `groups` has the resources by domain.

    A resource without a readable domain is a group of its own.

    `digest` identifies the content. It does not depend on the order of the resources, the version and the
    nonce.
    """

    version: str
    nonce: str
    type_url: str
    groups: Mapping[str, Group]
    digest: bytes
    size: int


def open_response(spool: Spool) -> OpenedResponse:
    """Return the resources in a DiscoveryResponse.

    Raises Malformed. Call it in a thread: a long one takes a while.
    """
    texts = {_VERSION: "", _TYPE_URL: "", _NONCE: ""}
    by_domain: dict[str, list[Resource]] = {}
    view = spool.view()
    place = 0
    for number, start, end in _fields(view, 0, len(view)):
        if number in texts:
            if end - start > _LONGEST_TEXT:
                raise Malformed(f"a version, a type or a nonce of {end - start} bytes")
            texts[number] = str(view[start:end], "utf-8", "replace")
        elif number == _RESOURCES:
            domain, resource = _resource(spool, view, start, end, place)
            by_domain.setdefault(domain, []).append(resource)
            place += 1
    groups = {domain: _group(domain, resources) for domain, resources in sorted(by_domain.items())}
    return OpenedResponse(
        texts[_VERSION], texts[_NONCE], texts[_TYPE_URL], groups, digest_of(groups), spool.size
    )


def digest_of(groups: Mapping[str, Group]) -> bytes:
    """Return the hash of the content of these groups."""
    content = hashlib.sha256()
    for _, group in sorted(groups.items()):
        content.update(group.digest)
    return content.digest()


def copied(groups: Sequence[Group]) -> list[Group]:
    """Return these groups with their resources in one new file. Raises OSError."""
    spool = Spool()
    result = []
    for group in groups:
        resources = []
        for each in group.resources:
            start = spool.size
            for part in each.spool.chunks(each.start, each.length):
                spool.write(part)
            resources.append(each._replace(spool=spool, start=start))
        result.append(group._replace(resources=tuple(resources)))
    return result


def _group(domain: str, resources: list[Resource]) -> Group:
    # Control planes keep resources in a map, and send them in random order.
    ordered = sorted(resources, key=lambda each: (each.name, each.digest))
    content = hashlib.sha256(domain.encode("utf-8", "surrogateescape"))
    for each in ordered:
        content.update(each.digest)
    return Group(domain, tuple(ordered), content.digest())


def _resource(spool: Spool, view: memoryview, start: int, end: int, place: int) -> tuple[str, Resource]:
    """Return a resource and its domain; without a readable domain, a name that no domain can have."""
    type_url, at, until = "", start, start
    name = domain = ""
    wrong = ""
    try:
        for number, begins, ends in _fields(view, start, end):
            if number == _ANY_TYPE:
                type_url = str(view[begins:ends], "utf-8", "replace")
            elif number == _ANY_VALUE:
                at, until = begins, ends
        if type_url != TYPE_URL:
            shown = fit(type_url, _LONGEST_SHOWN) or "resource without a type"
            wrong = f"is a {shown}: only {TYPE_URL} was asked for"
        for number, begins, ends in _fields(view, at, until):
            if number == _NAME:
                name = _text(view, begins, ends)
            elif number == _DOMAIN:
                domain = _text(view, begins, ends)
            elif name and domain:
                break  # encoders write fields in the order of their numbers; the parser reports all others
    except Malformed:
        wrong = "is damaged: its bytes are not a RateLimitConfig"
    digest = hashlib.sha256(type_url.encode("utf-8", "replace"))
    digest.update(view[at:until])
    name = name or domain or f"resource {place}"
    if domain.startswith("\0"):
        wrong = wrong or "has a domain that begins with NUL"
    if wrong or not domain:
        domain = f"\0{name}"
    return domain, Resource(name, spool, at, until - at, digest.digest(), wrong)


def _text(view: memoryview, start: int, end: int) -> str:
    if end - start > _LONGEST_NAME:
        raise Malformed("a name of the length of a file")
    return str(view[start:end], "utf-8", "surrogateescape")


def _fields(view: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Return the number, the start and the end of each field of a message. Raises Malformed."""
    while at < end:
        tag, at = _varint(view, at, end)
        kind = tag & 7
        start = at
        if kind == _BYTES:
            length, start = _varint(view, at, end)
            at = start + length
        elif kind == _VARINT:
            _, at = _varint(view, at, end)
        elif kind in _FIXED:
            at += _FIXED[kind]
        else:
            raise Malformed(f"a field of the wire type {kind}")
        if at > end:
            raise Malformed("a field that ends after its message")
        yield (tag >> 3 if kind == _BYTES else 0), start, at


def _varint(view: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    for byte in view[at : min(end, at + _LONGEST_VARINT)]:
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
        shift += 7
    raise Malformed("a number without an end")

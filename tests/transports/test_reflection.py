"""Server reflection, for clients without proto files such as grpcurl and Postman.

The tests are black box, and the same for both transports.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc import aio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.reflection_pb2 import (
    ExtensionRequest,
    ServerReflectionRequest,
    ServerReflectionResponse,
)

from ratelimit_service.proto.ratelimit_pb2 import DESCRIPTOR
from ratelimit_service.transports.options import GrpcOptions
from testing.waiting import PATIENCE

from . import h2
from .h2 import Peer
from .serving import CHECK, Served, Start

SERVICE = "envoy.service.ratelimit.v3.RateLimitService"
VERSIONS = ("v1", "v1alpha")
NOT_FOUND, INVALID_ARGUMENT = 5, 3
LARGEST = 4_096
"""Bytes of a question."""


def path(version: str) -> str:
    return f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"


def asking(served: Served, version: str) -> Any:  # grpc-stubs know no call without an iterator
    return served.channel.stream_stream(
        path(version), ServerReflectionRequest.SerializeToString, ServerReflectionResponse.FromString
    )


async def ask(
    served: Served, *questions: ServerReflectionRequest, version: str = "v1"
) -> list[ServerReflectionResponse]:
    """Send all requests at once, and return the answers."""
    return [answer async for answer in asking(served, version)(iter(questions), timeout=PATIENCE)]


def symbol(name: str) -> ServerReflectionRequest:
    return ServerReflectionRequest(file_containing_symbol=name)


def names(answer: ServerReflectionResponse) -> list[str]:
    """Return the names of the files in an answer."""
    files = answer.file_descriptor_response.file_descriptor_proto
    return [descriptor_pb2.FileDescriptorProto.FromString(file).name for file in files]


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_services_are_named(served: Served, version: str) -> None:
    """Both versions list all services of the server."""
    question = ServerReflectionRequest(host="limiter", list_services="*")
    (answer,) = await ask(served, question, version=version)
    assert [
        SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ] == [service.name for service in answer.list_services_response.service]
    assert ("limiter", question) == (answer.valid_host, answer.original_request)


@pytest.mark.parametrize(
    "name",
    [
        SERVICE,
        f"{SERVICE}.ShouldRateLimit",
        "envoy.service.ratelimit.v3.RateLimitRequest",
        "envoy.service.ratelimit.v3.RateLimitResponse.Code",
        "grpc.health.v1.Health.Watch",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflectionRequest.host",
        "google.protobuf.Duration",
    ],
)
async def test_a_symbol_is_described_with_all_that_it_takes(served: Served, name: str) -> None:
    """The files, each once and in any order, make a pool that knows the symbol, so a client can build a
    request.
    """
    (answer,) = await ask(served, symbol(name))
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(file)
        for file in answer.file_descriptor_response.file_descriptor_proto
    ]
    assert len(files) == len({file.name for file in files})
    known: set[str] = set()
    pool = descriptor_pool.DescriptorPool()
    while left := [file for file in files if file.name not in known]:
        ready = [file for file in left if known.issuperset(file.dependency)]
        assert ready, f"{[file.name for file in left]} lack what they import"
        for file in ready:
            pool.Add(file)
            known.add(file.name)
    found = pool.FindFileContainingSymbol(name.removesuffix(".ShouldRateLimit").removesuffix(".Watch"))
    assert files[0].name == found.name


async def test_a_file_is_found_by_its_name(served: Served) -> None:
    """It is the same file as by its symbol."""
    by_name, by_symbol = await ask(
        served, ServerReflectionRequest(file_by_filename=DESCRIPTOR.name), symbol(SERVICE)
    )
    assert by_name.file_descriptor_response == by_symbol.file_descriptor_response
    assert DESCRIPTOR.name == names(by_name)[0]


@pytest.mark.parametrize(
    ("question", "code"),
    [
        (symbol("envoy.service.ratelimit.v3.Nothing"), NOT_FOUND),
        (symbol(""), NOT_FOUND),
        (ServerReflectionRequest(file_by_filename="/etc/passwd"), NOT_FOUND),
        (ServerReflectionRequest(all_extension_numbers_of_type=SERVICE), NOT_FOUND),
        (
            ServerReflectionRequest(
                file_containing_extension=ExtensionRequest(containing_type=SERVICE, extension_number=1)
            ),
            NOT_FOUND,
        ),
        (ServerReflectionRequest(), INVALID_ARGUMENT),
    ],
    ids=["symbol", "empty", "file", "type", "extension", "nothing"],
)
async def test_an_unknown_symbol_is_an_answer_and_the_stream_continues(
    served: Served, question: ServerReflectionRequest, code: int
) -> None:
    missing, listed = await ask(served, question, ServerReflectionRequest(list_services=""))
    assert (code, question) == (missing.error_response.error_code, missing.original_request)
    assert 4 == len(listed.list_services_response.service)


async def test_a_message_has_no_extensions(served: Served) -> None:
    name = health_pb2.HealthCheckRequest.DESCRIPTOR.full_name
    (answer,) = await ask(served, ServerReflectionRequest(all_extension_numbers_of_type=name))
    found = answer.all_extension_numbers_response
    assert (name, []) == (found.base_type_name, list(found.extension_number))


async def test_questions_are_answered_one_by_one(served: Served) -> None:
    """grpcurl sends each request after the answer to the previous one."""
    call = asking(served, "v1")(timeout=PATIENCE)
    await call.write(ServerReflectionRequest(list_services=""))
    first = (await call.read()).list_services_response.service[0].name
    await call.write(symbol(first))
    described = await call.read()
    assert DESCRIPTOR.name == names(described)[0]
    await call.done_writing()
    assert aio.EOF == await call.read()  # type: ignore[attr-defined]  # grpc-stubs lack it
    assert grpc.StatusCode.OK == await call.code()


async def test_a_stream_without_requests_is_not_an_error(served: Served) -> None:
    assert [] == await ask(served)


async def failing(served: Served, *messages: bytes) -> tuple[int, grpc.StatusCode]:
    """Return the number of answers, and the end of the stream."""
    call: Any = served.channel.stream_stream(path("v1"), bytes, bytes)
    call, answers = call(timeout=PATIENCE), 0
    for message in messages:
        await call.write(message)
    with contextlib.suppress(aio.AioRpcError):
        await call.done_writing()
        async for _ in call:
            answers += 1
    return answers, await call.code()


LIST = ServerReflectionRequest(list_services="").SerializeToString()


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (b"\xff" * 9, grpc.StatusCode.INVALID_ARGUMENT),
        (symbol("x" * LARGEST).SerializeToString(), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
    ids=["no message", "a large one"],
)
async def test_an_invalid_request_ends_the_stream(
    served: Served, wrong: bytes, code: grpc.StatusCode, before: int
) -> None:
    """The requests before it are answered, and other calls of the connection are served."""
    assert (before, code) == await failing(served, *[LIST] * before, wrong)
    assert [] != (await served.call(CHECK)).statuses


@pytest.mark.parametrize(("size", "answers"), [(LARGEST, 1), (LARGEST + 1, 0)])
async def test_the_size_of_a_reflection_request_is_bounded(served: Served, size: int, answers: int) -> None:
    """Both transports have the same bound, each with its own check."""
    question = symbol("x" * (LARGEST - 3)).SerializeToString() + bytes((0x78, 0)) * 2
    assert (answers, size) == ((await failing(served, question[:size]))[0], len(question[:size]))


async def test_an_open_stream_does_not_hold_up_the_stop(start: Start) -> None:
    """The client sends no more requests, and stays connected."""
    served = await start()
    call = asking(served, "v1")(timeout=PATIENCE)
    await call.write(ServerReflectionRequest(list_services=""))
    await call.read()
    async with asyncio.timeout(60):
        await served.server.stop(60)


async def test_the_number_of_reflection_streams_is_bounded(start: Start) -> None:
    """At the bound, a new stream is refused; when one ends, there is room again."""
    served = await start()
    calls = [asking(served, "v1")(timeout=60) for _ in range(101)]
    refused = []
    for call in calls:
        try:
            await call.write(ServerReflectionRequest(list_services=""))
            await call.read()
        except (aio.AioRpcError, asyncio.InvalidStateError):
            refused.append(await call.code())
    assert [grpc.StatusCode.RESOURCE_EXHAUSTED] == refused
    await calls[0].done_writing()
    assert grpc.StatusCode.OK == await calls[0].code()
    assert 1 == len(await ask(served, ServerReflectionRequest(list_services="")))
    for call in calls:
        call.cancel()


# Bytes by hand.


def opening(stream: int, version: str = "v1") -> bytes:
    return h2.frame(h2.HEADERS, h2.END_HEADERS, stream, h2.block(h2.replaced(path=path(version).encode())))


def data(stream: int, payload: bytes, flags: int = 0) -> bytes:
    return h2.frame(h2.DATA, flags, stream, payload)


@pytest.fixture
async def peer(served: Served) -> AsyncIterator[Peer]:
    peer = await Peer.connect(served.server.address)
    yield peer
    peer.close()


QUESTIONS = (LIST, symbol(SERVICE).SerializeToString(), b"", symbol("x" * 300).SerializeToString())


def split(whole: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = [0, *sorted(cuts), len(whole)]
    return [whole[begin:end] for begin, end in pairwise(places)]


@pytest.mark.parametrize("every", [1, 3, 5, 6, 300, 10_000])
async def test_messages_may_be_cut_anywhere(served: Served, peer: Peer, every: int) -> None:
    """A frame may end within a prefix or within a message, or contain several. Each message is answered in
    its order.
    """
    whole = b"".join(map(h2.message, QUESTIONS))
    peer.send(opening(1))
    for piece in split(whole, range(every, len(whole), every)):
        peer.send(data(1, piece))
    peer.send(data(1, b"", h2.END_STREAM))
    answer = await peer.answer(1)
    assert 0 == answer.status
    assert list(QUESTIONS) == [
        ServerReflectionResponse.FromString(each).original_request.SerializeToString()
        for each in unframed(bytes(answer.body))
    ]


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize(
    ("rest", "status"),
    [(h2.message(LIST)[:-1], 13), (h2.message(LIST)[:3], 13), (h2.message(LIST, compressed=1), 12)],
    ids=["cut", "cut in its head", "compressed"],
)
async def test_a_broken_message_ends_the_stream(
    served: Served, peer: Peer, rest: bytes, status: int, before: int
) -> None:
    """The stream ends with an error after the answers to the requests before it. The connection stays
    open.
    """
    peer.send(opening(1) + data(1, h2.message(LIST) * before + rest, h2.END_STREAM))
    answer = await peer.answer(1)
    assert before == len(unframed(bytes(answer.body)))
    if served.server.TRANSPORT == "native":  # grpcio passes over what is cut off
        assert status == answer.status
    peer.send(h2.call(3, CHECK))
    assert 0 == (await peer.answer(3)).status


def unframed(body: bytes) -> list[bytes]:
    """Return the messages in a body."""
    found = []
    while body:
        size = int.from_bytes(body[1:5], "big")
        found.append(body[5 : 5 + size])
        body = body[5 + size :]
    return found


@pytest.mark.parametrize("transport", ["native"])
async def test_a_flood_of_questions_ends_the_connection(served: Served) -> None:
    """Each request spends a unit of the abuse budget: a person sends a hundred, and nobody ten thousand."""
    peer = await Peer.connect(served.server.address, h2.MAGIC + h2.settings(initial_window_size=2**31 - 1))
    peer.send(h2.frame(h2.WINDOW_UPDATE, 0, 0, (2**30).to_bytes(4, "big")))
    peer.send(opening(1))
    flood = h2.message(symbol("nothing").SerializeToString()) * 200
    for _ in range(10):
        peer.send(data(1, flood))
    goaway = await peer.until(h2.GOAWAY)
    assert h2.ENHANCE_YOUR_CALM == int.from_bytes(goaway.payload[4:8], "big")
    peer.close()


@pytest.mark.parametrize("transport", ["native"])
async def test_unread_answers_are_not_kept(start: Start) -> None:
    """A peer that opens no window and sends more requests loses the stream. The bytes kept for it are
    bounded.
    """
    served = await start(GrpcOptions())
    peer = await Peer.connect(served.server.address, h2.MAGIC + h2.settings(initial_window_size=0))
    peer.send(opening(1) + data(1, h2.message(symbol(SERVICE).SerializeToString()) * 300))
    reset = await peer.until(h2.RST_STREAM)
    assert h2.ENHANCE_YOUR_CALM == int.from_bytes(reset.payload, "big")
    peer.send(h2.frame(h2.PING, 0, 0, bytes(8)))
    await peer.until(h2.PING)
    peer.close()

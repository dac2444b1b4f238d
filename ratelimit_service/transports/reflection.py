"""Server reflection (grpc.reflection.v1 and v1alpha): describes the services to tools without proto files.

Both transports use this module. Both versions have the same messages.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from ..core.errors import InvalidRequest
from ..proto.ratelimit_pb2 import DESCRIPTOR

SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
METHOD = "ServerReflectionInfo"
LARGEST = 4_096
"""Bytes of the largest question; `_http2.pyx` has the same bound. An answer repeats the question."""

_INVALID_ARGUMENT, _NOT_FOUND = 3, 5
_Response = reflection_pb2.ServerReflectionResponse


class Reflection:
    """Answers questions about the services of this server."""

    def __init__(self) -> None:
        self._files: dict[str, descriptor_pb2.FileDescriptorProto] = {}
        for file in (DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
            self._add(file)
        alpha = self._files[reflection_pb2.DESCRIPTOR.name]
        newer = _as_v1(alpha)
        self._files[newer.name] = newer
        self._file_of = {symbol: file.name for file in self._files.values() for symbol in _symbols(file)}
        self._messages = {symbol for file in self._files.values() for symbol in _messages(file)}
        services = sorted(
            f"{file.package}.{service.name}" for file in self._files.values() for service in file.service
        )
        listed = _Response()
        listed.list_services_response.service.extend(
            reflection_pb2.ServiceResponse(name=name) for name in services
        )
        self._services = _bytes(listed)

    def answer(self, question: bytes) -> bytes:
        """Return the answer to a question, both as serialized messages. Raises InvalidRequest."""
        try:
            asked = reflection_pb2.ServerReflectionRequest.FromString(question)
        except DecodeError:
            raise InvalidRequest("the message is not a ServerReflectionRequest") from None
        # Concatenated serialized messages are one message.
        return _bytes(_Response(valid_host=asked.host, original_request=asked)) + self._content(asked)

    def _content(self, asked: reflection_pb2.ServerReflectionRequest) -> bytes:
        kind = asked.WhichOneof("message_request")
        if kind == "list_services":
            return self._services
        if kind == "file_by_filename" and asked.file_by_filename in self._files:
            return self._file(asked.file_by_filename)
        if kind == "file_containing_symbol" and asked.file_containing_symbol in self._file_of:
            return self._file(self._file_of[asked.file_containing_symbol])
        if kind == "all_extension_numbers_of_type" and asked.all_extension_numbers_of_type in self._messages:
            found = _Response()
            found.all_extension_numbers_response.base_type_name = asked.all_extension_numbers_of_type
            return _bytes(found)
        if kind is None:
            return _error(_INVALID_ARGUMENT, "the request asks for nothing that is known here")
        return _error(_NOT_FOUND, "there is no such thing here")

    @functools.cache  # noqa: B019  # one entry for each file
    def _file(self, name: str) -> bytes:
        """Return an answer with a file and all its imports."""
        found = _Response()
        found.file_descriptor_response.file_descriptor_proto.extend(
            self._files[each].SerializeToString() for each in self._closure(name)
        )
        return _bytes(found)

    def _closure(self, name: str) -> Iterable[str]:
        """Return a file and all its imports, each once."""
        found = {name: None}
        for dependency in self._files[name].dependency:
            found |= dict.fromkeys(self._closure(dependency))
        return found

    def _add(self, file: FileDescriptor) -> None:
        proto = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(proto)
        self._files[file.name] = proto
        for dependency in file.dependencies:
            self._add(dependency)


def _as_v1(alpha: descriptor_pb2.FileDescriptorProto) -> descriptor_pb2.FileDescriptorProto:
    """Return the file of v1: that of v1alpha under another name."""
    renamed = descriptor_pb2.FileDescriptorProto.FromString(alpha.SerializeToString())
    renamed.ClearField("options")
    renamed.package = "grpc.reflection.v1"
    renamed.name = "grpc/reflection/v1/reflection.proto"
    before, after = f".{alpha.package}.", f".{renamed.package}."
    for message in renamed.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(before, after)
    for service in renamed.service:
        for method in service.method:
            method.input_type = method.input_type.replace(before, after)
            method.output_type = method.output_type.replace(before, after)
    return renamed


def _messages(file: descriptor_pb2.FileDescriptorProto) -> Iterator[str]:
    """Yield the full names of the messages in a file."""
    stack = [(file.package, message) for message in file.message_type]
    while stack:
        scope, message = stack.pop()
        name = f"{scope}.{message.name}"
        yield name
        stack += [(name, nested) for nested in message.nested_type]


def _symbols(file: descriptor_pb2.FileDescriptorProto) -> Iterator[str]:
    """Yield the full names of all symbols in a file: messages and their fields, enums, services, methods."""
    scopes = [(file.package, file.message_type, file.enum_type)]
    while scopes:
        scope, messages, enums = scopes.pop()
        for enum in enums:
            yield f"{scope}.{enum.name}"
            yield from (f"{scope}.{value.name}" for value in enum.value)
        for message in messages:
            name = f"{scope}.{message.name}"
            yield name
            yield from (f"{name}.{field.name}" for field in message.field)
            scopes.append((name, message.nested_type, message.enum_type))
    for service in file.service:
        name = f"{file.package}.{service.name}"
        yield name
        yield from (f"{name}.{method.name}" for method in service.method)


def _error(code: int, message: str) -> bytes:
    found = _Response()
    found.error_response.error_code = code
    found.error_response.error_message = message
    return _bytes(found)


def _bytes(response: reflection_pb2.ServerReflectionResponse) -> bytes:
    serialized: bytes = response.SerializeToString()
    return serialized


@functools.cache
def reflection() -> Reflection:
    """Return the Reflection of this process, which is created at the first call."""
    return Reflection()

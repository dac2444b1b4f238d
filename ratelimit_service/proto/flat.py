"""Message classes from a descriptor set beside this file, in a descriptor pool of their own.

Generated Python code would register them in protobuf's default pool, where their names clash with those of
any package that carries Envoy's own protos, in whatever program imports both; and it would tie the package to
one version of protobuf. A descriptor set (`make proto` writes it) has neither trouble.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


class Flat:
    """One file of proto/: its `pool` and its `descriptor`."""

    def __init__(self, name: str) -> None:
        self.pool = descriptor_pool.DescriptorPool()
        described = resources.files(__package__).joinpath(f"{name}.binpb").read_bytes()
        for file in descriptor_pb2.FileDescriptorSet.FromString(described).file:
            self.pool.Add(file)
        self.descriptor = self.pool.FindFileByName(f"{name}.proto")

    def message(self, name: str) -> Any:
        """The class of a message."""
        return message_factory.GetMessageClass(self.descriptor.message_types_by_name[name])

"""The messages of proto/ratelimit.proto, in a descriptor pool of their own.

Generated Python code would register them in protobuf's default pool, where their names clash with those of any package
that carries Envoy's own protos, in whatever program imports both; and it would tie the package to one version of
protobuf. The descriptor set beside this file (`make proto` writes it) has neither trouble.
"""

from importlib import resources

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

POOL = descriptor_pool.DescriptorPool()
for _file in descriptor_pb2.FileDescriptorSet.FromString(
    resources.files(__package__).joinpath("ratelimit.binpb").read_bytes()
).file:
    POOL.Add(_file)

DESCRIPTOR = POOL.FindFileByName("ratelimit.proto")


def _message(name: str) -> type:
    return message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name[name])


RateLimitRequest = _message("RateLimitRequest")
RateLimitDescriptor = _message("RateLimitDescriptor")
RateLimitResponse = _message("RateLimitResponse")
HeaderValue = _message("HeaderValue")

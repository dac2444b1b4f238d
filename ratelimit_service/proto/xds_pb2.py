"""The messages of proto/xds.proto."""

from .flat import Flat

_FILE = Flat("xds")

POOL = _FILE.pool
DESCRIPTOR = _FILE.descriptor

Node = _FILE.message("Node")
Status = _FILE.message("Status")
DiscoveryRequest = _FILE.message("DiscoveryRequest")
Resource = _FILE.message("Resource")
DiscoveryResponse = _FILE.message("DiscoveryResponse")
RateLimitConfig = _FILE.message("RateLimitConfig")
RateLimitDescriptor = _FILE.message("RateLimitDescriptor")
RateLimitPolicy = _FILE.message("RateLimitPolicy")
RateLimitReplace = _FILE.message("RateLimitReplace")

"""The messages of proto/ratelimit.proto."""

from .flat import Flat

_FILE = Flat("ratelimit")

POOL = _FILE.pool
DESCRIPTOR = _FILE.descriptor

RateLimitRequest = _FILE.message("RateLimitRequest")
RateLimitDescriptor = _FILE.message("RateLimitDescriptor")
RateLimitResponse = _FILE.message("RateLimitResponse")
HeaderValue = _FILE.message("HeaderValue")

"""The gRPC server on nghttp2."""

"""gRPC servers. What they share is in contract.py, options.py, codec.py and grpc_method.py."""

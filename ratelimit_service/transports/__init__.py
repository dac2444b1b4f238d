"""Where calls come from. What a transport needs beside its own protocol is in codec.py and grpc_method.py."""

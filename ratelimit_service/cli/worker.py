"""One of several workers, started by the supervisor: `python -m ratelimit_service.cli.worker DESCRIPTOR`.

The descriptor is that of a socket to the supervisor, whose first message says which worker this is.
"""

from __future__ import annotations

import os
import pickle
import socket
import sys

from ..runtime import garbage, imports


def main() -> None:
    """Serve until the supervisor ends this process, or ends itself."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # see __main__.py
    garbage.disable()
    imports.skip_unused()
    from ..workers.worker import LENGTH
    from ..workers.worker_link import Hello, WorkerLink
    from . import serving

    end = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(end.fileno(), False)
    hello: Hello = pickle.loads(_received(end, int.from_bytes(_received(end, LENGTH), "big")))  # noqa: S301  # from our parent
    try:
        serving.serve(os.environ, hello.options, member=WorkerLink(hello, end))
    except KeyboardInterrupt:
        sys.exit(130)


def _received(end: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        some = end.recv(length - len(data))
        if not some:
            sys.exit(1)  # the supervisor has ended
        data += some
    return data


if __name__ == "__main__":
    main()

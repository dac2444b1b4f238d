"""Is the service in this container healthy? Asks /healthcheck as HOST, PORT and HTTP_TLS_CERT say, and exits
with 0 or 1.

What it prints is in `docker inspect`. The standard library only: it runs every few seconds.
"""

from __future__ import annotations

import http.client
import os
import ssl
import sys
from collections.abc import Mapping

PATIENCE = 4.0
"""Seconds; a little less than what HEALTHCHECK allows, so that it is this that says why."""

EVERYWHERE = ("", "0.0.0.0", "::", "[::]")
"""All addresses of both families: a container without IPv6 has 127.0.0.1, and so has one without IPv4 in its
network."""


def connect(environ: Mapping[str, str]) -> http.client.HTTPConnection:
    """A connection to the HTTP port that these settings describe."""
    listens = environ.get("HOST", "0.0.0.0").strip()
    host = "127.0.0.1" if listens in EVERYWHERE else listens.strip("[]")
    port = int(environ.get("PORT", "8080"))
    if not environ.get("HTTP_TLS_CERT"):
        return http.client.HTTPConnection(host, port, timeout=PATIENCE)
    # Its name is that of the outside, and it is ourselves whom we ask.
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(host, port, timeout=PATIENCE, context=trusting)


def main() -> int:
    """The exit code: 0 for healthy."""
    try:
        connection = connect(os.environ)
        connection.request("GET", "/healthcheck")
        answer = connection.getresponse()
        body = answer.read(1000).decode("utf-8", "replace").strip()
    except (OSError, ValueError, http.client.HTTPException) as error:
        print(f"cannot be asked: {error}")
        return 1
    print(body)
    return 0 if answer.status == http.client.OK else 1


if __name__ == "__main__":
    sys.exit(main())

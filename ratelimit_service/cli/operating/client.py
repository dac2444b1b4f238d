"""Calls the API of a service (docs/api.md): JSON over HTTP, with the token of the environment."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from ...core.errors import InvalidRequest
from ...core.text import fit, printable
from ..command import CommandFailed

DEFAULT_SERVER = "127.0.0.1:6070"

SERVER = "RATELIMIT_SERVER"
"""The variable with the address of the service."""

TOKENS = ("RATELIMIT_TOKEN", "ADMIN_TOKEN", "READ_TOKEN")
"""The variables that may have a token, in this order. The last two are set in the container of the
service.
"""

FAILED, NO, CONFLICT, FORBIDDEN = 1, 3, 4, 5
"""Exit codes: a failure; the answer is no; another change came first; a token is missing or not valid."""

_TOO_MANY, _MOST_TRIES, _LONGEST_PAUSE = 429, 5, 10.0
"""The status of a call above the rate limit, how many times it is retried, and the longest pause before a
retry.
"""

_MOST_BYTES = 64 * 2**20
_LONGEST = 2_000
_CODES = {401: FORBIDDEN, 403: FORBIDDEN, 409: CONFLICT}


class RequestFailed(CommandFailed):
    """A call that the service refuses or does not answer; `status` is that of HTTP, or 0 without an
    answer.
    """

    def __init__(self, message: str, code: int = FAILED, status: int = 0) -> None:
        super().__init__(message, code)
        self.status = status


class Answer(dict[str, Any]):
    """An object in an answer. A field that it lacks is a failed call, and no fault of this program."""

    def __missing__(self, name: str) -> Any:
        raise RequestFailed(
            f'the answer of the service has no "{name}": is this its debug port, and is the service as new '
            "as this command?"
        )


class Server(NamedTuple):
    """The address of the API."""

    host: str
    port: int
    tls: bool

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"


def server_of(text: str) -> Server:
    """Return the server that a text names: `host:port` or a URL. Raises InvalidRequest."""
    wrong = InvalidRequest(
        f'the server "{printable(text)}" is not an address: give host:port, or https://host:port'
    )
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port = parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in ("http", "https") or parts.path.strip("/") or parts.query or "@" in parts.netloc:
        raise wrong
    if not (parts.hostname or text.startswith(":")):
        raise wrong
    return Server(parts.hostname or "127.0.0.1", port or 6070, parts.scheme == "https")


def token_of(environ: Mapping[str, str]) -> str:
    """Return the token of the environment; empty for none. Raises InvalidRequest for a file that cannot be
    read.
    """
    for name in TOKENS:
        if environ.get(name):
            return environ[name]
        path = environ.get(f"{name}_FILE")
        if path:
            try:
                return Path(path).read_text(encoding="utf-8").strip()
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                raise InvalidRequest(f"{name}_FILE: {path} cannot be read: {reason}") from None
    return ""


class Client:
    """A client of one server. `ca` is the file with the CA to trust; None for those of the system."""

    def __init__(self, server: Server, token: str = "", timeout: float = 5.0, ca: Path | None = None) -> None:
        self.server = server
        self._token = token
        self._timeout = timeout
        self._context: ssl.SSLContext | None = None
        if server.tls:
            try:
                self._context = ssl.create_default_context(cafile=str(ca) if ca else None)
            except OSError as error:
                raise InvalidRequest(f"{ca} cannot be read: {error.strerror or error}") from None
        elif token and not _is_loopback(server.host):
            print(f"note: the token is sent to {server} without TLS", file=sys.stderr)

    def get(self, path: str, **parameters: Any) -> dict[str, Any]:
        """Return the answer to a GET; parameters that are None or empty are left out. Raises
        RequestFailed.
        """
        wanted = {name: value for name, value in parameters.items() if value not in (None, "")}
        query = f"?{urlencode(wanted, errors='surrogateescape')}" if wanted else ""
        return self._call("GET", f"{path}{query}")

    def pages(self, path: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        """Yield all pages of a list. Raises RequestFailed."""
        cursor: str | None = ""
        while cursor is not None:
            page = self.get(path, **parameters, cursor=cursor)
            yield page
            cursor = page["next_cursor"] or None

    def post(self, path: str, body: Mapping[str, Any], key: str = "") -> dict[str, Any]:
        """Return the answer to a POST; `key` is the idempotency key of a change. Raises RequestFailed."""
        sent = {name: value for name, value in body.items() if value is not None}
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Idempotency-Key"] = key
        return self._call("POST", path, json.dumps(sent).encode(), headers)

    def _call(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        headers = {"Accept": "application/json", **(headers or {})}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        status, data, retry_after = self._exchange(method, path, body, headers)
        for _ in range(_MOST_TRIES):
            if status != _TOO_MANY:
                break
            time.sleep(min(retry_after, _LONGEST_PAUSE))
            status, data, retry_after = self._exchange(method, path, body, headers)
        return self._answer(status, data)

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes, float]:
        """Return the status and the body of an answer, and the seconds before a retry."""
        connection = self._connection()
        try:
            connection.request(method, f"/api/v1{path}", body, headers)
            response = connection.getresponse()
            data = response.read(_MOST_BYTES)
            retry_after = response.getheader("Retry-After") or ""
            return response.status, data, float(retry_after) if retry_after.isdecimal() else 1.0
        except ValueError:  # a token with characters that no header can have; it must not be shown
            raise InvalidRequest("the token has characters that a token cannot have") from None
        except (OSError, http.client.HTTPException) as error:
            raise RequestFailed(f"{self.server} does not answer: {_reason(error)}") from None
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        host, port, _ = self.server
        if self._context is not None:
            return http.client.HTTPSConnection(host, port, timeout=self._timeout, context=self._context)
        return http.client.HTTPConnection(host, port, timeout=self._timeout)

    def _answer(self, status: int, data: bytes) -> dict[str, Any]:
        try:
            found = json.loads(data, object_hook=Answer)
        except (ValueError, RecursionError):
            found = None
        if status < 400:
            if isinstance(found, dict):
                return found
            raise RequestFailed(f"{self.server} is not the debug port of the service: its answer is not JSON")
        if not isinstance(found, dict) or "detail" not in found:
            raise RequestFailed(
                f"{self.server} answers {status}: is it the debug port of the service?", status=status
            )
        detail = fit(str(found["detail"]), _LONGEST)
        if status == 401 and not self._token:  # 403 without a token: the service has none for changes
            detail += f" (set {TOKENS[0]})"
        raise RequestFailed(detail, _CODES.get(status, FAILED), status)


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _reason(error: Exception) -> str:
    if isinstance(error, socket.timeout):
        return "no answer in time"
    if isinstance(error, OSError):
        return printable(error.strerror or str(error))
    return f"it does not speak HTTP ({type(error).__name__})"

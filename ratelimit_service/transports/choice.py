"""Chooses the native transport if it can be used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from ..core.errors import StartError

if TYPE_CHECKING:
    from .native.server import NativeServer

_TO_HAVE_NATIVE = (
    "install a wheel (`make wheel`), or install a C compiler, Python's headers and libnghttp2-dev, and then "
    "the package again"
)


def native_server(required: bool) -> type[NativeServer] | None:
    """Return the native server.

    If it cannot be used, raise StartError if it is `required`, else log a warning and return None.
    """
    try:
        from .native.server import NativeServer, check_library

        check_library()
    except ImportError as error:
        why = f"it is not built, or not from this version of the source ({error})"
    except StartError as error:
        why = str(error)
    else:
        return NativeServer
    if required:
        raise StartError(
            f"GRPC_TRANSPORT=native cannot be used: {why}. To have it, {_TO_HAVE_NATIVE}; or give grpcio"
        )
    structlog.get_logger("ratelimit_service").warning(
        "gRPC is served by grpcio, which takes several times the CPU: the native transport cannot be used",
        why=why,
        to_have_it=_TO_HAVE_NATIVE,
        to_do_without="set GRPC_TRANSPORT=grpcio",
    )
    return None

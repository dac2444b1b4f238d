"""JSON as RFC 8259 defines it: no NaN, no name twice in an object."""

from __future__ import annotations

import json
from typing import Any, Never

from ..core.errors import InvalidRequest


def strict_json(body: bytes) -> Any:
    """Return the value of a JSON text in UTF-8. Raises InvalidRequest."""
    try:
        return json.loads(body.decode(), parse_constant=_refuse_constant, object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the body is not UTF-8: byte {error.start} is wrong") from None
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply") from None
    except ValueError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from None


def _refuse_constant(name: str) -> Never:
    raise ValueError(f"{name} is not a JSON number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"an object has the name {name!r} twice")
            seen.add(name)
    return found

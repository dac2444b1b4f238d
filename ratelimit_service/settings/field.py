"""A line of the table of settings."""

from __future__ import annotations

from typing import Any

from pydantic import Field


def setting(group: str, default: str, meaning: str) -> Any:
    """A field whose default is what one would write into the environment; it is read in the same way."""
    return Field(default=default, description=meaning, json_schema_extra={"group": group})

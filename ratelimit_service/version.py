"""The version of the package."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    """Return the version of the package."""
    try:
        return metadata.version("ratelimit-service")
    except metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return "unknown"

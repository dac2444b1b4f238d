"""The message that refuses a value."""

from __future__ import annotations

import pytest

from ratelimit_service.core.errors import InvalidSetting
from ratelimit_service.settings.table import load_settings


def problem(name: str, value: str) -> str:
    """Return the message that refuses this value."""
    with pytest.raises(InvalidSetting) as refused:
        load_settings({name: value})
    return str(refused.value)

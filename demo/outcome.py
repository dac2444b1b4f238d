"""The failure of a scene."""

from __future__ import annotations


class SceneFailed(Exception):
    """A scene failed; the message is a sentence about it."""


def expect(right: object, sentence: str) -> None:
    """Raise SceneFailed with this sentence unless the condition holds."""
    if not right:
        raise SceneFailed(sentence)

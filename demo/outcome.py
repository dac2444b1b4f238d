"""What scenes say of how something came out."""

from __future__ import annotations


class Wrong(Exception):
    """Something did not come out as it should; the message is the sentence that says what."""


def expect(right: object, sentence: str) -> None:
    """Raises Wrong with this sentence unless it came out right."""
    if not right:
        raise Wrong(sentence)

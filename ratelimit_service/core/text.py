"""Descriptor bytes as people may see them."""

from __future__ import annotations


def show(value: bytes) -> str:
    """`value` as printable text on one line: UTF-8, with escapes for what is not, and for what cannot be printed."""
    text = value.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join([char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text])

"""The types of `_wire.pyx`, the compiled twin of wire.py."""

from ..core.model import Request
from .wire import Entries, Split

def split(data: bytes) -> Split | None: ...
def read(key: bytes) -> tuple[str, Entries] | None: ...
def request_of(
    domain: str, entries: Entries, hits: tuple[int | None, ...], addend: int, key: bytes, repeats: bool
) -> Request: ...

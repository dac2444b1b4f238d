"""The types of `_codes.pyx`, the compiled twin of codes.py."""

from .codes import Codes as Codes
from .codes import text_of as text_of

"""An animation of the page: screenshots of scenes, with a caption, as one animated PNG in light and one in
dark.

Browsers show an animated PNG like any other image, and one that does not know the format shows its first
frame.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from playwright.sync_api import FloatRect, Page

WIDTH, HEIGHT = 1_200, 586
LIST = 180
"""The pixels above the list, which are the same in all frames."""
CAPTION = 540
"""The top of the caption, below the list."""

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_CAPTION = f"""([text, dark]) => {{
    const bar = document.getElementById("caption") ?? document.body.appendChild(document.createElement("p"));
    bar.id = "caption";
    bar.textContent = text;
    Object.assign(bar.style, {{
        position: "absolute", left: 0, top: "{CAPTION}px", width: "{WIDTH}px", height: "{HEIGHT - CAPTION}px",
        margin: 0, boxSizing: "border-box", padding: "10px 40px", font: "18px sans-serif", zIndex: 9,
        background: dark ? "#2a3140" : "#1f2937", color: "#fff",
    }});
}}"""


class Frame(NamedTuple):
    """A PNG, the row of the animation at which it begins, and the seconds for which it is shown."""

    png: bytes
    top: int
    seconds: float


class Film:
    """Takes the frames of a page. Without a directory it takes none."""

    def __init__(self, page: Page, directory: str | None) -> None:
        self._page = page
        self._directory = Path(directory) if directory else None
        self.frames: dict[Literal["light", "dark"], list[Frame]] = {"light": [], "dark": []}

    def shoot(self, caption: str, seconds: float) -> None:
        """Take a frame in both colour schemes; after the first, only the list and the caption."""
        if self._directory is None:
            return
        for scheme, frames in self.frames.items():
            top = LIST if frames else 0
            self._page.emulate_media(color_scheme=scheme)
            self._page.evaluate(_CAPTION, [caption, scheme == "dark"])
            clip: FloatRect = {"x": 0, "y": top, "width": WIDTH, "height": HEIGHT - top}
            frames.append(Frame(self._page.screenshot(animations="disabled", clip=clip), top, seconds))
        self._page.emulate_media(color_scheme="light")

    def cut(self) -> None:
        """Remove the caption from the page."""
        self._page.evaluate("document.getElementById('caption')?.remove()")

    def write(self, name: str) -> None:
        """Write NAME-light.png and NAME-dark.png."""
        if self._directory is not None:
            for scheme, frames in self.frames.items():
                (self._directory / f"{name}-{scheme}.png").write_bytes(animated(frames))


def animated(frames: Sequence[Frame]) -> bytes:
    """Return an animated PNG that repeats these frames for ever; the first one is as large as all."""
    first, _ = _read(frames[0].png)
    parts = [SIGNATURE, _chunk(b"IHDR", first), _chunk(b"acTL", struct.pack(">II", len(frames), 0))]
    sequence = 0
    for number, frame in enumerate(frames):
        header, pixels = _read(frame.png)
        width, height = struct.unpack(">II", header[:8])
        if header[8:] != first[8:]:
            raise ValueError("the frames differ in their colours")
        milliseconds = round(frame.seconds * 1_000)
        control = (sequence, width, height, 0, frame.top, milliseconds, 1_000, 0, 0)
        parts.append(_chunk(b"fcTL", struct.pack(">IIIIIHHBB", *control)))
        sequence += 1
        if number:
            parts.append(_chunk(b"fdAT", struct.pack(">I", sequence) + pixels))
            sequence += 1
        else:
            parts.append(_chunk(b"IDAT", pixels))
    return b"".join([*parts, _chunk(b"IEND", b"")])


def chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the type and the content of each chunk."""
    at = len(SIGNATURE)
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        yield png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        at += length + 12


def _read(png: bytes) -> tuple[bytes, bytes]:
    """Return the header and the compressed pixels of a PNG, which is smaller than the browser's."""
    header, pixels = b"", b""
    for kind, content in chunks(png):
        if kind == b"IHDR":
            header = content
        elif kind == b"IDAT":
            pixels += content
    return header, zlib.compress(zlib.decompress(pixels), 9)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

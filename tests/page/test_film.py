"""The animation of the page: the browser shows each frame where and as long as it was meant, and the README's
are complete.
"""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from playwright.sync_api import Page

from testing.service import REPOSITORY

from .fake_api import FakeApi
from .film import HEIGHT, LIST, WIDTH, Film, Frame, animated, chunks

FRAMES = """async (encoded) => {
    const data = await (await fetch(`data:image/png;base64,${encoded}`)).arrayBuffer();
    const decoder = new ImageDecoder({data, type: "image/png"});
    await Promise.all([decoder.completed, decoder.tracks.ready]);
    const track = decoder.tracks.selectedTrack, found = [];
    for (let frameIndex = 0; frameIndex < track.frameCount; frameIndex++) {
        const {image} = await decoder.decode({frameIndex});
        const {displayWidth: width, displayHeight: height} = image;
        const context = new OffscreenCanvas(width, height).getContext("2d", {willReadFrequently: true});
        context.drawImage(image, 0, 0);
        const at = (y) => Array.from(context.getImageData(1, y, 1, 1).data).slice(0, 3);
        found.push([width, height, image.duration / 1e6, at(0), at(height - 1)]);
    }
    return found;
}"""
"""Return of each frame its size, its seconds, and the colours of a pixel in the first and in the last row."""

RED, BLUE = [255, 0, 0], [0, 0, 255]


def coloured(page: Page, colour: str, height: int) -> bytes:
    """Return a screenshot of one colour, 20 pixels wide."""
    page.set_content(f"<html style='background: {colour}'>")
    return page.screenshot(clip={"x": 0, "y": 0, "width": 20, "height": height})


def test_the_browser_shows_every_frame_at_its_place_and_for_its_time(page: Page, fake_api: FakeApi) -> None:
    """Browsers decode images for scripts only on pages that they trust, such as those of localhost."""
    first, second = coloured(page, "red", 8), coloured(page, "blue", 3)
    page.goto(f"{fake_api.url}api/v1/nothing")
    encoded = base64.b64encode(animated([Frame(first, 0, 1), Frame(second, 5, 2.5)])).decode()
    assert [[20, 8, 1, RED, RED], [20, 8, 2.5, RED, BLUE]] == page.evaluate(FRAMES, encoded)


def test_frames_of_different_colour_types_are_refused(page: Page) -> None:
    """They would be decoded as noise."""
    opaque = page.screenshot(clip={"x": 0, "y": 0, "width": 2, "height": 2})
    clear = page.screenshot(clip={"x": 0, "y": 0, "width": 2, "height": 2}, omit_background=True)
    with pytest.raises(ValueError, match="differ in their colours"):
        animated([Frame(opaque, 0, 1), Frame(clear, 0, 1)])


def test_a_film_has_both_colour_schemes_and_leaves_no_caption(
    page: Page, everything: FakeApi, tmp_path: Path
) -> None:
    page.goto(everything.url)
    film = Film(page, str(tmp_path))
    film.shoot("one", 1)
    film.shoot("two", 2)
    film.cut()
    film.write("film")
    assert 0 == page.get_by_text("two", exact=True).count()
    light, dark = [(tmp_path / f"film-{scheme}.png").read_bytes() for scheme in ("light", "dark")]
    assert light != dark
    assert [(0, 1), (LIST, 2)] == [(frame.top, frame.seconds) for frame in film.frames["dark"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_film_of_the_readme_is_complete_and_small(scheme: str) -> None:
    """It repeats for ever, has the size of the page, and is read in a moment."""
    content = (REPOSITORY / f"docs/images/page-film-{scheme}.png").read_bytes()
    found = list(chunks(content))
    (header,) = [content for kind, content in found if kind == b"IHDR"]
    (control,) = [content for kind, content in found if kind == b"acTL"]
    frames = [content for kind, content in found if kind == b"fcTL"]
    assert (WIDTH, HEIGHT) == (int.from_bytes(header[:4]), int.from_bytes(header[4:8]))
    assert (len(frames), 0) == (int.from_bytes(control[:4]), int.from_bytes(control[4:]))
    assert 8 == len(frames) and len(content) < 500_000

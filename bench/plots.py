"""Plots as SVG: lines over logarithmic axes, and bars.

A plotting library would be far larger than this module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, INK, FAINT, GRID = 760, "#24292f", "#57606a", "#d8dee4"
COLOURS = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#d55e00",
    "#7f5fa8",
    "#8c8c8c",
    "#5c3d1e",
    "#b2182b",
)
"""The colour-blind-safe palette of Okabe and Ito, and more colours for long bars."""
_LEFT, _RIGHT, _TOP = 78, 24, 56
_PLOT_HEIGHT = 300
_BAR, _BETWEEN = 16, 12
_NOTHING = "not measured"


@dataclass
class Line:
    """A series of points (x, y). `dashed` is for bounds, which are not measured."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str = ""
    dashed: bool = False


@dataclass
class Bar:
    """A bar of named parts."""

    name: str
    parts: Sequence[tuple[str, float]]
    note: str = ""


class _Drawing:
    def __init__(self, title: str, height: int) -> None:
        self._height = height
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
            f'height="{height}" font-family="Helvetica, Arial, sans-serif" font-size="12" role="img">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        ]
        self.text(16, 24, title, size=15, weight="bold")

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        anchor: str = "start",
        size: int = 12,
        fill: str = INK,
        weight: str = "normal",
        turned: bool = False,
    ) -> None:
        turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" '
            f'fill="{fill}"{turn}>{escape(text)}</text>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str = GRID, width: float = 1) -> None:
        self._parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
            f'stroke-width="{width}"/>'
        )

    def rectangle(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" height="{height:.1f}" '
            f'fill="{colour}"/>'
        )

    def path(self, points: Sequence[tuple[float, float]], colour: str, *, dashed: bool) -> None:
        way = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dash = ' stroke-dasharray="6 4"' if dashed else ""
        self._parts.append(
            f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="2"{dash} '
            'stroke-linejoin="round"/>'
        )

    def dot(self, x: float, y: float, colour: str) -> None:
        self._parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')

    def legend(self, entries: Sequence[tuple[str, str]], y: float) -> float:
        """Draw the legend, and return the y below it."""
        x = 16.0
        for name, colour in entries:
            width = 26 + 6.4 * len(name)
            if x + width > WIDTH - 8:
                x, y = 16.0, y + 18
            self.rectangle(x, y - 9, 10, 10, colour)
            self.text(x + 15, y, name, fill=FAINT)
            x += width + 6
        return y

    def done(self) -> str:
        return "\n".join([*self._parts, "</svg>"]) + "\n"


def lines(title: str, x_label: str, y_label: str, drawn: Sequence[Line]) -> str:
    """Draw lines over two logarithmic axes. Values must be above 0; a line without points is omitted."""
    drawn = [line for line in drawn if line.points]
    height = _TOP + _PLOT_HEIGHT + 66
    drawing = _Drawing(title, height)
    coloured = [
        (line, line.colour or (FAINT if line.dashed else COLOURS[place % len(COLOURS)]))
        for place, line in enumerate(drawn)
    ]
    top = drawing.legend([(line.name, colour) for line, colour in coloured], 46) + 14
    bottom = height - 52
    if drawn:
        xs = _axis([x for line in drawn for x, _ in line.points])
        ys = _axis([y for line in drawn for _, y in line.points])
        across = _scale(xs, _LEFT, WIDTH - _RIGHT)
        up = _scale(ys, bottom, top)
        for value in _ticks(*xs):
            drawing.line(across(value), top, across(value), bottom)
            drawing.text(across(value), bottom + 18, _short(value), anchor="middle", fill=FAINT)
        for value in _ticks(*ys):
            drawing.line(_LEFT, up(value), WIDTH - _RIGHT, up(value))
            drawing.text(_LEFT - 8, up(value) + 4, _short(value), anchor="end", fill=FAINT)
        for line, colour in coloured:
            places = [(across(x), up(y)) for x, y in line.points]
            drawing.path(places, colour, dashed=line.dashed)
            if not line.dashed:
                for x, y in places:
                    drawing.dot(x, y, colour)
    else:
        drawing.text(WIDTH / 2, (top + bottom) / 2, _NOTHING, anchor="middle", fill=FAINT)
    drawing.line(_LEFT, bottom, WIDTH - _RIGHT, bottom, INK)
    drawing.line(_LEFT, top, _LEFT, bottom, INK)
    drawing.text((_LEFT + WIDTH - _RIGHT) / 2, height - 12, x_label, anchor="middle", fill=FAINT)
    drawing.text(20, (top + bottom) / 2, y_label, anchor="middle", fill=FAINT, turned=True)
    return drawing.done()


def bars(title: str, label: str, drawn: Sequence[Bar], *, left: int = 250, right: int = 90) -> str:
    """Draw horizontal bars over a linear axis."""
    names = list(dict.fromkeys(name for bar in drawn for name, _ in bar.parts))
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}
    legend = list(colours.items()) if len(names) > 1 else []
    top = (round(_Drawing(title, 0).legend(legend, 46)) + 16) if legend else _TOP - 16
    bottom = top + (_BAR + _BETWEEN) * len(drawn) + 6
    drawing = _Drawing(title, bottom + 50)
    drawing.legend(legend, 46)
    most = max((sum(value for _, value in bar.parts) for bar in drawn), default=1.0) or 1.0
    room = WIDTH - right - left
    for value in _even_ticks(most):
        x = left + value / most * room
        drawing.line(x, top, x, bottom)
        drawing.text(x, bottom + 16, _short(value), anchor="middle", fill=FAINT)
    for place, bar in enumerate(drawn):
        y = top + 8 + place * (_BAR + _BETWEEN)
        x = float(left)
        for name, value in bar.parts:
            width = value / most * room
            drawing.rectangle(x, y, width, _BAR, colours[name])
            x += width
        drawing.text(left - 8, y + 12, bar.name, anchor="end")
        drawing.text(x + 6, y + 12, bar.note, fill=FAINT)
    if not drawn:
        drawing.text(WIDTH / 2, bottom, _NOTHING, anchor="middle", fill=FAINT)
    drawing.line(left, top, left, bottom, INK)
    drawing.text(left + room / 2, bottom + 36, label, anchor="middle", fill=FAINT)
    return drawing.done()


def _axis(values: Sequence[float]) -> tuple[float, float]:
    low, high = math.log10(min(values)), math.log10(max(values))
    margin = max(0.08, (high - low) * 0.04)
    return low - margin, high + margin


def _scale(axis: tuple[float, float], start: float, end: float) -> Callable[[float], float]:
    low, high = axis
    return lambda value: start + (math.log10(value) - low) / (high - low) * (end - start)


def _ticks(low: float, high: float) -> list[float]:
    """Return ticks at 1, 2 and 5 times powers of ten; on a long axis, only the powers."""
    found = [
        factor * 10.0**power
        for power in range(math.floor(low), math.ceil(high) + 1)
        for factor in (1, 2, 5)
        if low <= math.log10(factor * 10.0**power) <= high
    ]
    powers = [value for value in found if math.log10(value).is_integer()]
    return powers if len(found) > 14 and len(powers) > 2 else found


def _even_ticks(most: float) -> list[float]:
    """Return four to eight ticks from 0 in round steps."""
    step = 10.0 ** math.floor(math.log10(most / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if most / (step * factor) <= 8)
    return [place * step for place in range(int(most / step) + 1)]


def _short(value: float) -> str:
    if value >= 1_000_000:
        return f"{value / 1_000_000:g} M"
    if value >= 1_000:
        return f"{value / 1_000:g} k"
    return f"{value:g}"

"""Plots are valid SVG, with each value at its place."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from bench import report
from bench.plots import Bar, Line, bars, lines
from bench.results import Results

SVG = "{http://www.w3.org/2000/svg}"


def drawn(text: str, tag: str) -> list[ElementTree.Element]:
    """Return all elements of a kind. The text must be XML."""
    return list(ElementTree.fromstring(text).iter(f"{SVG}{tag}"))


def texts(text: str) -> list[str]:
    """Return all text of a plot."""
    return [element.text or "" for element in drawn(text, "text")]


def points(element: ElementTree.Element) -> list[tuple[float, float]]:
    """Return the points of a polyline."""
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in element.attrib["points"].split())]


def test_a_line_goes_up_where_its_values_do() -> None:
    """On a logarithmic axis, equal factors are equal distances."""
    drawing = lines("t", "x", "y", [Line("a", [(1, 1), (10, 10), (100, 100)])])
    (line,) = drawn(drawing, "polyline")
    (x1, y1), (x2, y2), (x3, y3) = points(line)
    assert x1 < x2 < x3
    assert y1 > y2 > y3
    assert 0.2 > abs((x2 - x1) - (x3 - x2))
    assert 0.2 > abs((y1 - y2) - (y2 - y3))


def test_everything_is_inside_the_picture() -> None:
    """This includes a single point, and values of very different sizes."""
    for given in ([(5.0, 5.0)], [(0.001, 1e6), (1e5, 0.02)]):
        drawing = lines("t", "x", "y", [Line("a", given), Line("bound", given, dashed=True)])
        height = float(ElementTree.fromstring(drawing).attrib["height"])
        for line in drawn(drawing, "polyline"):
            assert all(0 < x < 760 and 0 < y < height for x, y in points(line))


def test_the_parts_of_a_bar_follow_each_other() -> None:
    """Their lengths are proportional to their values, and the legend explains each colour."""
    drawing = bars("t", "µs", [Bar("a", [("one", 1.0), ("two", 3.0)], "4 µs")])
    _, legend_one, legend_two, one, two = (element.attrib for element in drawn(drawing, "rect"))
    assert (legend_one["fill"], legend_two["fill"]) == (one["fill"], two["fill"])
    assert one["fill"] != two["fill"]
    assert 0.2 > abs(float(one["x"]) + float(one["width"]) - float(two["x"]))
    assert 0.2 > abs(3 * float(one["width"]) - float(two["width"]))
    assert {"one", "two", "a", "4 µs"} <= set(texts(drawing))


def test_names_are_text_and_not_markup() -> None:
    """The name of a server may have any characters."""
    drawing = bars("<t> & co", "x", [Bar("a<b", [("p", 1.0)])])
    assert {"<t> & co", "a<b"} <= set(texts(drawing))


def test_a_plot_without_data_has_a_message() -> None:
    """It has a message instead of empty axes."""
    for drawing in report.plots(Results({})).values():
        assert "not measured" in texts(drawing)
        assert not re.search(r"nan|inf", drawing)

"""Plots are well-formed SVG whose marks stand where the data say."""

from xml.etree import ElementTree

import numpy as np
import pytest

from quant.histogram import Histogram
from quant.plot import histogram_svg, line_plot_svg, ticks

SVG = "{http://www.w3.org/2000/svg}"
SERIES = {
    "nearest <rounding>": [(4.0, 0.52, 0.5, 0.55), (5.0, 0.71, 0.7, 0.74), (8.0, 0.93, 0.93, 0.93)],
    "all & more": [(8.0, 0.95, 0.94, 0.96), (4.0, 0.9, 0.85, 0.91), (5.0, 0.94, 0.93, 0.95)],
}


def of_class(svg: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [each for each in svg.iter() if name in each.get("class", "").split()]


def tick_pixels(svg: ElementTree.Element, anchor: str, axis: str) -> tuple[list[float], list[float]]:
    """Numbers and pixels of an axis, read back from its tick texts ("end": y axis, "middle": x axis)."""
    numbers, pixels = [], []
    for text in svg.iter(f"{SVG}text"):
        content = (text.text or "").replace(",", "")
        if text.get("text-anchor") == anchor and content.replace(".", "").replace("-", "").isdigit():
            numbers.append(float(content))
            pixels.append(float(text.get(axis, "nan")))
    return numbers, pixels


def reader(svg: ElementTree.Element, anchor: str, axis: str, logarithmic: bool = False) -> np.poly1d:
    """From a pixel to the value, by the ticks alone."""
    numbers, pixels = tick_pixels(svg, anchor, axis)
    assert len(numbers) >= 2
    shift = 4 if axis == "y" else 0  # tick numbers hang below their line by this
    values = np.log10(numbers) if logarithmic else np.asarray(numbers)
    return np.poly1d(np.polyfit(np.asarray(pixels) - shift, values, 1))


def title_of(element: ElementTree.Element) -> str:
    return element.findtext(f"{SVG}title") or ""


@pytest.fixture
def histogram() -> Histogram:
    values = np.concatenate([np.random.default_rng(3).normal(size=5000), [90.0, 91.0]])
    return Histogram.of(values, bins=16)


@pytest.mark.parametrize("log_y", [False, True])
def test_bars_and_levels_stand_where_the_data_say(histogram: Histogram, log_y: bool) -> None:
    levels = [-2.5, -1.0, 0.0, 0.25, 4.5]
    svg = ElementTree.fromstring(histogram_svg(histogram, levels, "q & <k>", log_y=log_y))
    bars, x, y = of_class(svg, "bar"), reader(svg, "middle", "x"), reader(svg, "end", "y", log_y)
    filled = [index for index, count in enumerate(histogram.counts) if count]
    assert len(bars) == len(filled)
    for index, bar in zip(filled, bars, strict=True):
        count = histogram.counts[index]
        assert title_of(bar).startswith(f"{count} in ")
        assert x(float(bar.get("x", "nan"))) == pytest.approx(histogram.edges[index], abs=0.02)
        right = float(bar.get("x", "nan")) + float(bar.get("width", "nan"))
        assert x(right) == pytest.approx(histogram.edges[index + 1], abs=0.02)
        top = y(float(bar.get("y", "nan")))
        assert (10**top if log_y else top) == pytest.approx(count, rel=0.01, abs=1.5)
    lines = of_class(svg, "level")
    assert [title_of(line) for line in lines] == [f"level {level:g}" for level in levels]
    assert [x(float(line.get("x1", "nan"))) for line in lines] == pytest.approx(levels, abs=0.02)
    assert all(line.get("x1") == line.get("x2") for line in lines)


def test_values_beside_the_bars_are_told(histogram: Histogram) -> None:
    outside = f"({histogram.below} values below and {histogram.above} above the bars)"
    assert histogram.above >= 2
    assert outside in histogram_svg(histogram, [], "t")
    assert "above the bars" not in histogram_svg(Histogram.of([1.0, 2.0, 3.0]), [], "t")


def test_titles_and_names_are_escaped(histogram: Histogram) -> None:
    title = 'a "quoted" <b> & c'
    for text in (histogram_svg(histogram, [0.0], title), line_plot_svg(SERIES, title, "bits < 9", "IoU & more")):
        svg = ElementTree.fromstring(text)
        assert svg.get("aria-label") == title
        assert title in [each.text for each in svg.iter(f"{SVG}text")]
    assert {"bits < 9", "IoU & more", *SERIES} <= {each.text for each in svg.iter(f"{SVG}text")}


def test_points_and_error_bars_stand_where_the_data_say() -> None:
    svg = ElementTree.fromstring(line_plot_svg(SERIES, "ablation", "bits", "mean IoU"))
    x, y = reader(svg, "middle", "x"), reader(svg, "end", "y")
    lines = of_class(svg, "series")
    assert len(lines) == 2
    for line, points in zip(lines, SERIES.values(), strict=True):
        placed = [tuple(map(float, corner.split(","))) for corner in line.get("points", "").split()]
        assert [x(across) for across, _ in placed] == pytest.approx([4, 5, 8], abs=0.05)
        assert [y(down) for _, down in placed] == pytest.approx([p[1] for p in sorted(points)], abs=0.002)
    spans = []
    for path in of_class(svg, "error"):
        _, stem, _ = path.get("d", "").removeprefix("M").split("M")
        start, end = stem.split(" ")[1].split("V")
        spans.append((y(float(start)), y(float(end))))
    drawn = [point[2:] for points in SERIES.values() for point in sorted(points) if point[2] < point[3]]
    assert len(spans) == len(drawn) == 5  # the sixth point has no width
    assert np.asarray(spans) == pytest.approx(np.asarray(drawn), abs=0.002)
    titles = [title_of(point) for point in of_class(svg, "point")]
    assert titles[0] == "nearest <rounding>: 0.52 (0.5 to 0.55) at 4"
    assert titles[2] == "nearest <rounding>: 0.93 at 8"
    assert titles[5] == "all & more: 0.95 (0.94 to 0.96) at 8"


def test_error_bars_of_series_do_not_cover_each_other() -> None:
    same = [(4.0, 0.5, 0.4, 0.6)]
    svg = ElementTree.fromstring(line_plot_svg({"a": same, "b": same, "c": same}, "t", "x", "y"))
    starts = [path.get("d", "").split(" ")[0] for path in of_class(svg, "error")]
    assert len(set(starts)) == 3


def test_everything_lies_within_the_picture(histogram: Histogram) -> None:
    many = {f"series {index}": SERIES["all & more"] for index in range(8)}
    for text in (histogram_svg(histogram, [-30.0, 40.0], "t", log_y=True), line_plot_svg(many, "t", "x", "y")):
        svg = ElementTree.fromstring(text)
        _, _, width, height = map(float, svg.get("viewBox", "").split())
        for element in svg.iter():
            for names, limit in ((("x", "x1", "x2", "cx"), width), (("y", "y1", "y2", "cy"), height)):
                for name in names:
                    assert 0 <= float(element.get(name, 0)) <= limit, (element.tag, element.attrib)


def test_both_colour_schemes_colour_every_class_that_is_drawn(histogram: Histogram) -> None:
    many = {f"series {index}": SERIES["all & more"] for index in range(8)}
    for text in (histogram_svg(histogram, [0.0], "t"), line_plot_svg(many, "t", "x", "y")):
        svg = ElementTree.fromstring(text)
        light, dark = (svg.findtext(f"{SVG}style") or "").split("@media(prefers-color-scheme:dark)")
        drawn = {each.get("class", "").split()[-1] for each in svg.iter() if each.get("class") not in (None, "nsp")}
        assert {"a", "g", "ground"} < drawn
        for name in drawn:
            assert f".nsp .{name}{{" in light and f".nsp .{name}{{" in dark, name


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (-3.0, 3.0, [-3, -2, -1, 0, 1, 2, 3]), (0.012, 0.019, None)],
)
def test_ticks_are_round_and_inside(low: float, high: float, expected: list[float] | None) -> None:
    found = ticks(low, high)
    assert len(found) >= 3 and all(low <= tick <= high for tick in found)
    assert expected is None or found == expected


def test_one_point_and_one_value_make_plots() -> None:
    ElementTree.fromstring(line_plot_svg({"a": [(4.0, 0.0, 0.0, 0.0)]}, "t", "x", "y"))
    ElementTree.fromstring(histogram_svg(Histogram.of([2.0]), [2.0], "t", log_y=True))


def test_nonsense_is_refused(histogram: Histogram) -> None:
    with pytest.raises(ValueError, match="not finite"):
        histogram_svg(histogram, [float("nan")], "t")
    with pytest.raises(ValueError, match="not finite"):
        line_plot_svg({"a": [(1.0, float("inf"), 0.0, 1.0)]}, "t", "x", "y")
    with pytest.raises(ValueError, match="outside its error bar"):
        line_plot_svg({"a": [(1.0, 2.0, 0.0, 1.0)]}, "t", "x", "y")
    with pytest.raises(ValueError, match="without points"):
        line_plot_svg({"a": []}, "t", "x", "y")

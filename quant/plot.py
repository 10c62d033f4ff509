"""Plots as SVG text, inline in a page or as a file of their own, with nothing but the standard library.

Colours follow the reader's light or dark preference; each plot paints its own ground, so it stays readable on a page
that does not. Every mark carries its numbers as a tooltip (`<title>`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from quant.histogram import Histogram

WIDTH: Final = 640
HEIGHT: Final = 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 40, 48

LinePoint = tuple[float, float, float, float]
"""x, y, and the low and high end of the error bar."""

_LIGHT: Final = ("#ffffff", "#1f2328", "#d8dee4", "#0969da", "#bc4c00", "#1a7f37", "#8250df", "#bf3989", "#6e7781")
_DARK: Final = ("#0d1117", "#e6edf3", "#30363d", "#58a6ff", "#f0883e", "#56d364", "#bc8cff", "#ff7bac", "#9ea7b3")
"""Ground, ink, grid, then one colour per series."""

_SERIES: Final = len(_LIGHT) - 3
"""Colours and dashes before they repeat."""

_DASHES: Final = ("none", "7 3", "2 3", "9 3 2 3", "4 4", "12 4")


def _rules(colours: Sequence[str]) -> str:
    """Style rules without variables, which viewers of SVG files know less widely than browsers do."""
    ground, ink, grid, *series = colours
    rules = f".nsp .ground{{fill:{ground}}}.nsp text{{fill:{ink}}}.nsp .a{{stroke:{ink}}}.nsp .g{{stroke:{grid}}}"
    return rules + "".join(f".nsp .s{i}{{stroke:{each}}}.nsp .f{i}{{fill:{each}}}" for i, each in enumerate(series))


_STYLE: Final = f"{_rules(_LIGHT)}@media(prefers-color-scheme:dark){{{_rules(_DARK)}}}"


@dataclass(frozen=True)
class Axis:
    """Maps [low, high] to pixels [first, last], evenly."""

    low: float
    high: float
    first: float
    last: float

    def __call__(self, value: float) -> float:
        """Pixel of a value."""
        return self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first)


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """About `count` multiples of 1, 2 or 5 times a power of ten within [low, high]."""
    step = 10.0 ** math.floor(math.log10((high - low) / count))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step * count >= 0.999 * (high - low))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [0.0 if index == 0 else float(f"{index * step:.12g}") for index in range(first, last + 1)]


def _number(value: float) -> str:
    return f"{value:.6g}"


def _check_finite(values: Sequence[float]) -> None:
    if not all(map(math.isfinite, values)):
        raise ValueError("a plot of values that are not finite")


def _line(kind: str, x0: float, y0: float, x1: float, y1: float) -> str:
    return f'<line class="{kind}" x1="{x0:.2f}" y1="{y0:.2f}" x2="{x1:.2f}" y2="{y1:.2f}"/>'


def _text(x: float, y: float, anchor: str, text: str, extra: str = "") -> str:
    return f'<text x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}"{extra}>{escape(text)}</text>'


def _frame(
    x: Axis,
    y: Axis,
    x_ticks: Sequence[float],
    y_ticks: Sequence[tuple[float, str]],
    labels: tuple[str, str],
) -> list[str]:
    """Grid, axes, tick numbers and the labels of x and y."""
    parts = []
    for value, name in y_ticks:
        parts += [
            _line("g", x.first, y(value), x.last, y(value)),
            _text(x.first - 6, y(value) + 4, "end", name),
        ]
    for value in x_ticks:
        parts += [
            _line("a", x(value), y.first, x(value), y.first + 4),
            _text(x(value), y.first + 17, "middle", _number(value)),
        ]
    middle = (y.first + y.last) / 2
    return [
        *parts,
        _line("a", x.first, y.first, x.last, y.first),
        _line("a", x.first, y.first, x.first, y.last),
        _text((x.first + x.last) / 2, y.first + 36, "middle", labels[0]),
        _text(14, middle, "middle", labels[1], f' transform="rotate(-90 14 {middle:.2f})"'),
    ]


def _document(title: str, height: float, parts: Sequence[str]) -> str:
    """A whole SVG element with its own style; valid inline in HTML and as a file."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="nsp" role="img" aria-label={quoteattr(title)} '
        f'viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}" '
        f'font-family="system-ui, sans-serif" font-size="12"><style>{_STYLE}</style>'
        f'<rect class="ground" width="{WIDTH}" height="{height:g}"/>'
        + _text(WIDTH / 2, 22, "middle", title, ' font-size="14" font-weight="600"')
        + "".join(parts)
        + "</svg>"
    )


def _padded(low: float, high: float, share: float) -> tuple[float, float]:
    """The range with `share` of it on either side; some width where it has none."""
    pad = (high - low) * share or max(abs(low) * 0.1, 0.5 if low == 0 else abs(low) * 0.1)
    return low - pad, high + pad


def _count_axis(largest: int, log_y: bool) -> tuple[Callable[[float], float], Axis, list[tuple[float, str]]]:
    """The scale of counts (to apply before the axis), the axis, and its ticks."""
    first, last = float(HEIGHT - _BOTTOM), float(_TOP)
    if not log_y:
        axis = Axis(0.0, 1.05 * max(largest, 1), first, last)
        return float, axis, [(tick, _number(tick)) for tick in ticks(0.0, axis.high, 5)]

    def scale(count: float) -> float:
        # Half a value is the ground line: one value still shows as a bar, none as no bar.
        return math.log10(max(count, 0.5))

    axis = Axis(scale(0), scale(max(largest, 1)) + 0.1, first, last)
    decades = range(math.floor(axis.high) + 1)
    return scale, axis, [(float(decade), f"{10**decade:,}") for decade in decades]


def histogram_svg(
    histogram: Histogram,
    levels: Sequence[float],
    title: str,
    x_label: str = "value",
    log_y: bool = False,
) -> str:
    """Bars of a histogram with one vertical line per quantization level, `levels` in the unit of the values.

    The plot spans bars and levels; values outside the bars are told in the label of the x axis. log_y: counts on a
    logarithmic axis. Raises ValueError for levels that are not finite.
    """
    _check_finite(levels)
    low, high = _padded(min([histogram.edges[0], *levels]), max([histogram.edges[-1], *levels]), 0.02)
    x = Axis(low, high, _LEFT, WIDTH - _RIGHT)
    scale, y, y_ticks = _count_axis(max(histogram.counts), log_y)
    outside = histogram.below + histogram.above
    beside = f" ({histogram.below:,} values below and {histogram.above:,} above the bars)" if outside else ""
    labels = (x_label + beside, "count, logarithmic" if log_y else "count")
    parts = _frame(x, y, ticks(low, high, 8), y_ticks, labels)
    bins = zip(histogram.edges, histogram.edges[1:], histogram.counts, strict=False)
    for left, right, count in ((left, right, count) for left, right, count in bins if count):
        top = y(scale(count))
        parts.append(
            f'<rect class="bar f0" x="{x(left):.2f}" y="{top:.2f}" width="{x(right) - x(left):.2f}" '
            f'height="{y.first - top:.2f}" fill-opacity="0.75">'
            f"<title>{count} in {_number(left)} to {_number(right)}</title></rect>"
        )
    parts += [
        f'<line class="level s1" x1="{x(level):.2f}" y1="{y.first:.2f}" x2="{x(level):.2f}" y2="{y.last:.2f}" '
        f'stroke-width="1.2"><title>level {_number(level)}</title></line>'
        for level in levels
    ]
    return _document(title, HEIGHT, parts)


def _marker(kind: str, index: int, x: float, y: float) -> str:
    """Opening tag of the marker of a series: circle, square or diamond, so colour alone decides nothing."""
    attributes = f'class="{kind} f{index % _SERIES}"'
    if index % 3 == 0:
        return f'<circle {attributes} cx="{x:.2f}" cy="{y:.2f}" r="4">'
    turn = f' transform="rotate(45 {x:.2f} {y:.2f})"' if index % 3 == 2 else ""
    return f'<rect {attributes} x="{x - 3.5:.2f}" y="{y - 3.5:.2f}" width="7" height="7"{turn}>'


def _error_bar(index: int, x: float, low: float, high: float) -> str:
    ends = f"M{x - 4:.2f} {low:.2f}H{x + 4:.2f}M{x:.2f} {low:.2f}V{high:.2f}M{x - 4:.2f} {high:.2f}H{x + 4:.2f}"
    return f'<path class="error s{index % _SERIES}" d="{ends}" stroke-width="1.5" fill="none"/>'


def line_plot_svg(series: Mapping[str, Sequence[LinePoint]], title: str, x_label: str, y_label: str) -> str:
    """One line per series of points (x, y, low, high), sorted by x, with error bars from low to high and a legend.

    x is ticked at the values that occur where they are at most 12. The series stand a few pixels beside each other,
    so that their error bars do not cover one another. Raises ValueError without points, for values that are not
    finite, and for a y outside its [low, high].
    """
    points = [point for each in series.values() for point in each]
    if not points:
        raise ValueError("a plot without points")
    _check_finite([value for point in points for value in point])
    if any(not low <= y <= high for _, y, low, high in points):
        raise ValueError("a point outside its error bar")
    x_values = sorted({point[0] for point in points})
    x_low, x_high = _padded(x_values[0], x_values[-1], 0.08)
    y_low, y_high = _padded(min(point[2] for point in points), max(point[3] for point in points), 0.06)
    x = Axis(x_low, x_high, _LEFT, WIDTH - _RIGHT)
    y = Axis(y_low, y_high, HEIGHT - _BOTTOM, _TOP)
    y_ticks = [(tick, _number(tick)) for tick in ticks(y_low, y_high)]
    parts = _frame(x, y, x_values if len(x_values) <= 12 else ticks(x_low, x_high, 8), y_ticks, (x_label, y_label))
    for index, (name, values) in enumerate(series.items()):
        colour, beside = f"s{index % _SERIES}", 9 * (index - (len(series) - 1) / 2)
        style = f'stroke-width="2" stroke-dasharray="{_DASHES[index % _SERIES]}" fill="none"'
        placed = [(x(at) + beside, y(value)) for at, value, _, _ in sorted(values)]
        corners = " ".join(f"{across:.2f},{down:.2f}" for across, down in placed)
        parts.append(f'<polyline class="series {colour}" points="{corners}" {style}/>')
        for (at, value, low, high), (across, down) in zip(sorted(values), placed, strict=True):
            if low < high:
                parts.append(_error_bar(index, across, y(low), y(high)))
            span = f" ({_number(low)} to {_number(high)})" if low < high else ""
            tooltip = escape(f"{name}: {_number(value)}{span} at {_number(at)}")
            tag = _marker("point", index, across, down)
            parts.append(f"{tag}<title>{tooltip}</title></{tag[1:].split(' ', 1)[0]}>")
        line = HEIGHT + 18 * index
        parts.append(f'<path class="key {colour}" d="M{_LEFT} {line}h28" {style}/>')
        key = _marker("key", index, _LEFT + 14, line)
        parts += [key[:-1] + "/>", _text(_LEFT + 36, line + 4, "start", name)]
    return _document(title, HEIGHT + 18 * len(series), parts)

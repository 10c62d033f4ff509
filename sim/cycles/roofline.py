"""Roofline of a program as SVG: layers by MACs per byte of external memory and MACs per cycle, below what the array and
the memory allow."""

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from sim.cycles.memory import MemoryRate
from sim.cycles.model import LayerCycles
from sim.machine.presets import MachinePreset

WIDTH, HEIGHT = 900, 560
LEFT, RIGHT, TOP, BOTTOM = 70, 24, 56, 56
NAMED = 8
"""Layers that carry their name: those of the most cycles whose names do not cover one another."""

LETTER, LINE = 6.2, 12.0
"""Pixels of a name's letters and lines, about."""

LARGEST = 16.0
"""Radius of a layer that takes all cycles; areas are shares."""

COLOURS = {"array": "#0969da", "memory": "#bc4c00", "near": "#1a7f37"}


class _Axis:
    """Decades of low..high on pixels first..last."""

    def __init__(self, low: float, high: float, first: float, last: float) -> None:
        self.low, self.high = math.floor(math.log10(low)), math.ceil(math.log10(high))
        self._first, self._scale = first, (last - first) / max(self.high - self.low, 1)

    def __call__(self, value: float) -> float:
        return self._first + (math.log10(value) - self.low) * self._scale

    def decades(self) -> list[int]:
        """Exponents of the grid."""
        return list(range(self.low, self.high + 1))


def roofline(title: str, layers: Sequence[LayerCycles], preset: MachinePreset, memory: MemoryRate) -> str:
    """The SVG. Layers that give the array nothing to do, or move nothing external, have no place and are counted."""
    total = sum(layer.cycles for layer in layers)
    points = [(layer, layer.bytes_read + layer.bytes_written) for layer in layers]
    points = [(layer, moved) for layer, moved in points if layer.macs and moved]
    peak, rate = preset.rows * preset.columns, preset.beat_bytes / memory.beat
    ridge = peak / rate
    intensities = [layer.macs / moved for layer, moved in points]
    speeds = [layer.macs / layer.cycles for layer, _ in points]
    x = _Axis(min([*intensities, ridge / 10]), max([*intensities, ridge * 10]), LEFT, WIDTH - RIGHT)
    y = _Axis(min([*speeds, peak / 10]), peak, HEIGHT - BOTTOM, TOP)
    left, right = 10.0**x.low, 10.0**x.high
    floor = 10.0**y.low
    parts = [*_grid(x, y), _text(LEFT, 22, title, size=15)]
    begin = max(left, floor / rate)
    roof = [(begin, begin * rate), (ridge, peak), (right, peak)]
    line = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in roof)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#1f2328" stroke-width="2"/>')
    parts.append(_text(WIDTH - RIGHT, y(peak) - 6, f"array: {peak:,} MAC/cycle", anchor="end"))
    half = math.sqrt(begin * ridge)
    parts.append(_text(x(half) - 8, y(half * rate) - 8, f"memory: {rate:.3g} B/cycle", anchor="end"))
    heavy = sorted(points, key=lambda each: -each[0].cycles)
    named: list[tuple[float, float, float]] = []  # left end, right end and line of names
    for layer, moved in heavy:
        at, value = x(layer.macs / moved), y(layer.macs / layer.cycles)
        radius = max(LARGEST * math.sqrt(layer.cycles / total), 2.0)
        about = (
            f"{layer.names[-1]}: {layer.cycles:,} cycles ({layer.cycles / total:.1%}), {layer.macs / moved:.1f} MAC/B, "
            f"{layer.macs / layer.cycles:.1f} MAC/cycle, {layer.ratio:.2f} of the lower bound"
        )
        parts.append(
            f'<circle cx="{at:.1f}" cy="{value:.1f}" r="{radius:.1f}" fill="{COLOURS[layer.bound]}" '
            f'fill-opacity="0.6"><title>{escape(about)}</title></circle>'
        )
        width = LETTER * len(layer.names[-1])
        place = at - radius - 4 - width if at > 0.7 * WIDTH else at + radius + 4
        covered = any(
            place < last and first < place + width and abs(value - line) < LINE for first, last, line in named
        )
        if len(named) < NAMED and not covered:
            named.append((place, place + width, value))
            parts.append(_text(place, value + 4, layer.names[-1], size=11))
    rest = total - sum(layer.cycles for layer, _ in points)
    note = f"area: share of the cycles; colour: {', '.join(COLOURS)} roof is the highest"
    if rest:
        note += f"; {len(layers) - len(points)} layers without MACs ({rest / total:.0%} of the cycles) are not shown"
    parts.append(_text(LEFT, 42, note, size=11))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "MAC per byte of external memory", anchor="middle"))
    parts.append(
        f'<text transform="translate(18 {HEIGHT / 2}) rotate(-90)" text-anchor="middle" font-size="12">MAC per cycle'
        "</text>"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'fill="#1f2328"><rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">{escape(text)}</text>'


def _grid(x: _Axis, y: _Axis) -> list[str]:
    parts = []
    for power in x.decades():
        at = x(10.0**power)
        parts.append(f'<path d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#d8dee4"/>')
        parts.append(_text(at, HEIGHT - BOTTOM + 18, f"{10.0**power:g}", anchor="middle"))
    for power in y.decades():
        at = y(10.0**power)
        parts.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#d8dee4"/>')
        parts.append(_text(LEFT - 6, at + 4, f"{10.0**power:g}", anchor="end"))
    return parts

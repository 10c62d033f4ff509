"""The cycle model's timeline: a span per layer, and of every unit what it needs of the layer's cycles."""

from collections.abc import Sequence

import numpy as np

from sim.cycles.model import LayerCycles
from sim.trace import STATES, TRACE_MHZ, Span, Trace, UnitActivity

LAYERS = "layers"


def model_trace(title: str, layers: Sequence[LayerCycles]) -> Trace:
    """Layers one behind the other. A unit is `busy` for the cycles that it needs at its rate and idle for the rest:
    where within the layer, and what it waits for, the model does not say."""
    ends = np.cumsum([layer.cycles for layer in layers])
    starts = ends - [layer.cycles for layer in layers]
    spans = [
        Span(start, start + layer.cycles, layer.names[-1], _figures(layer))
        for start, layer in zip(starts.tolist(), layers, strict=True)
    ]
    units = {}
    for unit in layers[0].busy:
        counts = np.zeros((len(layers), len(STATES)), np.int64)
        counts[:, 1] = [min(round(layer.busy[unit]), layer.cycles) for layer in layers]
        counts[:, 0] = [layer.cycles for layer in layers] - counts[:, 1]
        units[unit] = UnitActivity(starts, counts.argmax(axis=1).astype(np.uint8), {}, counts)
    return Trace(title, int(ends[-1]), TRACE_MHZ, units, {LAYERS: spans})


def _figures(layer: LayerCycles) -> dict[str, object]:
    return {
        "operations": ", ".join(layer.names),
        "kind": layer.kind,
        "MACs": layer.macs,
        "MB external": round((layer.bytes_read + layer.bytes_written) / 1e6, 3),
        "MB external, once": round(layer.bytes_once / 1e6, 3),
        "MB external, again at least": round(layer.bytes_again / 1e6, 3),
        "bound by": layer.bound,
        "of the lower bound": round(layer.ratio, 2),
    }

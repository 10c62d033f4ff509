"""What external memory has to give more than once, as memory on the chip is small: a bound of the preset's buffers."""

import numpy as np

from sim.compiler.heads import Heads, queries_of_set
from sim.compiler.trace import ZERO, Node, View, trace
from sim.contract.attention import Attention, stationary_planes
from sim.contract.layer import QuantizedLayer
from sim.golden.architecture import Architecture
from sim.golden.parameters import Parameters
from sim.machine.presets import MachinePreset


def bytes_again(parameters: Parameters, architecture: Architecture, preset: MachinePreset) -> dict[str, int]:
    """Least bytes beyond the first pass of every operation of an image encoder, by its name."""
    nodes, _ = trace(parameters, architecture, preset.lanes)
    return {node.name: again(node, preset) for node in nodes}


def held_bytes(preset: MachinePreset) -> int:
    """On-chip memory for operands: near memory and both halves of the buffer of codes."""
    return preset.near_bytes + 2 * preset.block_words * preset.rows // 2


def again(node: Node, preset: MachinePreset) -> int:
    """Of one operation: dense layers, where neither operand fits, and attention in several sets of queries."""
    operation = node.operation
    if isinstance(operation, QuantizedLayer):
        codes = _values(node.inputs[0], preset.lanes) * operation.encoder.code_planes // 2
        weights = operation.weight.size * operation.weight_planes // 2
        return of_product(codes, weights, held_bytes(preset))
    if isinstance(operation, Attention):
        windows, tokens, _ = node.shape
        heads = Heads(operation, preset.rows)
        planes = stationary_planes(operation.k) + stationary_planes(operation.v)
        stationary = tokens * heads.width * planes // 2
        sets = -(-tokens // queries_of_set(preset, tokens, heads.words))
        return windows * operation.heads * (sets - 1) * max(stationary - held_bytes(preset), 0)
    return 0


def of_product(codes: int, weights: int, held: int) -> int:
    """Bytes beyond codes and weights once each, of a product of which `held` bytes of operands are on the chip.

    A part of one operand stays, the other passes it: in all codes * weights / held and, once, the one that is in parts.
    Partial sums do not leave the array.
    """
    if min(codes, weights) <= held:
        return 0
    return max(codes * weights // held - max(codes, weights), 0)


def _values(view: View, lanes: int) -> int:
    """Values of a tensor that an input reads, each counted once."""
    if view.beats is None:
        return view.tokens * view.channels
    return int(np.unique(view.beats[view.beats != ZERO]).size) * lanes

"""Chains of operations whose results only the next one reads: computed a few rows of the map at a time.

A result between two operations of a chain need never be in memory as a whole. A depthwise convolution reads a row more
on either side, so neighbouring stripes compute those rows twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sim.compiler.trace import Node
from sim.contract.activation_table import ActivationTable
from sim.contract.attention import Attention
from sim.contract.depthwise import Depthwise
from sim.contract.layer import QuantizedLayer
from sim.contract.layer_norm import LayerNorm
from sim.contract.residual import Residual


@dataclass(frozen=True)
class Rows:
    """Rows start..stop of a map."""

    start: int
    stop: int


def convolved(wanted: Rows, stride: int, length: int) -> Rows:
    """Rows, or columns, of a map of so many that a 3 x 3 convolution with this stride needs for those that are wanted.

    With stride 2 the first is even, so that a part of a map has the same centres as the whole.
    """
    return Rows(max(0, stride * wanted.start - stride), min(length, stride * (wanted.stop - 1) + 2))


def input_rows(node: Node, wanted: Rows, height: int) -> Rows:
    """Rows of the first input of `height` rows that the wanted rows of a result need."""
    return convolved(wanted, node.operation.stride, height) if isinstance(node.operation, Depthwise) else wanted


def rows_of(shape: tuple[int, ...]) -> int:
    """Rows of a map, or tokens where there is none."""
    return shape[0]


def chains(nodes: Sequence[Node], readers: Mapping[int, int], lanes: int) -> list[list[Node]]:
    """The operations in order, those together whose results only the next one reads, as they stand.

    readers: how many inputs read each tensor. lanes: values of a beat. A chain begins with a dense layer or a norm, and
    an addition of its result to a tensor from outside ends it, but for an activation behind that; so does an addition
    begin one.
    """
    result: list[list[Node]] = []
    for node in nodes:
        if result and _continues(result[-1], node, readers, lanes):
            result[-1].append(node)
        else:
            result.append([node])
    return result


def _continues(chain: list[Node], node: Node, readers: Mapping[int, int], lanes: int) -> bool:
    last = chain[-1]
    if isinstance(node.operation, Attention):
        return isinstance(chain[0].operation, QuantizedLayer | LayerNorm) and _splits(last, node, readers, lanes)
    if readers[last.number] != 1:
        return False
    if isinstance(node.operation, Residual):
        return _adds(chain, node)
    if not isinstance(chain[0].operation, QuantizedLayer | LayerNorm | Residual) or not _reads(node, last):
        return False
    if any(isinstance(one.operation, Residual) for one in chain[1:]):
        return isinstance(node.operation, ActivationTable) and isinstance(last.operation, Residual)
    kinds = QuantizedLayer | LayerNorm | ActivationTable | Depthwise
    behind = isinstance(last.operation, kinds) or isinstance(node.operation, ActivationTable)
    return isinstance(node.operation, kinds) and behind


def _reads(node: Node, last: Node) -> bool:
    """True where the first input is the last result as it stands."""
    view = node.inputs[0]
    return view.source == last.number and view.beats is None and view.shape == last.shape


def _adds(chain: list[Node], node: Node) -> bool:
    """True for an addition of a chain's last result, of a dense layer, to a tensor from outside, as both stand."""
    last = chain[-1]
    if not isinstance(last.operation, QuantizedLayer):
        return False
    inside = {one.number for one in chain}
    sources = [view.source for view in node.inputs]
    as_they_stand = all(view.beats is None and view.shape == node.shape == last.shape for view in node.inputs)
    return len(sources) == 2 and as_they_stand and sum(source in inside for source in sources) == 1


def _splits(last: Node, node: Node, readers: Mapping[int, int], lanes: int) -> bool:
    """True where an attention reads nothing but the last result, windows apart: whole windows are its rows then."""
    if readers[last.number] != len(node.inputs) or last.shape[:-1] != node.shape[:-1]:
        return False
    token = np.arange(last.tokens)[:, None]
    return all(
        view.source == last.number
        and view.beats is not None
        and np.array_equal(view.beats // -(-last.channels // lanes), np.broadcast_to(token, view.beats.shape))
        for view in node.inputs
    )

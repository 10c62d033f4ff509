"""Operations of a chain that run as one, values going from unit to unit on the chip.

A LayerNorm in front of a dense layer, and an activation behind a dense layer, a depthwise convolution or an addition:
what lies between them is never in memory (Port.ROUTE).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sim.compiler.trace import Node
from sim.compiler.vector import TOKENS_MAX
from sim.contract.activation_table import ActivationTable
from sim.contract.depthwise import Depthwise
from sim.contract.layer import QuantizedLayer
from sim.contract.layer_norm import LayerNorm
from sim.contract.residual import Residual
from sim.machine.presets import MachinePreset


@dataclass(frozen=True)
class Fused:
    """main, with a norm in front of it and an activation behind it, where there are."""

    main: Node
    norm: Node | None = None
    activation: Node | None = None

    @property
    def nodes(self) -> list[Node]:
        """In the order of the network."""
        return [node for node in (self.norm, self.main, self.activation) if node is not None]

    @property
    def first(self) -> Node:
        """What reads from memory."""
        return self.nodes[0]

    @property
    def last(self) -> Node:
        """Whose result is in memory."""
        return self.nodes[-1]

    @property
    def dense(self) -> bool:
        """Results are payloads of the array."""
        return isinstance(self.main.operation, QuantizedLayer)


def _routed(norm: Node, preset: MachinePreset) -> bool:
    """True where tokens of normed values are whole beats, and one command of the unit takes all of them."""
    whole = norm.channels % preset.lanes == 0 == norm.channels % preset.norm_lanes
    return whole and norm.tokens <= TOKENS_MAX


def fuse(chain: Sequence[Node], preset: MachinePreset) -> list[Fused]:
    """The operations of a chain (sim.compiler.stripes.chains), in order."""
    result: list[Fused] = []
    for node in chain:
        before = result[-1] if result else None
        if before is None:
            result.append(Fused(node))
        elif (
            isinstance(node.operation, QuantizedLayer)
            and isinstance(before.main.operation, LayerNorm)
            and _routed(before.main, preset)
        ):
            result[-1] = Fused(node, norm=before.main)
        elif (
            isinstance(node.operation, ActivationTable)
            and isinstance(before.main.operation, QuantizedLayer | Depthwise | Residual)
            and before.activation is None
        ):
            result[-1] = Fused(before.main, before.norm, node)
        else:
            result.append(Fused(node))
    return result

"""How many windows, and how many heads of them, near memory holds at a time: stripes are lowered for a try."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeAlias

from sim.compiler.builder import Builder
from sim.compiler.dense import results_pitch
from sim.compiler.estimate import estimate
from sim.compiler.fuse import Fused
from sim.compiler.head_groups import group_sizes
from sim.compiler.held_constants import Span, constants_within, hold_constants
from sim.compiler.memory import RoomError
from sim.compiler.near_stripes import NearStripes, flattened
from sim.compiler.near_windows import NearWindows
from sim.compiler.passes import layer_passes
from sim.compiler.region import Region
from sim.compiler.window_chain import WindowChain
from sim.contract.attention import Attention
from sim.contract.layer import QuantizedLayer
from sim.machine.commands import Command

WINDOWS: Final = (1, 2, 3, 4, 6, 8)
"""Windows of a stripe that are tried."""


@dataclass(frozen=True)
class WindowPlan:
    """windows: of a stripe. heads: of a group."""

    windows: int
    heads: int


KnownWindows: TypeAlias = dict[tuple[object, ...], WindowPlan | None]
"""Choices by kinds and shapes of a chain's operations."""


@dataclass(frozen=True)
class WindowTrial:
    """result, regions: as of NearWindows. known: choices for chains before; those of this one are added."""

    chain: WindowChain
    builder: Builder
    result: Region
    regions: Mapping[int, Region]
    known: KnownWindows

    def choice(self) -> WindowPlan | None:
        """The cheapest way; None where near memory holds none, or results in external memory cost less."""
        chain = self.chain
        nodes = *chain.qkv.nodes, chain.attend, chain.proj, chain.add
        key = tuple((type(node.operation), node.shape) for node in nodes)
        if key not in self.known:
            with self.builder.forgetting():
                self.known[key] = self._cheapest()
        plan = self.known[key]
        return None if plan is None or self._lowered(plan, ()) is None else plan

    def constants(self, plan: WindowPlan) -> tuple[Span, ...]:
        """What a stripe reads again, as much of it as near memory has room for."""
        lowered = self._lowered(plan, ())
        assert lowered is not None
        commands, peak = lowered
        return constants_within(commands[-1], self.builder.beat, self.builder.preset.near_bytes - peak)

    def _cheapest(self) -> WindowPlan | None:
        attention = self.chain.attend.operation
        assert isinstance(attention, Attention)
        costs: dict[WindowPlan, float] = {}
        for windows in WINDOWS:
            for heads in group_sizes(attention):
                way = WindowPlan(windows, heads)
                cost = self._cost(way)
                if cost is not None:
                    costs[way] = cost
        plan = min(costs, key=lambda one: costs[one], default=None)
        other = self._other_cost() if plan is not None else None
        return None if plan is None or (other is not None and other <= costs[plan]) else plan

    def _cost(self, plan: WindowPlan) -> float | None:
        """Cycles, roughly; None where near memory is too small, or a stripe is no full one."""
        stripes = self.chain.stripes(plan.windows)
        if len(stripes[0]) < plan.windows or self._lowered(plan, ()) is None:
            return None
        lowered = self._lowered(plan, self.constants(plan))
        if lowered is None:
            return None
        copies, one, *others = (estimate(commands, self.builder.preset, self._load()) for commands in lowered[0])
        return copies + one + sum(others) * (len(stripes) - 1)

    def _load(self) -> int:
        """Cycles of a LOAD of the slower layer."""
        layers = [node.operation for node in (self.chain.qkv.main, self.chain.proj)]
        with self.builder.trial():
            return max(layer_passes(self.builder, one).load for one in layers if isinstance(one, QuantizedLayer))

    def _lowered(self, plan: WindowPlan, constants: tuple[Span, ...]) -> tuple[list[list[Command]], int] | None:
        """Commands for the copies of constants, and for each of the first two stripes, and the bytes of near memory
        that they take; None where they do not fit."""
        builder = self.builder
        ends = [len(builder.commands)]
        with builder.trial():
            builder.near.peak = 0
            parts = NearWindows(self.chain, builder, self.result, self.regions, plan.heads)
            try:
                hold_constants(builder, constants)
                ends.append(len(builder.commands))
                for stripe in self.chain.stripes(plan.windows)[:2]:
                    parts.lower(stripe)
                    ends.append(len(builder.commands))
            except RoomError:
                return None
            return [builder.commands[start:stop] for start, stop in pairwise(ends)], builder.near.peak

    def _other_cost(self) -> float | None:
        """Of what attention gives in external memory, and all before it too."""
        chain, builder = self.chain, self.builder
        attend = chain.attend
        pitch = results_pitch(attend.channels, builder.preset)
        beats = -(-attend.channels // builder.preset.lanes)
        region = Region(builder.memory.take(attend.tokens * pitch), pitch, beats, builder.beat, builder.zeros)
        last = flattened([Fused(chain.proj), Fused(chain.add)])
        costs = [
            NearStripes([chain.qkv, Fused(attend)], builder, region, self.regions, {}).cost_of_external(),
            NearStripes(last, builder, self.result, {**self.regions, attend.number: region}, {}).cost_of_external(),
        ]
        builder.memory.free(region.address)
        return None if costs[0] is None or costs[1] is None else costs[0] + costs[1]

"""How many windows, and how many heads of them, near memory holds at a time: stripes are lowered for a try."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, TypeAlias

from sim.compiler.builder import Builder
from sim.compiler.dense import results_pitch
from sim.compiler.estimate import estimate
from sim.compiler.fuse import Fused
from sim.compiler.head_groups import group_sizes
from sim.compiler.held_constants import Span, constants_read, constants_within, copies_bytes, hold_constants
from sim.compiler.memory import RoomError
from sim.compiler.near_stripes import NearStripes, flattened
from sim.compiler.near_windows import NearWindows
from sim.compiler.passes import layer_passes
from sim.compiler.region import Region
from sim.compiler.window_chain import WindowChain
from sim.contract.attention import Attention
from sim.contract.layer import QuantizedLayer
from sim.machine.commands import Command, Opcode

WINDOWS: Final = (1, 2, 3, 4, 6, 8)
"""Windows of a stripe that are tried."""


WAIT_CYCLES: Final = 300
"""Until all units have come to rest and are busy again: stripes of few heads wait often, and for little."""


@dataclass(frozen=True)
class WindowPlan:
    """windows: of a stripe. heads: of a group. constants: spans that are copied to near memory first."""

    windows: int
    heads: int
    constants: tuple[Span, ...] = ()


KnownWindows: TypeAlias = dict[tuple[object, ...], WindowPlan | None]
"""Choices by kinds and shapes of a chain's operations, constants left out."""


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
                self.known[key] = self.cheapest()
        plan = self.known[key]
        return None if plan is None else self._held(plan)

    def cheapest(self) -> WindowPlan | None:
        """The same, by trials; without its constants."""
        costs: dict[WindowPlan, float] = {}
        for windows in WINDOWS:
            if windows > len(self.chain.stripes(windows)[0]):
                break
            costs |= self._costs(windows)
        plan = min(costs, key=lambda one: costs[one], default=None)
        other = self._other_cost() if plan is not None else None
        return None if plan is None or (other is not None and other <= costs[plan]) else plan

    def _costs(self, windows: int) -> dict[WindowPlan, float]:
        """Cycles, roughly, for groups of heads that fit; smaller ones only where those leave no room for constants."""
        attention = self.chain.attend.operation
        assert isinstance(attention, Attention)
        costs: dict[WindowPlan, float] = {}
        for heads in group_sizes(attention):
            plan = WindowPlan(windows, heads)
            held = self._held(plan)
            if held is None:
                continue
            lowered = self._lowered(held)
            if lowered is None:
                continue
            copies, one, *others = (self._cycles(commands) for commands in lowered[0])
            costs[plan] = copies + one + sum(others) * (len(self.chain.stripes(windows)) - 1)
            if copies_bytes(constants_read(lowered[0][-1], self.builder.beat)) == 0:
                break
        return costs

    def _held(self, plan: WindowPlan) -> WindowPlan | None:
        """With what a stripe reads again, as much of it as near memory has room for; None where that does not hold the
        stripe."""
        lowered = self._lowered(replace(plan, constants=()))
        if lowered is None:
            return None
        commands, peak = lowered
        room = self.builder.preset.near_bytes - peak
        return replace(plan, constants=constants_within(commands[-1], self.builder.beat, room))

    def _cycles(self, commands: list[Command]) -> int:
        waits = sum(command.opcode == Opcode.WAIT for command in commands)
        return estimate(commands, self.builder.preset, self._load()) + WAIT_CYCLES * waits

    def _load(self) -> int:
        """Cycles of a LOAD of the slower layer."""
        layers = [node.operation for node in (self.chain.qkv.main, self.chain.proj)]
        with self.builder.trial():
            return max(layer_passes(self.builder, one).load for one in layers if isinstance(one, QuantizedLayer))

    def _lowered(self, plan: WindowPlan) -> tuple[list[list[Command]], int] | None:
        """Commands for the copies of constants, and for each of the first two stripes, and the bytes of near memory
        that they take; None where they do not fit."""
        builder = self.builder
        ends = [len(builder.commands)]
        with builder.trial():
            builder.near.peak = 0
            parts = NearWindows(self.chain, builder, self.result, self.regions, plan.heads)
            try:
                hold_constants(builder, plan.constants)
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

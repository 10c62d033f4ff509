"""Chains of operations token by token, in stripes of rows that near memory holds: what lies between two operations is
never in external memory, and constants are read from it once.

A tensor that a chain reads twice, as an MLP does its input, for the norm and for the sum, comes near with the stripe.
Stripes are equal but the last, so that they roll up into rounds.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, TypeAlias

import numpy as np

from sim.compiler.builder import Builder
from sim.compiler.dense import results_pitch
from sim.compiler.estimate import estimate
from sim.compiler.fuse import Fused
from sim.compiler.held_constants import Span, constants_read, copies_bytes, hold_constants, release_constants
from sim.compiler.hidden_codes import HiddenCodes, is_mlp, ordered
from sim.compiler.lowering import Lowering
from sim.compiler.memory import RoomError, aligned
from sim.compiler.passes import layer_passes
from sim.compiler.region import Region
from sim.compiler.stripes import Rows, rows_of
from sim.compiler.trace import Node, View
from sim.contract.activation_table import ActivationTable
from sim.contract.layer import QuantizedLayer
from sim.contract.layer_norm import LayerNorm
from sim.contract.residual import Residual
from sim.machine.commands import Command

TRIED_TOKENS: Final = 32
"""Tokens of a stripe that is lowered to see which constants it reads."""

COMPARED_TOKENS: Final = 2048
"""Tokens of a stripe whose results in between are in external memory, which near memory is compared with."""


def token_by_token(stages: Sequence[Fused]) -> bool:
    """True for several operations that make each token of a result from the same token of their input."""
    kinds = QuantizedLayer | LayerNorm | ActivationTable | Residual
    return len(stages) > 1 and all(isinstance(stage.main.operation, kinds) for stage in stages)


def flattened(stages: Sequence[Fused]) -> list[Fused]:
    """The same operations on rows of a token each, so that stripes may be of any length; of an MLP with hidden channels
    in the order of their codes (sim.compiler.hidden_codes)."""

    def flat(node: Node) -> Node:
        inputs = tuple(replace(view, shape=(view.tokens, view.channels)) for view in node.inputs)
        return replace(node, inputs=inputs, shape=(node.tokens, node.channels))

    result = [
        Fused(flat(stage.main), stage.norm and flat(stage.norm), stage.activation and flat(stage.activation))
        for stage in stages
    ]
    return ordered(result) if is_mlp(result) else result


@dataclass(frozen=True)
class StripePlan:
    """height: rows of a stripe. constants: spans that are copied to near memory first. near: results in between are in
    near memory. hidden: of an MLP near memory holds codes of the hidden values instead."""

    height: int
    constants: tuple[Span, ...]
    near: bool = True
    hidden: bool = False


Known: TypeAlias = dict[tuple[object, ...], StripePlan | None]
"""Choices by kinds and shapes of a chain's operations."""


@dataclass(frozen=True)
class NearStripes:
    """A chain of several stages, its result's region, and the regions that it reads, by the number of their tensor.

    known: choices for chains before; those of this one are added.
    """

    stages: Sequence[Fused]
    builder: Builder
    result: Region
    regions: Mapping[int, Region]
    known: Known

    @property
    def rows(self) -> int:
        """Of the result."""
        return rows_of(self.stages[-1].last.shape)

    def _inputs(self) -> list[View]:
        """What comes from outside of the chain."""
        inside = {node.number for stage in self.stages for node in stage.nodes}
        return [
            view for stage in self.stages for node in stage.nodes for view in node.inputs if view.source not in inside
        ]

    def _twice(self) -> View | None:
        """An input that is read twice as it stands."""
        seen: set[int] = set()
        for view in self._inputs():
            if view.beats is None and view.source in seen:
                return view
            seen.add(view.source)
        return None

    def _pitch(self, stage: Fused) -> int:
        node, preset = stage.last, self.builder.preset
        if stage.dense:
            return results_pitch(node.channels, preset)
        return -(-node.channels // preset.lanes) * preset.beat_bytes

    def _tokens(self, node: Node) -> int:
        """Tokens of a row."""
        return node.tokens // rows_of(node.shape)

    def _bytes(self, height: int) -> int:
        """Of near memory for a stripe of so many rows."""
        held = [aligned(height * self._tokens(stage.last) * self._pitch(stage)) for stage in self.stages[:-1]]
        twice = self._twice()
        kept = 0
        if twice is not None:
            region = self.regions[twice.source]
            kept = aligned(height * twice.tokens // self.rows * region.beats * region.beat)
        return kept + max((sum(pair) for pair in pairwise(held)), default=held[0])

    def lower(self) -> bool:
        """All of the chain, where near memory makes it cheaper; else nothing, and False."""
        plan = chosen(self.known, self, self.plan)
        if plan is not None:
            self.lower_planned(plan)
        return plan is not None

    def lower_planned(self, plan: StripePlan) -> None:
        """All of the chain. Raises RoomError where near memory is too small."""
        hold_constants(self.builder, plan.constants)
        for start in range(0, self.rows, plan.height):
            self._stripe(Rows(start, min(start + plan.height, self.rows)), plan)
        release_constants(self.builder)

    def _stripe(self, rows: Rows, plan: StripePlan) -> None:
        builder, regions = self.builder, dict(self.regions)
        if plan.hidden:
            self._hidden.stripe(rows)
            return
        memory = builder.near if plan.near else builder.memory
        twice = self._twice() if plan.near else None
        if twice is not None:
            regions[twice.source] = self._copied(twice, rows)
        held: Region | None = None
        for stage in self.stages:
            node, out = stage.last, self.result
            if stage is not self.stages[-1]:
                first, stop = (row * self._tokens(node) for row in (rows.start, rows.stop))
                pitch = self._pitch(stage)
                beats = -(-node.channels // builder.preset.lanes)
                address = memory.take((stop - first) * pitch)
                out = Region(address, pitch, beats, builder.beat, builder.zeros, first)
            Lowering(builder, rows, out, regions).lower(stage)
            regions[node.number] = out
            if held is not None:
                memory.free(held.address)
            held = out if out is not self.result else None
        if twice is not None:
            builder.near.free(regions[twice.source].address)

    def _copied(self, view: View, rows: Rows) -> Region:
        builder, source = self.builder, self.regions[view.source]
        first, stop = (row * view.tokens // self.rows for row in (rows.start, rows.stop))
        address = builder.bring(source.of_tokens(np.arange(first, stop)))
        return Region(address, source.beats * source.beat, source.beats, source.beat, source.zeros, first)

    @property
    def _hidden(self) -> HiddenCodes:
        return HiddenCodes(self.stages, self.builder, self.result, self.regions)

    # Choice

    def plan(self) -> StripePlan | None:
        """The way to go, or None where it does not fit, or costs more than results in external memory."""
        if self.rows < 2:
            return None
        plans = [*self._near_plans(), *self._hidden_plans()]
        costs = [(cost, plan) for plan in plans if (cost := self.cost(plan)) is not None]
        cost, plan = min(costs, key=lambda one: one[0], default=(None, None))
        other = self.cost_of_external()
        return None if cost is None or (other is not None and other <= cost) else plan

    def _near_plans(self) -> list[StripePlan]:
        constants = self.constants()
        if constants is None:
            return []
        room = self.builder.near.room - copies_bytes(constants)
        most = bisect_right(range(1, self.rows + 1), room, key=self._bytes)
        if not most:
            return []
        even = max(height for height in range(1, most + 1) if self.rows % height == 0)
        return [StripePlan(height, constants) for height in dict.fromkeys((even, most))]

    def _hidden_plans(self) -> list[StripePlan]:
        most = self._hidden.tokens_max if is_mlp(self.stages) else 0
        if not most:
            return []
        # As few stripes as there can be, and these about equal.
        return [StripePlan(-(-self.rows // -(-self.rows // most)), (), hidden=True)]

    def constants(self, *, near: bool = True) -> tuple[Span, ...] | None:
        """What a stripe reads again, or None where near memory does not hold the shortest."""
        lowered = self._lowered(
            StripePlan(min(-(-TRIED_TOKENS // self._tokens(self.stages[-1].last)), self.rows), (), near=near)
        )
        return None if lowered is None else tuple(constants_read(lowered[-1], self.builder.beat))

    def cost_of_external(self) -> float | None:
        """Of long stripes with results in between in external memory."""
        height = min(self.rows, -(-COMPARED_TOKENS // self._tokens(self.stages[-1].last)))
        return self.cost(StripePlan(height, (), near=False))

    def cost(self, plan: StripePlan) -> float | None:
        """Cycles, roughly; None where near memory is too small."""
        lowered = self._lowered(plan)
        if lowered is None:
            return None
        layers = [stage.main.operation for stage in self.stages if isinstance(stage.main.operation, QuantizedLayer)]
        with self.builder.trial():
            load = max((layer_passes(self.builder, layer).load for layer in layers), default=0)
        preset, in_turns = self.builder.preset, is_mlp(self.stages)
        copies, *stripes = (estimate(commands, preset, load, in_turns=in_turns) for commands in lowered)
        return copies + sum(stripes[:-1]) + stripes[-1] * (self.rows / plan.height - len(stripes) + 1)

    def _lowered(self, plan: StripePlan) -> list[list[Command]] | None:
        """Commands for the copies of constants, and for each of the first two stripes; None where they do not fit."""
        builder = self.builder
        ends = [len(builder.commands)]
        with builder.trial():
            try:
                hold_constants(builder, plan.constants)
                ends.append(len(builder.commands))
                for start in range(0, min(2 * plan.height, self.rows), plan.height):
                    self._stripe(Rows(start, min(start + plan.height, self.rows)), plan)
                    ends.append(len(builder.commands))
            except RoomError:
                return None
            return [builder.commands[start:stop] for start, stop in pairwise(ends)]


def chosen(known: Known, stripes: NearStripes, choose: Callable[[], StripePlan | None]) -> StripePlan | None:
    """What is known of a chain of the same shapes, where it still fits, or else what `choose` gives."""
    key = tuple((type(node.operation), node.shape) for stage in stripes.stages for node in stage.nodes)
    if key in known:
        before = known[key]
        if before is None:
            return None
        again = stripes.constants(near=before.near) if before.constants else ()
        plan = None if again is None else replace(before, constants=again)
        if plan is not None and stripes.cost(plan) is not None:
            return plan
    known[key] = choose()
    return known[key]

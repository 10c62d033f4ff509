"""Attention in windows, some windows at a time, so that their codes of q, k and v, and if they fit their wide values
too, lie in near memory.

A window at the edge of a map is padded, so READs of its pixels are others than those of the next. Windows are therefore
copied one behind the other first, so that all stripes are equal and roll up into rounds: or else the program would be
longer than what is spared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from sim.compiler.builder import Builder
from sim.compiler.estimate import estimate
from sim.compiler.fuse import Fused
from sim.compiler.near_stripes import Known, NearStripes, StripePlan, chosen
from sim.compiler.region import Region
from sim.compiler.trace import PICTURE, View
from sim.contract.attention import Attention
from sim.contract.layer import QuantizedLayer
from sim.machine.ports import Port

WINDOWS: Final = (1, 2, 3, 4, 8)
"""Windows of a stripe that are tried."""


def in_windows(stages: Sequence[Fused]) -> bool:
    """True for a dense layer whose input comes in windows, and attention behind it."""
    if len(stages) != 2 or not isinstance(stages[0].main.operation, QuantizedLayer):
        return False
    return isinstance(stages[1].main.operation, Attention) and stages[0].first.inputs[0].beats is not None


@dataclass(frozen=True)
class NearWindows:
    """As NearStripes, for chains of `in_windows`; rows are windows."""

    stages: Sequence[Fused]
    builder: Builder
    result: Region
    regions: Mapping[int, Region]
    known: Known

    def lower(self) -> bool:
        """All of the chain, where near memory makes it cheaper; else nothing, and False."""
        builder, begin = self.builder, len(self.builder.commands)
        view = self.stages[0].first.inputs[0]
        copy = self._copied(view)
        number = PICTURE - 1  # no tensor of the trace
        stages = [_reading(self.stages[0], View(number, view.shape)), *self.stages[1:]]
        stripes = NearStripes(stages, builder, self.result, {**self.regions, number: copy}, self.known)
        copying = estimate(builder.commands[begin:], builder.preset, 0)
        plan = chosen(self.known, stripes, lambda: self._plan(stripes, copying))
        if plan is None:
            del builder.commands[begin:]
        else:
            stripes.lower_planned(plan)
        builder.memory.free(copy.address)
        return plan is not None

    def _plan(self, stripes: NearStripes, copying: int) -> StripePlan | None:
        """The cheapest way, or None where it is the one without copies and near memory."""
        costs = {plan: cost for plan in _plans(stripes) if (cost := stripes.cost(plan)) is not None}
        plan = min(costs, key=lambda one: costs[one], default=None)
        other = replace(stripes, stages=self.stages).cost_of_external()
        return None if plan is None or (other is not None and other <= copying + costs[plan]) else plan

    def _copied(self, view: View) -> Region:
        """All windows one behind the other."""
        builder, source = self.builder, self.regions[view.source]
        beats = -(-view.channels // builder.preset.lanes)
        pitch = beats * builder.beat
        copy = Region(builder.memory.take(view.tokens * pitch), pitch, beats, builder.beat, builder.zeros)
        builder.write_block(Port.COPIED, copy.address, view.tokens * pitch)
        builder.read(Port.COPY, source.of_view(view, np.arange(view.tokens)))
        builder.wait()
        return copy


def _reading(stage: Fused, view: View) -> Fused:
    """The same stage with another input."""
    node = replace(stage.first, inputs=(view,))
    return replace(stage, main=node) if stage.norm is None else replace(stage, norm=node)


def _plans(stripes: NearStripes) -> list[StripePlan]:
    heights = [height for height in WINDOWS if height < stripes.rows]
    constants = stripes.constants(near=False)
    held = [()] if not constants else [(), constants]
    return [StripePlan(height, spans, near=near) for height in heights for spans in held for near in (True, False)]

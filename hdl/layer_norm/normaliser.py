"""The lanes with what they need in time: the token's scale, and each position's gain and bias."""

from typing import Any

from amaranth.hdl import Elaboratable, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.ecp5.block_memory import BlockMemory
from hdl.layer_norm.geometry import LayerNormGeometry
from hdl.layer_norm.lane import MAX_SHIFT, NormaliseLane
from hdl.layer_norm.reciprocal_root import CHANNELS_BITS, SCALE_LAYOUT
from hdl.pipeline import chain, delay
from sim.contract.constants import BIAS_BITS, WIDE_BITS


class Normaliser(wiring.Component):
    """`lanes` channels per cycle, normalised and finished.

    A transfer of channels is announced in cycle t by `valid`, with `first` and `last` where it is the token's, and
    is on `x` in cycle t + `x_delay`. Its results are on `y` in cycle t + `latency(x_delay)`, with
    `o_valid`. The token's `scale` stands from its first announcement on for x_delay + EXPONENT_STAGE cycles, and is
    not needed after that. `surplus` marks the lanes that carry no channel in a last transfer: they give 0.

    `write_enable` (a bit per lane) stores `gain` and `bias` for positions of transfer `write_group`.
    """

    def __init__(self, geometry: LayerNormGeometry, *, x_delay: int) -> None:
        self._geometry = geometry
        self._x_delay = x_delay
        lanes = geometry.lanes
        transfer = data.ArrayLayout(signed(WIDE_BITS), lanes)
        super().__init__(
            {
                "channels": In(CHANNELS_BITS),
                "shift": In(range(MAX_SHIFT + 1)),
                "surplus": In(lanes),
                "valid": In(1),
                "first": In(1),
                "last": In(1),
                "scale": In(SCALE_LAYOUT),
                "x": In(transfer),
                "o_valid": Out(1),
                "y": Out(transfer),
                "write_enable": In(lanes),
                "write_group": In(geometry.group_bits),
                "gain": In(signed(WIDE_BITS)),
                "bias": In(signed(BIAS_BITS)),
            }
        )

    @staticmethod
    def latency(x_delay: int) -> int:
        """Cycles from the announcement of channels to their results."""
        return x_delay + NormaliseLane.LATENCY

    def elaborate(self, platform: Any) -> Elaboratable:
        """Marks travel beside the channels; at each stage a token's first channels bring its scale."""
        m = Module()
        geometry, x_delay = self._geometry, self._x_delay
        latency = self.latency(x_delay)
        first = Signal()
        m.d.comb += first.eq(self.valid & self.first)
        firsts = chain(m, first, x_delay + NormaliseLane.EXPONENT_STAGE - 1, "first", reset_less=False)
        valids = chain(m, self.valid, latency, "valid", reset_less=False)
        lasts = chain(m, self.last, latency, "last")
        scales = {}
        for name, stage in (
            ("sum", NormaliseLane.SUM_STAGE),
            ("root", NormaliseLane.ROOT_STAGE),
            ("exponent", NormaliseLane.EXPONENT_STAGE),
        ):
            scales[name] = Signal(SCALE_LAYOUT[name].shape, name=f"scale_{name}", reset_less=True)
            with m.If(firsts[x_delay + stage - 1]):
                m.d.sync += scales[name].eq(self.scale[name])

        groups = geometry.groups(geometry.depth)
        affine_latency = BlockMemory.latency(width=BIAS_BITS, depth=groups)
        counting = x_delay + NormaliseLane.GAIN_STAGE - affine_latency
        group = Signal(geometry.group_bits)
        with m.If(valids[counting]):
            m.d.sync += group.eq(Mux(lasts[counting], 0, group + 1))
        bias_group = delay(m, group, NormaliseLane.BIAS_STAGE - NormaliseLane.GAIN_STAGE, "bias_group")
        for lane in range(geometry.lanes):
            m.submodules[f"lane{lane}"] = pipe = NormaliseLane()
            for name, width, address in (("gain", WIDE_BITS, group), ("bias", BIAS_BITS, bias_group)):
                m.submodules[f"{name}{lane}"] = store = BlockMemory(width=width, depth=groups)
                waiting = affine_latency - BlockMemory.latency(width=width, depth=groups)
                m.d.comb += [
                    store.write_enable.eq(self.write_enable[lane]),
                    store.write_address.eq(self.write_group),
                    store.write_data.eq(getattr(self, name)),
                    store.read_address.eq(delay(m, address, waiting, f"{name}_address{lane}")),
                    getattr(pipe, name).eq(store.read_data),
                ]
            m.d.comb += [getattr(pipe, name).eq(value) for name, value in scales.items()]
            empty = lasts[-1] & self.surplus[lane]
            m.d.comb += [
                pipe.channels.eq(self.channels),
                pipe.shift.eq(self.shift),
                pipe.x.eq(self.x[lane]),
                self.y[lane].eq(Mux(empty, 0, pipe.y)),
            ]
        m.d.comb += self.o_valid.eq(valids[-1])
        return m

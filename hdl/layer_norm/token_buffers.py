"""Tokens of channels, written in order and read in any order."""

from typing import Any

from amaranth.hdl import Cat, Elaboratable, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.ecp5.block_memory import BlockMemory
from hdl.layer_norm.geometry import LayerNormGeometry
from hdl.pipeline import delay
from sim.contract.constants import WIDE_BITS


def _token_shape(geometry: LayerNormGeometry) -> dict[str, int]:
    return {"width": WIDE_BITS * geometry.lanes, "depth": geometry.token_words}


def _order_shape(geometry: LayerNormGeometry) -> dict[str, int]:
    return {"width": geometry.channel_bits, "depth": geometry.groups(geometry.depth)}


class TokenBuffers(wiring.Component):
    """`buffers` tokens; a write stores one transfer, a read gives one transfer of positions.

    Positions are channels, or with `permuted` the channels that `order_*` wrote: position p of lane p % lanes in
    word p // lanes. `x` follows `read_group` and `read_buffer` by `latency` cycles; the words of the tokens are
    read `order_latency` cycles after them, so a buffer may be written again from the cycle after that on.

    One copy of the tokens per lane when permuted, as any lane may want any channel; else one copy in all.
    """

    def __init__(self, geometry: LayerNormGeometry) -> None:
        self._geometry = geometry
        lanes = geometry.lanes
        group, buffer = range(1 << geometry.group_bits), range(geometry.buffers)
        transfer = data.ArrayLayout(signed(WIDE_BITS), lanes)
        super().__init__(
            {
                "write_enable": In(1),
                "write_group": In(group),
                "write_buffer": In(buffer),
                "write_data": In(transfer),
                "order_enable": In(lanes),
                "order_group": In(group),
                "order_channel": In(geometry.channel_bits),
                "read_group": In(group),
                "read_buffer": In(buffer),
                "x": Out(transfer),
            }
        )

    @staticmethod
    def order_latency(geometry: LayerNormGeometry) -> int:
        """Cycles from `read_group` to the read of the token memory."""
        return BlockMemory.latency(**_order_shape(geometry)) if geometry.permuted else 0

    @classmethod
    def latency(cls, geometry: LayerNormGeometry) -> int:
        """Cycles from `read_group` and `read_buffer` to `x`."""
        selects = geometry.permuted and geometry.lanes > 1
        return cls.order_latency(geometry) + BlockMemory.latency(**_token_shape(geometry)) + selects

    def elaborate(self, platform: Any) -> Elaboratable:
        """Per lane: order memory, token memory, choice among the channels of the word."""
        m = Module()
        geometry = self._geometry
        buffer = delay(m, self.read_buffer, self.order_latency(geometry), "buffer")
        words, copies = [], []
        for copy in range(geometry.lanes if geometry.permuted else 1):
            m.submodules[f"tokens{copy}"] = tokens = BlockMemory(**_token_shape(geometry))
            word = Signal(self.write_data.shape(), name=f"word{copy}")
            m.d.comb += [
                tokens.write_enable.eq(self.write_enable),
                tokens.write_address.eq(Cat(self.write_group, self.write_buffer)),
                tokens.write_data.eq(self.write_data.as_value()),
                word.as_value().eq(tokens.read_data),
            ]
            words.append(word)
            copies.append(tokens)
        if not geometry.permuted:
            m.d.comb += [copies[0].read_address.eq(Cat(self.read_group, buffer)), self.x.eq(words[0])]
            return m
        for lane in range(geometry.lanes):
            m.submodules[f"order{lane}"] = order = BlockMemory(**_order_shape(geometry))
            channel = order.read_data
            m.d.comb += [
                order.write_enable.eq(self.order_enable[lane]),
                order.write_address.eq(self.order_group),
                order.write_data.eq(self.order_channel),
                order.read_address.eq(self.read_group),
                copies[lane].read_address.eq(Cat(channel[geometry.lane_bits :], buffer)),
            ]
            if geometry.lanes == 1:
                m.d.comb += self.x[lane].eq(words[lane][0])
                continue
            low = Signal(geometry.lane_bits, name=f"low{lane}")
            selected = Signal(signed(WIDE_BITS), name=f"selected{lane}", reset_less=True)
            which = delay(m, low, BlockMemory.latency(**_token_shape(geometry)), f"low{lane}")
            m.d.comb += [low.eq(channel), self.x[lane].eq(selected)]
            m.d.sync += selected.eq(words[lane][which])
        return m

"""Wide tokens to packed codes: order of channels, encoder, packer."""

from typing import Any

from amaranth.hdl import Elaboratable, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.machine.code_packer import CodePacker
from hdl.machine.token_order import TokenOrder
from hdl.vector.encoder import CodeEncoder
from sim.machine.settings import TOKEN_BEATS_MAX


class CodePath(wiring.Component):
    """TokenOrder, CodeEncoder and CodePacker one behind the other; ports and rules are theirs.

    `i_planes` waits until every code of the values before it has left: the packer alone would not know of those that
    are still on their way to it. Throughput: one transfer per cycle. lanes, tables: of the encoder.
    """

    def __init__(self, *, lanes: int, tables: int) -> None:
        self._order = TokenOrder(lanes=lanes)
        self._encoder = CodeEncoder(lanes=lanes, channels=lanes * TOKEN_BEATS_MAX, tables=tables)
        self._packer = CodePacker(lanes=lanes)

        def of(port: Any) -> Any:
            return stream.Signature(port.payload.shape())

        super().__init__(
            {
                "i_order": In(of(self._order.i_order)),
                "i_channels": In(of(self._encoder.i_channels)),
                "i_tiles": In(of(self._encoder.i_tiles)),
                "i_table": In(of(self._encoder.i_table)),
                "i_planes": In(of(self._packer.i_planes)),
                "i": In(of(self._order.i)),
                "o": Out(of(self._packer.o)),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """A chain, and a count of what is between its ends."""
        m = Module()
        m.submodules.order = order = self._order
        m.submodules.encoder = encoder = self._encoder
        m.submodules.packer = packer = self._packer
        for own, inner in (
            (self.i_order, order.i_order),
            (self.i_channels, encoder.i_channels),
            (self.i_tiles, encoder.i_tiles),
            (self.i_table, encoder.i_table),
            (self.i, order.i),
        ):
            wiring.connect(m, wiring.flipped(own), inner)
        wiring.connect(m, order.o, encoder.i)
        wiring.connect(m, encoder.o, packer.i)
        wiring.connect(m, packer.o, wiring.flipped(self.o))
        # Two tokens in front of the encoder, and far fewer in it.
        between = Signal(range(4 * TOKEN_BEATS_MAX))
        m.d.sync += between.eq(between + (self.i.valid & self.i.ready) - (encoder.o.valid & encoder.o.ready))
        m.d.comb += [
            packer.i_planes.payload.eq(self.i_planes.payload),
            packer.i_planes.valid.eq(self.i_planes.valid & (between == 0)),
            self.i_planes.ready.eq(packer.i_planes.ready & (between == 0)),
        ]
        return m

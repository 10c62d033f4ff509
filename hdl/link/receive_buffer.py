"""Bytes off the wire, kept while a command is being carried out."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out, connect, flipped

from .token import ReceivedByte, StreamRegister

__all__ = ["ReceiveBuffer", "check_depth"]

#: Limits of the depth, in bytes.
DEPTH_MIN, DEPTH_MAX = 16, 16384


def check_depth(depth: int) -> int:
    """``depth`` itself; ``ValueError`` unless it is from 16 to 16384 bytes."""
    if not DEPTH_MIN <= depth <= DEPTH_MAX:
        nearest = min(max(depth, DEPTH_MIN), DEPTH_MAX)
        raise ValueError(
            f"depth must be from {DEPTH_MIN} to {DEPTH_MAX} bytes, not {depth}; nearest valid value: {nearest}"
        )
    return depth


class ReceiveBuffer(wiring.Component):
    """FIFO of received bytes, one block RAM at the default depth.

    A host may have as many bytes under way as fit here: it need not wait for the reply to one frame
    before it sends the next. ``i`` is not ready when the buffer is full.

    Latency: 4 cycles. Throughput: one byte per two cycles (the register behind the block RAM keeps
    its slow output off the path through the decoder, and takes every other cycle).

    Parameters
    ----------
    depth : int
        Bytes, from 16 to 16384.
    """

    def __init__(self, *, depth: int = 2048):
        self.depth = check_depth(depth)
        super().__init__({"i": In(stream.Signature(ReceivedByte)), "o": Out(stream.Signature(ReceivedByte))})

    @staticmethod
    def model(received: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """The same bytes in the same order."""
        return list(received)

    def elaborate(self, platform):
        m = Module()
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=ReceivedByte.size, depth=self.depth)
        m.submodules.register = register = StreamRegister(ReceivedByte)
        connect(m, register.o, flipped(self.o))
        m.d.comb += [
            fifo.w_data.eq(self.i.payload.as_value()),
            fifo.w_en.eq(self.i.valid),
            self.i.ready.eq(fifo.w_rdy),
            register.i.payload.as_value().eq(fifo.r_data),
            register.i.valid.eq(fifo.r_rdy),
            fifo.r_en.eq(register.i.ready),
        ]
        return m

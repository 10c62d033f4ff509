"""Byte tokens: a stream of packets whose last byte is not known in advance.

A packet is a run of tokens with ``end = 0``, one byte each, closed by one token with ``end = 1``
that carries no byte. A separate closing token lets a source finish a packet after it has already
handed over the last byte (a READ that runs out of results, a COBS block that meets its delimiter).
"""

from typing import Any

from amaranth.hdl import Module
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["ReceivedByte", "StreamRegister", "Token", "tokens_of"]

#: One byte off the wire: ``data`` (8 bits), and ``error`` for a byte whose stop bit was missing.
ReceivedByte = data.StructLayout({"data": 8, "error": 1})


#: Layout of one token: ``data`` (8 bits), ``end`` (closes the packet), ``error`` (valid with
#: ``end``: the packet is damaged and its bytes must not be believed).
Token = data.StructLayout({"data": 8, "end": 1, "error": 1})


def tokens_of(packet: bytes) -> list[dict[str, int]]:
    """Token payloads of one undamaged packet, as the simulator takes them.

    Parameters
    ----------
    packet : bytes
        Content, any length (an empty packet is a lone closing token).

    Returns
    -------
    list of dict
        ``len(packet) + 1`` payloads for :data:`Token`.
    """
    content = [{"data": byte, "end": 0, "error": 0} for byte in packet]
    return [*content, {"data": 0, "end": 1, "error": 0}]


class StreamRegister(wiring.Component):
    """A register in a byte stream: no combinational way from one side to the other.

    Latency: one cycle. Throughput: one payload per two cycles, plenty beside a serial line.

    Parameters
    ----------
    shape : ShapeLike
        Of the payload.
    """

    def __init__(self, shape: Any) -> None:
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    @staticmethod
    def model(payloads: list[Any]) -> list[Any]:
        """The same payloads in the same order."""
        return list(payloads)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.d.comb += self.i.ready.eq(~self.o.valid)
        with m.If(self.o.valid):
            m.d.sync += self.o.valid.eq(~self.o.ready)
        with m.Elif(self.i.valid):
            m.d.sync += [self.o.payload.eq(self.i.payload), self.o.valid.eq(1)]
        return m

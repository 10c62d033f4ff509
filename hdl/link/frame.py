"""Frames: packets with a check value, in COBS, between zero bytes.

Nothing of a frame is handed on before all of it has arrived and its check value fits.
"""

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hdl.ecp5.block_ram import BlockRam

from . import cobs
from .crc import CRC_BYTES, append_crc, crc_processor, strip_crc
from .protocol import BODY_BYTES, HEADER_BYTES, Status
from .token import ReceivedByte, Token

__all__ = ["PACKET_BYTES", "FrameEnd", "FrameReceiver", "FrameTransmitter", "decode_frame", "encode_frame"]

#: Longest packet with its check value.
PACKET_BYTES = HEADER_BYTES + BODY_BYTES + CRC_BYTES
BUFFER_BYTES = 2048
#: What the receiver says of a frame: a Status and, if that is OK, the bytes without the check value.
FrameEnd = data.StructLayout({"status": 8, "length": range(PACKET_BYTES + 1)})


def encode_frame(packet: bytes) -> bytes:
    """Wire bytes of ``packet`` with its check value and delimiter."""
    return cobs.encode(append_crc(packet)) + bytes([cobs.DELIMITER])


def decode_frame(encoded: bytes) -> tuple[Status, bytes]:
    """Status and packet of one frame, given without its delimiter; the packet is empty unless OK."""
    try:
        packet = cobs.decode(encoded)
    except cobs.CobsError:
        return Status.CORRUPT, b""
    if len(packet) > PACKET_BYTES:
        return Status.OVERSIZE, b""
    if len(packet) < HEADER_BYTES + CRC_BYTES:
        return Status.TOO_SHORT, b""
    try:
        return Status.OK, strip_crc(packet)
    except ValueError:
        return Status.BAD_CRC, b""


class FrameReceiver(wiring.Component):
    """Wire bytes to checked packets in a block RAM.

    Ports: ``i`` takes wire bytes; ``o`` offers one :data:`FrameEnd` per frame, good or bad, and
    holds it until taken; meanwhile ``data`` is the packet byte at ``address`` of two cycles before,
    and ``i`` is not ready.

    Latency: ``o`` is offered one cycle after the delimiter. Throughput: one wire byte per cycle.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "i": In(stream.Signature(ReceivedByte)),
                "o": Out(stream.Signature(FrameEnd)),
                "address": In(range(BUFFER_BYTES)),
                "data": Out(8),
            }
        )

    @staticmethod
    def model(wire: bytes) -> list[tuple[Status, bytes]]:
        """Status and packet of every closed frame in a run of wire bytes."""
        return [decode_frame(frame) for frame in wire.split(bytes([cobs.DELIMITER]))[:-1] if frame]

    def elaborate(self, platform):
        m = Module()
        m.submodules.decoder = decoder = cobs.CobsDecoder()
        m.submodules.crc = crc = crc_processor()
        m.submodules.buffer = buffer = BlockRam(width=8, depth=BUFFER_BYTES)
        connect(m, flipped(self.i), decoder.i)

        token = decoder.o
        length = Signal(range(PACKET_BYTES + 1))
        oversize = Signal()
        held = Signal()
        status = Signal(Status)
        room = Signal()
        m.d.comb += [
            room.eq(length != PACKET_BYTES),
            token.ready.eq(~held),
            crc.data.eq(token.p.data),
            crc.valid.eq(token.valid & ~held & ~token.p.end),
            # Nobody looks at `data` while the buffer is filled.
            buffer.read_address.eq(self.address),
            self.data.eq(buffer.read_data),
            crc.start.eq(held),
            self.o.valid.eq(held),
            self.o.p.status.eq(status),
            self.o.p.length.eq(length - CRC_BYTES),
        ]
        # Registers before the block RAM: the end of the packet comes a cycle after its last byte, or later.
        m.d.sync += [
            buffer.write_address.eq(length),
            buffer.write_data.eq(token.p.data),
            buffer.write_enable.eq(token.valid & ~held & ~token.p.end & room),
        ]
        with m.If(held), m.If(self.o.ready):
            m.d.sync += [held.eq(0), length.eq(0), oversize.eq(0)]
        with m.Elif(token.valid):
            with m.If(token.p.end):
                m.d.sync += held.eq(1)
                with m.If(token.p.error):
                    m.d.sync += status.eq(Status.CORRUPT)
                with m.Elif(oversize):
                    m.d.sync += status.eq(Status.OVERSIZE)
                with m.Elif(length < HEADER_BYTES + CRC_BYTES):
                    m.d.sync += status.eq(Status.TOO_SHORT)
                with m.Else():
                    m.d.sync += status.eq(Mux(crc.match_detected, Status.OK, Status.BAD_CRC))
            with m.Elif(room):
                m.d.sync += length.eq(length + 1)
            with m.Else():
                m.d.sync += oversize.eq(1)
        return m


class FrameTransmitter(wiring.Component):
    """Packets to wire bytes: appends the check value, then COBS and the delimiter.

    Ports: ``i`` takes :data:`~hdl.link.token.Token` packets of any length, ``o`` gives wire bytes.

    Throughput: that of :class:`~hdl.link.cobs.CobsEncoder`.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "i": In(stream.Signature(Token)),
                "o": Out(stream.Signature(8)),
            }
        )

    @staticmethod
    def model(packets: list[bytes]) -> bytes:
        """Wire bytes of the packets."""
        return b"".join(encode_frame(packet) for packet in packets)

    def elaborate(self, platform):
        m = Module()
        m.submodules.encoder = encoder = cobs.CobsEncoder()
        m.submodules.crc = crc = crc_processor()
        connect(m, encoder.o, flipped(self.o))

        check = Signal(unsigned(8 * CRC_BYTES))
        left = Signal(range(CRC_BYTES + 1))
        m.d.comb += crc.data.eq(self.i.p.data)
        with m.FSM():
            with m.State("CONTENT"):
                with m.If(self.i.p.end):
                    m.d.comb += self.i.ready.eq(1)
                    with m.If(self.i.valid):
                        m.d.comb += crc.start.eq(1)
                        m.d.sync += [check.eq(crc.crc), left.eq(CRC_BYTES)]
                        m.next = "CHECK"
                with m.Else():
                    m.d.comb += [
                        encoder.i.p.data.eq(self.i.p.data),
                        encoder.i.valid.eq(self.i.valid),
                        self.i.ready.eq(encoder.i.ready),
                        crc.valid.eq(self.i.valid & encoder.i.ready),
                    ]
            with m.State("CHECK"):
                m.d.comb += [
                    encoder.i.p.data.eq(check[:8]),
                    encoder.i.p.end.eq(left == 0),
                    encoder.i.valid.eq(1),
                ]
                with m.If(encoder.i.ready):
                    m.d.sync += [check.eq(check >> 8), left.eq(left - 1)]
                    with m.If(left == 0):
                        m.next = "CONTENT"
        return m

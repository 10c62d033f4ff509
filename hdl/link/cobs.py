"""Consistent Overhead Byte Stuffing: packets of any bytes as runs without a zero byte.

A zero on the wire then means "end of packet" and nothing else, so a receiver that lost its place
finds it again at the next zero. Encoding: the packet plus a virtual final zero is cut into blocks
that end in a zero; each block becomes one code byte (its length, 1..254) and its non-zero bytes;
a block of 254 non-zero bytes gets code 255 and stands for no zero. Overhead: at most one byte per
254 bytes, plus one. Source: S. Cheshire, M. Baker, "Consistent Overhead Byte Stuffing",
IEEE/ACM Transactions on Networking 7(2), 1999.
"""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.ecp5.block_ram import BlockRam

from .token import ReceivedByte, Token

__all__ = ["DELIMITER", "CobsDecoder", "CobsEncoder", "CobsError", "decode", "encode", "encoded_bound"]

#: The byte that closes a packet on the wire.
DELIMITER = 0
#: Largest number of non-zero bytes in one block.
BLOCK_BYTES = 254


class CobsError(ValueError):
    """The bytes are not the encoding of any packet."""


def encode(packet: bytes) -> bytes:
    """Encoding of ``packet``, without the delimiter; no byte of it is zero."""
    encoded = bytearray()
    run = bytearray()
    for byte in packet:
        if byte != DELIMITER:
            run.append(byte)
        if byte == DELIMITER or len(run) == BLOCK_BYTES:
            encoded.append(len(run) + 1)
            encoded += run
            run.clear()
    full_block_last = packet and packet[-1] != DELIMITER and not run
    if not full_block_last:
        encoded.append(len(run) + 1)
        encoded += run
    return bytes(encoded)


def decode(encoded: bytes) -> bytes:
    """Packet whose encoding (without the delimiter) is ``encoded``.

    Raises
    ------
    CobsError
        Empty input, a zero inside, or a last block shorter than its code byte says.
    """
    if not encoded:
        raise CobsError("an encoded packet has at least one byte")
    packet = bytearray()
    position = 0
    while position < len(encoded):
        code = encoded[position]
        block = encoded[position + 1 : position + code]
        if code == DELIMITER or DELIMITER in block:
            raise CobsError(f"zero byte in the block at {position}")
        if len(block) != code - 1:
            raise CobsError(f"block at {position} ends after {len(block)} of {code - 1} bytes")
        packet += block
        position += code
        if code != BLOCK_BYTES + 1 and position < len(encoded):
            packet.append(0)
    return bytes(packet)


def encoded_bound(length: int) -> int:
    """Most bytes that a packet of ``length`` bytes takes on the wire, with its delimiter."""
    return length + length // BLOCK_BYTES + 2


class CobsDecoder(wiring.Component):
    """Wire bytes to packets.

    Ports: ``i`` takes wire bytes (``data``, and ``error`` for a byte that the UART could not
    frame); ``o`` gives :data:`~hdl.link.token.Token` packets. Repeated delimiters are silent: only
    a delimiter after at least one byte closes a packet. A packet with an ``error`` byte or a last
    block cut short closes with ``error`` set; the bytes before it have already been given.

    Latency: 0 cycles (combinational from ``i`` to ``o``). Throughput: one wire byte per cycle.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "i": In(stream.Signature(ReceivedByte)),
                "o": Out(stream.Signature(Token)),
            }
        )

    @staticmethod
    def model(wire: bytes) -> list[bytes | None]:
        """Packets of a run of wire bytes, ``None`` for a damaged one; an open end is left out."""
        packets: list[bytes | None] = []
        for encoded in wire.split(bytes([DELIMITER]))[:-1]:
            if not encoded:
                continue
            try:
                packets.append(decode(encoded))
            except CobsError:
                packets.append(None)
        return packets

    def elaborate(self, platform):
        m = Module()
        inside = Signal()  # at least one byte since the last delimiter
        damaged = Signal()  # a byte of this packet had a framing error
        remaining = Signal(8)  # bytes left in the open block
        owe_zero = Signal()  # the last block stood for a zero, due unless the packet ends

        delimiter = Signal()
        code = Signal()
        emit = Signal()
        m.d.comb += [
            delimiter.eq((self.i.p.data == DELIMITER) & ~self.i.p.error),
            code.eq(~delimiter & (remaining == 0)),
            emit.eq((delimiter & inside) | (~delimiter & ~code) | (code & owe_zero)),
            self.o.p.end.eq(delimiter),
            self.o.p.error.eq(damaged | (remaining != 0)),
            self.o.valid.eq(self.i.valid & emit),
            self.i.ready.eq(self.o.ready | ~emit),
        ]
        with m.If(~code):
            m.d.comb += self.o.p.data.eq(self.i.p.data)

        with m.If(self.i.valid & self.i.ready):
            with m.If(delimiter):
                m.d.sync += [inside.eq(0), damaged.eq(0), remaining.eq(0), owe_zero.eq(0)]
            with m.Else():
                m.d.sync += inside.eq(1)
                with m.If(self.i.p.error):
                    m.d.sync += damaged.eq(1)
                with m.If(code):
                    m.d.sync += [remaining.eq(self.i.p.data - 1), owe_zero.eq(self.i.p.data != BLOCK_BYTES + 1)]
                with m.Else():
                    m.d.sync += remaining.eq(remaining - 1)
        return m


class CobsEncoder(wiring.Component):
    """Packets to wire bytes, each packet closed by one delimiter.

    Ports: ``i`` takes :data:`~hdl.link.token.Token` packets (``error`` is ignored); ``o`` gives
    wire bytes. A block is collected in a 254-byte memory before its code byte can be sent.

    Throughput: a block of n bytes takes at most ``4 * n + 4`` cycles, the delimiter one more.
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
        """Wire bytes of the packets, delimiters included."""
        return b"".join(encode(packet) + bytes([DELIMITER]) for packet in packets)

    def elaborate(self, platform):
        m = Module()
        m.submodules.run = run = BlockRam(width=8, depth=256)

        length = Signal(8)  # bytes collected in the open block
        position = Signal(8)  # next byte of the block to send
        last = Signal()  # the packet ends with this block
        after_full = Signal()  # the block before was a full one: an empty rest needs no code

        writing = Signal()
        # Registers before the block RAM. Between the last byte of a block and the first to be read lies its code byte,
        # and a byte that is sent was read after the block had been collected: nothing is written then.
        m.d.sync += [
            run.write_enable.eq(writing),
            run.write_address.eq(length),
            run.write_data.eq(self.i.p.data),
        ]
        m.d.comb += run.read_address.eq(position)
        with m.FSM():
            with m.State("COLLECT"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid):
                    m.d.sync += last.eq(self.i.p.end)
                    with m.If(self.i.p.end & after_full & (length == 0)):
                        m.next = "DELIMIT"
                    with m.Elif(self.i.p.end | (self.i.p.data == DELIMITER)):
                        m.d.sync += after_full.eq(0)
                        m.next = "CODE"
                    with m.Else():
                        m.d.comb += writing.eq(1)
                        m.d.sync += length.eq(length + 1)
                        with m.If(length == BLOCK_BYTES - 1):
                            m.d.sync += after_full.eq(1)
                            m.next = "CODE"
            with m.State("CODE"):
                m.d.comb += [self.o.p.eq(length + 1), self.o.valid.eq(1)]
                with m.If(self.o.ready):
                    m.next = "NEXT"
            with m.State("NEXT"):
                with m.If(position == length):
                    m.d.sync += [position.eq(0), length.eq(0)]
                    with m.If(last):
                        m.next = "DELIMIT"
                    with m.Else():
                        m.next = "COLLECT"
                with m.Else():
                    m.next = "FETCH"
            with m.State("FETCH"):
                m.next = "SEND"  # the block RAM takes two cycles from NEXT on
            with m.State("SEND"):
                m.d.comb += [self.o.p.eq(run.read_data), self.o.valid.eq(1)]
                with m.If(self.o.ready):
                    m.d.sync += position.eq(position + 1)
                    m.next = "NEXT"
            with m.State("DELIMIT"):
                m.d.comb += [self.o.p.eq(DELIMITER), self.o.valid.eq(1)]
                m.d.sync += [last.eq(0), after_full.eq(0)]
                with m.If(self.o.ready):
                    m.next = "COLLECT"
        return m

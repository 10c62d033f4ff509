"""Between beats of memory and payloads of ports: wider ones are put together, narrower ones taken apart."""

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Cat, Elaboratable, Module, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.machine.jobs import Beats
from hdl.parameters import require

PAYLOAD_BYTES_MAX = 4096


def check_payload(payload_bytes: int) -> int:
    """`payload_bytes` if a port may have it; else ValueError."""
    sizes = [1 << log for log in range(PAYLOAD_BYTES_MAX.bit_length())]
    return require("payload_bytes", payload_bytes, sizes, f"a power of two up to {PAYLOAD_BYTES_MAX}")


def to_payloads(beats: Sequence[bytes], payload_bytes: int) -> list[bytes]:
    """Payloads of beats, an incomplete one at the end left out."""
    whole = b"".join(beats)
    return [whole[at : at + payload_bytes] for at in range(0, len(whole) - payload_bytes + 1, payload_bytes)]


class PayloadsToBeats(wiring.Component):
    """Beats of payloads, low bytes first; with payloads of a beat's size a register.

    Throughput: a beat or a payload per cycle, whichever is larger. payload_bytes: a power of two up to 4096.
    Raises ValueError naming the parameter, its limit and the nearest valid value.
    """

    def __init__(self, beats: Beats, *, payload_bytes: int) -> None:
        self._beats = beats
        self._bits = 8 * check_payload(payload_bytes)
        super().__init__(
            {"i": In(stream.Signature(unsigned(self._bits))), "o": Out(stream.Signature(unsigned(beats.bits)))}
        )

    @staticmethod
    def model(payloads: Sequence[bytes], beat_bytes: int) -> list[bytes]:
        """All whole beats."""
        return to_payloads(payloads, beat_bytes)

    def elaborate(self, platform: Any) -> Elaboratable:
        """A register of the larger size, shifted by the smaller one."""
        m = Module()
        size = max(self._bits, self._beats.bits)
        ratio = size // min(self._bits, self._beats.bits)
        word = Signal(size, reset_less=True)
        left = Signal(range(ratio + 1))
        m.d.comb += self.o.payload.eq(word)
        if self._bits >= self._beats.bits:
            m.d.comb += [
                self.o.valid.eq(left != 0),
                self.i.ready.eq((left == 0) | ((left == 1) & self.o.ready)),
            ]
            with m.If(self.i.valid & self.i.ready):
                m.d.sync += [word.eq(self.i.payload), left.eq(ratio)]
            with m.Elif(self.o.valid & self.o.ready):
                m.d.sync += [word.eq(word >> self._beats.bits), left.eq(left - 1)]
            return m
        m.d.comb += [
            self.o.valid.eq(left == ratio),
            self.i.ready.eq((left != ratio) | self.o.ready),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [word.eq(Cat(word, self.i.payload)[self._bits :]), left.eq(left + 1)]
            with m.If(self.o.valid):
                m.d.sync += left.eq(1)
        with m.Elif(self.o.valid & self.o.ready):
            m.d.sync += left.eq(0)
        return m


class Split(wiring.Component):
    """Payloads of a beat, up to a beat in size; the size may change from beat to beat.

    `i`: a beat, the logarithm of the payload bytes, the number of payloads (at least 1) that count, and `last`, which
    goes with the final one. `port` is handed through. `empty`: nothing is held, and `i` is ready.

    Throughput: one payload per cycle. Latency: 1 cycle.
    """

    def __init__(self, beats: Beats, port: Any) -> None:
        self._beats = beats
        self._port = port
        given = {
            "data": unsigned(beats.bits),
            "last": unsigned(1),
            "log_size": range(beats.offset_bits + 1),
            "count": range(beats.bytes + 1),
            "port": port,
        }
        taken = {"data": unsigned(beats.bits), "last": unsigned(1), "port": port}
        super().__init__(
            {
                "i": In(stream.Signature(data.StructLayout(given))),
                "o": Out(stream.Signature(data.StructLayout(taken))),
                "empty": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """A register shifted by a payload."""
        m = Module()
        held = Signal(self.i.payload.shape(), reset_less=True)
        left = Signal(range(self._beats.bytes + 1))
        single = Signal()
        m.d.comb += [
            single.eq(left == 1),
            self.empty.eq(left == 0),
            self.o.valid.eq(~self.empty),
            self.o.payload.data.eq(held.data),
            self.o.payload.last.eq(held.last & single),
            self.o.payload.port.eq(held.port),
            self.i.ready.eq(self.empty | (single & self.o.ready)),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [held.eq(self.i.payload), left.eq(self.i.payload.count)]
        with m.Elif(self.o.valid & self.o.ready):
            m.d.sync += left.eq(left - 1)
            with m.Switch(held.log_size):
                for log in range(self._beats.offset_bits):
                    with m.Case(log):
                        m.d.sync += held.data.eq(held.data >> (8 << log))
        return m


class Join(wiring.Component):
    """A payload of several beats, the first in its low bytes; the number may change from payload to payload.

    `i`: a beat, and `final` with the last one of a payload. `drop` forgets the beats of an incomplete payload.
    `port` is handed through.

    Throughput: one beat per cycle. Latency: 1 cycle from the final beat. parts: most beats of a payload.
    """

    def __init__(self, beats: Beats, port: Any, *, parts: int) -> None:
        self._beats = beats
        self._parts = require("parts", parts, range(1, PAYLOAD_BYTES_MAX + 1), f"in 1..{PAYLOAD_BYTES_MAX}")
        given = {"data": unsigned(beats.bits), "final": unsigned(1), "port": port}
        taken = {"data": unsigned(beats.bits * parts), "port": port}
        super().__init__(
            {
                "i": In(stream.Signature(data.StructLayout(given))),
                "drop": In(1),
                "o": Out(stream.Signature(data.StructLayout(taken))),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """Every part of the register has an enable of its own, from a bit that walks."""
        m = Module()
        place = Signal(self._parts, init=1)
        full = Signal()
        given = self.i.payload
        m.d.comb += [self.o.valid.eq(full), self.i.ready.eq(~full | self.o.ready)]
        with m.If(self.o.ready):
            m.d.sync += full.eq(0)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [full.eq(given.final), self.o.payload.port.eq(given.port), place.eq(place << 1)]
            with m.If(given.final):
                m.d.sync += place.eq(1)
            for part in range(self._parts):
                with m.If(place[part]):
                    word = self.o.payload.data[part * self._beats.bits : (part + 1) * self._beats.bits]
                    m.d.sync += word.eq(given.data)
        with m.If(self.drop):
            m.d.sync += place.eq(1)
        return m


class WeightsJoin(wiring.Component):
    """A payload of weights [row][column] from beats in that order, or turned, in the order [column][row].

    `i`: a beat and whether it is turned; all beats of a payload alike. `o_final`: the next beat completes a payload.
    `drop` forgets the beats of an incomplete payload. One register, filled either way.

    Throughput: one beat per cycle. Latency: 1 cycle from the final beat. rows, columns: nibbles of a payload; together
    a power of two of beats. Raises ValueError naming the parameter, its limit and the nearest valid value.
    """

    def __init__(self, beats: Beats, *, rows: int, columns: int) -> None:
        self._beats, self._rows, self._columns = beats, rows, columns
        payload = check_payload(rows * columns // 2)
        self._parts = require("beats of weights", payload // beats.bytes, range(1, 1025), "in 1..1024")
        given = {"data": unsigned(beats.bits), "turned": unsigned(1)}
        super().__init__(
            {
                "i": In(stream.Signature(data.StructLayout(given))),
                "drop": In(1),
                "o": Out(stream.Signature(unsigned(4 * rows * columns))),
                "o_final": Out(1),
            }
        )

    @staticmethod
    def model(nibbles: Sequence[int], rows: int, columns: int, turned: bool) -> list[int]:
        """Payload [row][column] of the nibbles of its beats."""
        if not turned:
            return list(nibbles)
        return [nibbles[column * rows + row] for row in range(rows) for column in range(columns)]

    def elaborate(self, platform: Any) -> Elaboratable:
        """Each nibble has two beats that may hold it."""
        m = Module()
        place = Signal(self._parts, init=1)
        full = Signal()
        given, wide = self.i.payload, self._beats.bits // 4
        nibbles = given.data
        m.d.comb += [self.o.valid.eq(full), self.i.ready.eq(~full | self.o.ready), self.o_final.eq(place[-1])]
        accepted = Signal()
        m.d.comb += accepted.eq(self.i.valid & self.i.ready)
        with m.If(self.o.ready):
            m.d.sync += full.eq(0)
        with m.If(accepted):
            m.d.sync += [full.eq(self.o_final), place.eq(place.rotate_left(1))]
        with m.If(self.drop):
            m.d.sync += place.eq(1)
        straight, turned = Signal(self._parts), Signal(self._parts)
        m.d.comb += [
            straight.eq(place & (accepted & ~given.turned).replicate(self._parts)),
            turned.eq(place & (accepted & given.turned).replicate(self._parts)),
        ]
        for row in range(self._rows):
            for column in range(self._columns):
                index = row * self._columns + column
                beat, lane = divmod(index, wide)
                turned_beat, turned_lane = divmod(column * self._rows + row, wide)
                nibble = self.o.payload[4 * index : 4 * index + 4]
                with m.If(straight[beat]):
                    m.d.sync += nibble.eq(nibbles[4 * lane : 4 * lane + 4])
                with m.If(turned[turned_beat]):
                    m.d.sync += nibble.eq(nibbles[4 * turned_lane : 4 * turned_lane + 4])
        return m

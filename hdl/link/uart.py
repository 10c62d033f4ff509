"""Asynchronous serial bytes: 8 data bits, no parity, one stop bit, least significant bit first.

A bit lasts ``divisor`` clock cycles. The receiver looks at each bit once, in its middle, so both
ends together may be off by 5 % before the stop bit is missed; the divisor is held to 1.5 % here,
which leaves the rest to the other end and to the slopes of the line.
"""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

from .token import ReceivedByte

__all__ = ["BIT_COUNT", "UartReceiver", "UartTransmitter", "baud_divisor", "check_divisor"]

#: Bits of one byte on the line: start, eight data, stop.
BIT_COUNT = 10
#: Fewer cycles per bit leave no middle to sample after synchronization.
DIVISOR_MIN = 4
#: Widest divisor counter; 2^20 cycles at 100 MHz are 95 baud.
DIVISOR_MAX = 1 << 20
#: Largest accepted error of the baud rate, as a fraction.
BAUD_TOLERANCE = 0.015


def check_divisor(divisor: int) -> int:
    """``divisor`` itself, if a UART can be built with it.

    Raises
    ------
    ValueError
        It is not an integer from 4 to 2^20.
    """
    if not isinstance(divisor, int) or not DIVISOR_MIN <= divisor <= DIVISOR_MAX:
        nearest = min(max(divisor, DIVISOR_MIN), DIVISOR_MAX)
        raise ValueError(
            f"divisor must be an integer from {DIVISOR_MIN} to {DIVISOR_MAX} clock "
            f"cycles per bit, not {divisor}; nearest valid value: {nearest}"
        )
    return divisor


def baud_divisor(clock_hz: float, baud: int) -> int:
    """Clock cycles per bit for ``baud`` bits per second at ``clock_hz``.

    Raises
    ------
    ValueError
        No integer divisor comes within 1.5 % of the baud rate, or it is outside 4..2^20.
    """
    if baud <= 0:
        raise ValueError(f"baud must be positive, not {baud}")
    divisor = round(clock_hz / baud)
    if divisor < DIVISOR_MIN:
        raise ValueError(
            f"baud must be at most {int(clock_hz // DIVISOR_MIN)} at {clock_hz / 1e6:g} MHz "
            f"({DIVISOR_MIN} cycles per bit), not {baud}"
        )
    reached = clock_hz / divisor
    if abs(reached - baud) > BAUD_TOLERANCE * baud:
        raise ValueError(
            f"baud {baud} is {abs(reached / baud - 1):.1%} off at {clock_hz / 1e6:g} MHz "
            f"(limit {BAUD_TOLERANCE:.1%}); nearest valid value: {round(reached)}"
        )
    return check_divisor(divisor)


class UartTransmitter(wiring.Component):
    """Bytes to a serial line.

    Ports: ``i`` takes bytes, ``tx`` is the line (idle high).

    Latency: the start bit follows the accepted byte by one cycle. Throughput: one byte per
    ``10 * divisor`` cycles.

    Parameters
    ----------
    divisor : int
        Clock cycles per bit, see :func:`check_divisor`.
    """

    def __init__(self, *, divisor: int):
        self.divisor = check_divisor(divisor)
        super().__init__({"i": In(stream.Signature(8)), "tx": Out(1, init=1)})

    @property
    def byte_cycles(self) -> int:
        """Clock cycles from one start bit to the next at full rate."""
        return BIT_COUNT * self.divisor

    def model(self, data: bytes) -> list[int]:
        """Levels of the line, one per cycle, while ``data`` is sent without a pause."""
        levels: list[int] = []
        for byte in data:
            bits = [0, *(byte >> bit & 1 for bit in range(8)), 1]
            levels += [bit for bit in bits for _ in range(self.divisor)]
        return levels

    def elaborate(self, platform):
        m = Module()
        shift = Signal(BIT_COUNT - 1, init=-1)  # next bits of the line, ones when empty
        bits = Signal(range(BIT_COUNT + 1))  # bits still on the line
        timer = Signal(range(self.divisor))
        line = Signal(init=1)
        m.d.comb += self.tx.eq(line)

        with m.If(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Elif(bits > 1):
            m.d.sync += [Cat(line, shift).eq(Cat(shift, Const(1))), bits.eq(bits - 1), timer.eq(self.divisor - 1)]
        with m.Else():
            m.d.comb += self.i.ready.eq(1)
            m.d.sync += bits.eq(0)
            with m.If(self.i.valid):
                m.d.sync += [
                    Cat(line, shift).eq(Cat(Const(0, 1), self.i.p, Const(1, 1))),
                    bits.eq(BIT_COUNT),
                    timer.eq(self.divisor - 1),
                ]
        return m


class UartReceiver(wiring.Component):
    """A serial line to bytes.

    Ports: ``rx`` is the line, of any phase to the clock; ``o`` gives bytes, with ``error`` set when
    the stop bit was not high (a damaged byte, or a line held low: one such byte is given, then
    nothing until the line is high again). ``overrun`` pulses when a byte had to be dropped because
    the one before it was not taken within one byte time.

    Latency: two cycles of synchronization, then half a bit after the middle of the stop bit at
    most. Throughput: one byte per ``10 * divisor`` cycles.

    Parameters
    ----------
    divisor : int
        Clock cycles per bit, see :func:`check_divisor`.
    """

    def __init__(self, *, divisor: int):
        self.divisor = check_divisor(divisor)
        super().__init__({"rx": In(1, init=1), "o": Out(stream.Signature(ReceivedByte)), "overrun": Out(1)})

    def model(self, levels: list[int]) -> list[tuple[int, int]]:
        """``(data, error)`` of every byte on a line given by one level per cycle."""
        received: list[tuple[int, int]] = []
        position = 0
        middle = self.divisor // 2
        while True:
            while position < len(levels) and levels[position]:
                position += 1
            samples = [position + middle + bit * self.divisor for bit in range(BIT_COUNT)]
            if samples[-1] >= len(levels):
                return received
            if levels[samples[0]]:
                position = samples[0]
                continue
            byte = sum(levels[samples[1 + bit]] << bit for bit in range(8))
            received.append((byte, 1 - levels[samples[-1]]))
            position = samples[-1]
            while position < len(levels) and not levels[position]:
                position += 1

    def elaborate(self, platform):
        m = Module()
        line = Signal(init=1)
        m.submodules.synchronizer = FFSynchronizer(self.rx, line, init=1)

        timer = Signal(range(self.divisor))
        bits = Signal(range(BIT_COUNT))
        shift = Signal(8)
        held = Signal(ReceivedByte)
        full = Signal()
        m.d.comb += [self.o.p.eq(held), self.o.valid.eq(full)]
        with m.If(self.o.ready):
            m.d.sync += full.eq(0)

        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [timer.eq(self.divisor // 2 - 1), bits.eq(0)]
                with m.If(~line):
                    m.next = "START"
            with m.State("START"):
                m.d.sync += timer.eq(timer - 1)
                with m.If(timer == 0):
                    m.d.sync += timer.eq(self.divisor - 1)
                    with m.If(line):  # a glitch shorter than half a bit
                        m.next = "IDLE"
                    with m.Else():
                        m.next = "DATA"
            with m.State("DATA"):
                m.d.sync += timer.eq(timer - 1)
                with m.If(timer == 0):
                    m.d.sync += [timer.eq(self.divisor - 1), bits.eq(bits + 1)]
                    with m.If(bits != 8):
                        m.d.sync += shift.eq(Cat(shift[1:], line))
                    with m.Else():
                        m.d.comb += self.overrun.eq(full & ~self.o.ready)
                        with m.If(~self.overrun):
                            m.d.sync += [held.data.eq(shift), held.error.eq(~line), full.eq(1)]
                        m.next = "RELEASE"
            with m.State("RELEASE"), m.If(line):
                m.next = "IDLE"
        return m

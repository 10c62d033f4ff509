"""A simple dual-port block RAM with an output register and no collision logic."""

from typing import Any

from amaranth.hdl import ClockSignal, Const, Elaboratable, Instance, Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from hdl.ecp5.platform import is_ecp5
from hdl.parameters import require

MODES = {36: 9, 18: 10, 9: 11}
"""Word width of a DP16KD port: address bits at that width (18,432 bits in all)."""

PORT_BITS = 18
"""Data bits of one DP16KD port; the 36-bit mode uses the data pins of both ports."""

PARTS = (1, 2, 4)
ENABLE_BITS = 9
"""Bits that one byte enable of a DP16KD covers."""


def check_depth(depth: int, *, width: int, port_width: int) -> None:
    """Raise ValueError unless words of `width` bits fit one DP16KD whose port has `port_width`."""
    limit = 1 << MODES[port_width]
    if not 1 <= depth <= limit:
        raise ValueError(
            f"depth {depth} is outside 1..{limit} at width {width}; nearest valid: {min(max(depth, 1), limit)}"
        )


class BlockRam(wiring.Component):
    """One memory of `depth` words of `width` bits: one write port, one read port, same clock.

    With `parts` a word is 2 or 4 equal parts, the first in the low bits, and a write changes those whose bit of
    `write_enable` is set.

    The word at `read_address` appears on `read_data` `LATENCY` = 2 cycles later (array and output register),
    one word per cycle. A write shows in reads whose address comes in a later cycle. Reading an address in the
    very cycle in which it is written gives an undefined word on the device (the portable form gives the old
    one): the caller must not use it. That promise is what saves the comparators and bypass registers which
    synthesis adds to an inferred memory.

    On ECP5: one DP16KD, in the narrowest of the shapes 2048 x 9, 1024 x 18, 512 x 36 that holds a word; with parts
    512 x 36, so a part has at most 36 / parts bits. Raises ValueError when width or depth do not fit one DP16KD.
    """

    LATENCY = 2

    def __init__(self, *, width: int, depth: int, parts: int = 1) -> None:
        self._parts = require("parts", parts, PARTS, f"one of {PARTS}")
        if not 1 <= width <= max(MODES):
            raise ValueError(f"width {width} is outside 1..{max(MODES)}; nearest valid: {min(max(width, 1), 36)}")
        if width % parts:
            raise ValueError(f"width {width} is not {parts} equal parts; nearest valid: {width + -width % parts}")
        self._port_width = min(mode for mode in MODES if mode >= width) if parts == 1 else max(MODES)
        check_depth(depth, width=width, port_width=self._port_width)
        self._width = width
        self._depth = depth
        super().__init__(
            {
                "write_enable": In(parts),
                "write_address": In(range(depth)),
                "write_data": In(width),
                "read_address": In(range(depth)),
                "read_data": Out(width),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """Portable Amaranth memory, or one DP16KD."""
        m = Module()
        if is_ecp5(platform):
            m.submodules.dp16kd = self._instance()
            return m
        m.submodules.memory = storage = memory.Memory(shape=self._width, depth=self._depth, init=[])
        write = storage.write_port(granularity=self._width // self._parts)
        read = storage.read_port()
        output = Signal(self._width, reset_less=True)
        m.d.comb += [
            write.en.eq(self.write_enable),
            write.addr.eq(self.write_address),
            write.data.eq(self.write_data),
            read.addr.eq(self.read_address),
            self.read_data.eq(output),
        ]
        m.d.sync += output.eq(read.data)
        return m

    def _instance(self) -> Instance:
        """DP16KD: port A writes, port B reads; in the 36-bit mode port A's data outputs carry the low half."""
        width, address_bits = self._port_width, MODES[self._port_width]
        write_data: list[Any] = [Const(0, 1)] * width
        read_data: list[Any] = [Signal() for _ in range(width)]
        part = self._width // self._parts
        for bit in range(self._width):
            pin = bit // part * (width // self._parts) + bit % part
            write_data[pin], read_data[pin] = self.write_data[bit], self.read_data[bit]
        connections: dict[str, Any] = {
            "p_DATA_WIDTH_A": width,
            "p_DATA_WIDTH_B": width,
            "p_REGMODE_A": "OUTREG",
            "p_REGMODE_B": "OUTREG",
            "p_GSR": "AUTO",
            "i_CLKA": ClockSignal(),
            "i_CEA": self.write_enable if self._parts == 1 else self.write_enable.any(),
            "i_WEA": Const(1, 1),
            "i_OCEA": Const(1, 1),
            "i_RSTA": Const(0, 1),
            "i_CLKB": ClockSignal(),
            "i_CEB": Const(1, 1),
            "i_WEB": Const(0, 1),
            "i_OCEB": Const(1, 1),
            "i_RSTB": Const(0, 1),
        }
        for port, address in (("A", self.write_address), ("B", self.read_address)):
            byte_enables = width // ENABLE_BITS if port == "A" and width >= PORT_BITS else 0
            unused = 14 - address_bits
            for bit in range(14):
                if bit >= unused:
                    value = address[bit - unused] if bit - unused < len(address) else Const(0, 1)
                elif bit < byte_enables:
                    value = Const(1, 1) if self._parts == 1 else self.write_enable[bit * self._parts // byte_enables]
                else:
                    value = Const(0, 1)
                connections[f"i_AD{port}{bit}"] = value
            for bit in range(3):
                connections[f"i_CS{port}{bit}"] = Const(0, 1)
        for bit in range(width):
            connections[f"i_DI{'AB'[bit // PORT_BITS]}{bit % PORT_BITS}"] = write_data[bit]
            port = "AB"[bit // PORT_BITS] if width == 36 else "B"
            connections[f"o_DO{port}{bit % PORT_BITS}"] = read_data[bit]
        return Instance("DP16KD", **connections)

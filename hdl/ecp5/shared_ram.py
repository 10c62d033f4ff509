"""A block RAM that two readers share."""

from typing import Any

from amaranth.hdl import ClockSignal, Const, Elaboratable, Instance, Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from hdl.ecp5.block_ram import ENABLE_BITS, MODES, PORT_BITS, check_depth
from hdl.ecp5.platform import is_ecp5


class SharedRam(wiring.Component):
    """One memory of `depth` words of `width` bits with two ports, a and b, same clock.

    The word at `address_a` or `address_b` appears on `data_a` or `data_b` `LATENCY` = 2 cycles later, one word per
    port and cycle. With `write` port a writes `write_data` at `address_a` instead. A write shows in reads whose
    address comes in a later cycle; what either port reads in the cycle of a write is undefined.

    On ECP5: one DP16KD, 2048 x 9 or 1024 x 18, the narrower that holds a word.
    Raises ValueError when width or depth do not fit one DP16KD.
    """

    LATENCY = 2

    def __init__(self, *, width: int, depth: int) -> None:
        if not 1 <= width <= PORT_BITS:
            raise ValueError(f"width {width} is outside 1..{PORT_BITS}; nearest valid: {min(max(width, 1), PORT_BITS)}")
        self._port_width = min(mode for mode in MODES if mode >= width)
        check_depth(depth, width=width, port_width=self._port_width)
        self._width, self._depth = width, depth
        super().__init__(
            {
                "write": In(1),
                "write_data": In(width),
                "address_a": In(range(depth)),
                "data_a": Out(width),
                "address_b": In(range(depth)),
                "data_b": Out(width),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """Portable Amaranth memory, or one DP16KD."""
        m = Module()
        if is_ecp5(platform):
            m.submodules.dp16kd = self._instance()
            return m
        m.submodules.memory = storage = memory.Memory(shape=self._width, depth=self._depth, init=[])
        write = storage.write_port()
        m.d.comb += [write.en.eq(self.write), write.addr.eq(self.address_a), write.data.eq(self.write_data)]
        for address, word in ((self.address_a, self.data_a), (self.address_b, self.data_b)):
            read = storage.read_port()
            output = Signal(self._width, name=f"output_{word.name}", reset_less=True)
            m.d.comb += [read.addr.eq(address), word.eq(output)]
            m.d.sync += output.eq(read.data)
        return m

    def _instance(self) -> Instance:
        """DP16KD: low address pins that a word's width leaves over are byte enables, or nothing."""
        connections: dict[str, Any] = {"p_GSR": "AUTO"}
        unused = 14 - MODES[self._port_width]
        for port, address, word, write in (
            ("A", self.address_a, self.data_a, self.write),
            ("B", self.address_b, self.data_b, Const(0, 1)),
        ):
            connections |= {
                f"p_DATA_WIDTH_{port}": self._port_width,
                f"p_REGMODE_{port}": "OUTREG",
                f"i_CLK{port}": ClockSignal(),
                f"i_CE{port}": Const(1, 1),
                f"i_OCE{port}": Const(1, 1),
                f"i_WE{port}": write,
                f"i_RST{port}": Const(0, 1),
            }
            for bit in range(14):
                enable = Const(int(self._port_width == PORT_BITS and bit < PORT_BITS // ENABLE_BITS), 1)
                used = unused <= bit < unused + len(address)
                connections[f"i_AD{port}{bit}"] = address[bit - unused] if used else enable
            for bit in range(3):
                connections[f"i_CS{port}{bit}"] = Const(0, 1)
            for bit in range(PORT_BITS):
                written = port == "A" and bit < self._width
                connections[f"i_DI{port}{bit}"] = self.write_data[bit] if written else Const(0, 1)
                connections[f"o_DO{port}{bit}"] = (
                    word[bit] if bit < self._width else Signal(name=f"idle_{port.lower()}{bit}")
                )
        return Instance("DP16KD", **connections)

"""A table in block RAM with two registered read ports."""

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import ClockSignal, Const, Elaboratable, Instance, Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from hdl.ecp5.platform import is_ecp5

WORDS = 1024
WIDTH = 18
"""The shape of a DP16KD whose two ports both read whole words."""

WORDS_PER_INITVAL = 16
INITVAL_WORD_BITS = 20
"""An INITVAL parameter holds sixteen words of 18 bits, each in 20 places."""


def initial_values(values: Sequence[int]) -> dict[str, Const]:
    """INITVAL parameters of a DP16KD of 18-bit words that holds `values` from word 0 on."""
    parameters = {}
    for number in range(WORDS // WORDS_PER_INITVAL):
        words = values[number * WORDS_PER_INITVAL : (number + 1) * WORDS_PER_INITVAL]
        bits = sum(int(word) << (INITVAL_WORD_BITS * place) for place, word in enumerate(words))
        parameters[f"p_INITVAL_{number:02X}"] = Const(bits, WORDS_PER_INITVAL * INITVAL_WORD_BITS)
    return parameters


class TableRom(wiring.Component):
    """`data_x` is the table's entry at `address_x`, `LATENCY` = 2 cycles later; ports a and b are independent.

    On ECP5 one DP16KD with its output registers. Raises ValueError when the table has more than 1,024 entries or one
    outside 0..2**18 - 1.
    """

    LATENCY = 2

    def __init__(self, values: Sequence[int]) -> None:
        if not 1 <= len(values) <= WORDS:
            raise ValueError(f"a table of {len(values)} entries must have 1..{WORDS}")
        if not 0 <= min(values) <= max(values) < 1 << WIDTH:
            raise ValueError(f"entries {min(values)}..{max(values)} must be in 0..{(1 << WIDTH) - 1}")
        self._values = [int(value) for value in values]
        self._width = max(1, max(self._values).bit_length())
        ports: dict[str, Any] = {}
        for port in "ab":
            ports |= {f"address_{port}": In(range(len(values))), f"data_{port}": Out(self._width)}
        super().__init__(ports)

    def elaborate(self, platform: Any) -> Elaboratable:
        """Portable Amaranth memory, or one DP16KD."""
        m = Module()
        if is_ecp5(platform):
            m.submodules.dp16kd = self._instance()
            return m
        m.submodules.table = table = memory.Memory(shape=self._width, depth=len(self._values), init=self._values)
        for port in "ab":
            read = table.read_port()
            output = Signal(self._width, name=f"output_{port}", reset_less=True)
            m.d.comb += [read.addr.eq(getattr(self, f"address_{port}")), getattr(self, f"data_{port}").eq(output)]
            m.d.sync += output.eq(read.data)
        return m

    def _instance(self) -> Instance:
        """DP16KD as 1024 x 18 that is never written; the low four address pins are byte enables of writes."""
        connections: dict[str, Any] = {"p_GSR": "AUTO", **initial_values(self._values)}
        for port in "AB":
            address, word = getattr(self, f"address_{port.lower()}"), getattr(self, f"data_{port.lower()}")
            connections |= {
                f"p_DATA_WIDTH_{port}": WIDTH,
                f"p_REGMODE_{port}": "OUTREG",
                f"i_CLK{port}": ClockSignal(),
                f"i_CE{port}": Const(1, 1),
                f"i_OCE{port}": Const(1, 1),
                f"i_WE{port}": Const(0, 1),
                f"i_RST{port}": Const(0, 1),
            }
            for bit in range(14):
                used = 4 <= bit < 4 + len(address)
                connections[f"i_AD{port}{bit}"] = address[bit - 4] if used else Const(0, 1)
            for bit in range(3):
                connections[f"i_CS{port}{bit}"] = Const(0, 1)
            for bit in range(WIDTH):
                connections[f"i_DI{port}{bit}"] = Const(0, 1)
                connections[f"o_DO{port}{bit}"] = word[bit] if bit < len(word) else Signal(name=f"idle_{port}{bit}")
        return Instance("DP16KD", **connections)

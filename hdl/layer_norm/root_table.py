"""The table of reciprocal roots in a block RAM that is never written."""

from typing import Any

from amaranth.hdl import ClockSignal, Const, Elaboratable, Instance, Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from hdl.ecp5.platform import is_ecp5
from sim.contract.layer_norm import MANTISSA_FRACTION_BITS, ROOT_FRACTION_BITS, ROOT_TABLE

INDEX_BITS = 8
"""Leading bits of the mantissa that address the table."""

MANTISSA_BITS = MANTISSA_FRACTION_BITS + 2
"""m in [1, 4)."""

WORDS_PER_INIT = 16
INIT_WORD_BITS = 20
"""An INITVAL of a DP16KD in its mode of 18 bits holds 16 words, 20 bits apart."""


class RootTable(wiring.Component):
    """`root` = ROOT_TABLE[index - 64], `LATENCY` = 2 cycles after `index`, 64..255; one per cycle.

    Below 64 the root is 0: no mantissa is below 1. One DP16KD on ECP5, with its output register, as synthesis
    would leave that register outside and run at 110 MHz.
    """

    LATENCY = 2

    def __init__(self) -> None:
        super().__init__({"index": In(INDEX_BITS), "root": Out(ROOT_FRACTION_BITS)})

    @staticmethod
    def words() -> list[int]:
        """What the 256 addresses hold."""
        return [0] * ((1 << INDEX_BITS) - len(ROOT_TABLE)) + [int(root) for root in ROOT_TABLE]

    def elaborate(self, platform: Any) -> Elaboratable:
        """Portable Amaranth memory with a register behind it, or one DP16KD."""
        m = Module()
        if is_ecp5(platform):
            m.submodules.dp16kd = self._instance()
            return m
        m.submodules.memory = storage = memory.Memory(shape=ROOT_FRACTION_BITS, depth=256, init=self.words())
        read = storage.read_port()
        output = Signal(ROOT_FRACTION_BITS, reset_less=True)
        m.d.comb += [read.addr.eq(self.index), self.root.eq(output)]
        m.d.sync += output.eq(read.data)
        return m

    def _instance(self) -> Instance:
        """DP16KD with port A alone."""
        connections: dict[str, Any] = {
            "p_DATA_WIDTH_A": 18,
            "p_DATA_WIDTH_B": 18,
            "p_REGMODE_A": "OUTREG",
            "p_GSR": "AUTO",
            "i_CLKA": ClockSignal(),
            "i_CEA": Const(1, 1),
            "i_OCEA": Const(1, 1),
            "i_WEA": Const(0, 1),
            "i_RSTA": Const(0, 1),
            "i_CEB": Const(0, 1),
        }
        words = self.words()
        for row in range(len(words) // WORDS_PER_INIT):
            packed = sum(words[WORDS_PER_INIT * row + i] << (INIT_WORD_BITS * i) for i in range(WORDS_PER_INIT))
            connections[f"p_INITVAL_{row:02X}"] = Const(packed, WORDS_PER_INIT * INIT_WORD_BITS)
        for bit in range(14):
            connections[f"i_ADA{bit}"] = self.index[bit - 4] if 4 <= bit < 4 + INDEX_BITS else Const(0, 1)
        for bit in range(3):
            connections[f"i_CSA{bit}"] = Const(0, 1)
        for bit in range(ROOT_FRACTION_BITS):
            connections[f"o_DOA{bit}"] = self.root[bit]
        return Instance("DP16KD", **connections)

"""Activation unit: a function of one wide number by table and straight lines between its samples; GELU."""

from typing import Any, Final

import numpy as np
from amaranth.hdl import Cat, Const, Elaboratable, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from hdl.ecp5.multiplier import RegisteredMultiplier
from hdl.ecp5.shared_ram import SharedRam
from hdl.finish import Finish
from hdl.parameters import require
from hdl.pipeline import delay
from hdl.vector.credit_fifo import CreditFifo
from hdl.vector.right_shift import RightShift, shift_latency
from sim.contract.activation_table import LARGEST_SEGMENT_BITS, SEGMENTS, TABLE_ENTRIES, ActivationTable
from sim.contract.constants import WIDE_BITS
from sim.contract.wide import Wide

LANES_MAX: Final = 16

INDEX_BITS: Final = (SEGMENTS - 1).bit_length()

LINE_BITS: Final = WIDE_BITS + 1
"""Signed width of the rise over a segment, and of the way into it, which may be far beyond its end."""

PRODUCT_BITS: Final = 2 * LINE_BITS

RISE_BITS: Final = WIDE_BITS + 2
"""A rise that does not fit so many bits saturates the result, whatever the sample."""


class Activation(wiring.Component):
    """o = f(i) by 1,025 samples and a line between two of them, bit for bit sim.contract.activation_table.

    `i_table` takes samples in ascending order of `address` (0..1024); the rise of a segment is stored when its upper
    sample comes, right after its lower one. `i_setting` sets the segment bits b, 0..6, for every value after it. Both
    wait until all results before them have been taken, and values wait for the setting: after the table it orders both.

    Throughput: one transfer per cycle. Latency from `i` to `o`: `LATENCY` = 13 cycles.

    lanes: values per transfer, 1..16. Per lane one MULT18X18D; per two lanes two DP16KD, of samples and of rises.
    Raises ValueError when it is out of range.
    """

    INDEX_STAGE = 2
    RISE_STAGE = INDEX_STAGE + SharedRam.LATENCY + RegisteredMultiplier.LATENCY
    SUM_STAGE = RISE_STAGE + shift_latency(LARGEST_SEGMENT_BITS) + 1
    FINISHED_STAGE = SUM_STAGE + Finish.LATENCY
    LATENCY = FINISHED_STAGE + 1

    def __init__(self, *, lanes: int = 8) -> None:
        self.lanes = require("lanes", lanes, range(1, LANES_MAX + 1), f"in 1..{LANES_MAX}")
        values = data.ArrayLayout(signed(WIDE_BITS), lanes)
        sample = data.StructLayout({"address": range(TABLE_ENTRIES), "sample": signed(WIDE_BITS)})
        super().__init__(
            {
                "i_table": In(stream.Signature(sample)),
                "i_setting": In(stream.Signature(range(LARGEST_SEGMENT_BITS + 1))),
                "i": In(stream.Signature(values)),
                "o": Out(stream.Signature(values)),
            }
        )

    @staticmethod
    def model(activation: ActivationTable, values: NDArray[np.int16]) -> NDArray[np.int16]:
        """Results of the same shape as the values."""
        return activation.run(Wide(values, activation.input_exponent)).values

    @staticmethod
    def parameters(activation: ActivationTable) -> dict[str, list[Any]]:
        """Everything to transfer before an operation's values, by stream name and in this order."""
        samples = [{"address": address, "sample": sample} for address, sample in enumerate(activation.table.tolist())]
        return {"i_table": samples, "i_setting": [activation.segment_bits]}

    def elaborate(self, platform: Any) -> Elaboratable:
        """Segment and way into it, sample and rise from memory, product, shift, sum, finish."""
        m = Module()
        m.submodules.fifo = fifo = CreditFifo(self.o.payload.shape(), depth=self.LATENCY + CreditFifo.TURNAROUND)
        wiring.connect(m, fifo.o, wiring.flipped(self.o))
        accepted = Signal()
        segment_bits = Signal(range(LARGEST_SEGMENT_BITS + 1), reset_less=True)
        m.d.comb += [
            self.i.ready.eq(fifo.o_room & ~self.i_setting.valid),
            accepted.eq(self.i.valid & self.i.ready),
            self.i_setting.ready.eq(fifo.o_empty),
            fifo.spend.eq(accepted),
            fifo.store.eq(delay(m, accepted, self.FINISHED_STAGE, "accepted", reset_less=False)),
        ]
        with m.If(self.i_setting.valid & self.i_setting.ready):
            m.d.sync += segment_bits.eq(self.i_setting.payload)
        # From registers: a value that is accepted right after a setting needs them a cycle later.
        first_start = Signal(signed(WIDE_BITS), reset_less=True)
        last_start = Signal(signed(WIDE_BITS), reset_less=True)
        m.d.sync += [
            first_start.eq((-(SEGMENTS // 2)) << segment_bits),
            last_start.eq((SEGMENTS // 2 - 1) << segment_bits),
        ]
        m.d.comb += self.i_table.ready.eq(fifo.o_empty)
        sample_write, rise_write = self._writes(m)
        segments = [self._segment(m, lane, segment_bits, (first_start, last_start)) for lane in range(self.lanes)]
        late_indices = [
            delay(m, index, self.SUM_STAGE - 1 - SharedRam.LATENCY - self.INDEX_STAGE, f"index{lane}_late")
            for lane, (index, _) in enumerate(segments)
        ]
        samples = _looked_up(m, "samples", WIDE_BITS, late_indices, sample_write)
        rises = _looked_up(m, "rises", LINE_BITS, [index for index, _ in segments], rise_write)
        for lane, (_, way) in enumerate(segments):
            m.submodules[f"multiplier{lane}"] = multiplier = RegisteredMultiplier()
            m.submodules[f"shift{lane}"] = shift = RightShift(
                width=PRODUCT_BITS, max_shift=LARGEST_SEGMENT_BITS, kept=RISE_BITS
            )
            m.submodules[f"finish{lane}"] = finish = Finish()
            total = Signal(signed(RISE_BITS + 1), name=f"total{lane}", reset_less=True)
            over = Signal(name=f"over{lane}", reset_less=True)
            negative = Signal(name=f"negative{lane}", reset_less=True)
            # The carry enters below both operands: one adder.
            carried = Cat(Const(1, 1), shift.floor).as_signed() + Cat(shift.up, samples[lane]).as_signed()
            m.d.comb += [
                multiplier.a.eq(rises[lane].as_signed()),
                multiplier.b.eq(delay(m, way, SharedRam.LATENCY, f"way{lane}")),
                shift.value.eq(multiplier.o),
                shift.shift.eq(segment_bits),
            ]
            m.d.sync += [total.eq(carried[1:]), over.eq(shift.over), negative.eq(shift.negative)]
            top = total[WIDE_BITS - 1 :]  # all equal when the sum fits
            m.d.comb += [
                finish.floor.eq(total),
                finish.over.eq(over | (top.any() & ~top.all())),
                finish.negative.eq(Mux(over, negative, total[-1])),
                fifo.word[lane].eq(finish.o),
            ]
        return m

    def _writes(self, m: Module) -> tuple[tuple[Any, Any, Any], tuple[Any, Any, Any]]:
        """(enable, address, word) for the memories of samples and of rises, from registers."""
        port = self.i_table
        taken = Signal()
        m.d.comb += taken.eq(port.valid & port.ready)
        # Decided before the registers: the addresses of two readers hang on what they say.
        at_end, at_start = port.payload.address[INDEX_BITS], port.payload.address == 0
        of_sample = delay(m, taken & ~at_end, 1, "write_sample", reset_less=False)
        of_rise = delay(m, taken & ~at_start, 1, "write_rise", reset_less=False)
        word = delay(m, port.payload, 1, "write")
        lower = Signal(signed(WIDE_BITS), reset_less=True)
        rise = Signal(signed(LINE_BITS), reset_less=True)
        with m.If(taken):
            m.d.sync += [lower.eq(port.payload.sample), rise.eq(port.payload.sample - lower)]
        segment = delay(m, (port.payload.address - 1)[:INDEX_BITS], 1, "segment")
        return (of_sample, word.address[:INDEX_BITS], word.sample), (of_rise, segment, rise)

    def _segment(
        self, m: Module, lane: int, segment_bits: Signal, starts: tuple[Signal, Signal]
    ) -> tuple[Signal, Signal]:
        """(index of the segment, way into it) at the index stage; `starts` of the first segment and of the last.

        Beyond the samples the way is counted from the nearer of the two.
        """
        value = self.i.payload[lane]
        held = Signal(signed(WIDE_BITS), name=f"held{lane}", reset_less=True)
        near = Signal(INDEX_BITS, name=f"near{lane}", reset_less=True)
        beyond = Signal(name=f"beyond{lane}", reset_less=True)
        inside = Signal(LARGEST_SEGMENT_BITS, name=f"inside{lane}", reset_less=True)
        index = Signal(INDEX_BITS, name=f"index{lane}", reset_less=True)
        way = Signal(signed(LINE_BITS), name=f"way{lane}", reset_less=True)
        m.d.sync += held.eq(value)
        with m.Switch(segment_bits):
            for bits in range(LARGEST_SEGMENT_BITS + 1):
                top = value[bits + INDEX_BITS - 1 :]  # all equal within the samples
                with m.Case(bits):
                    m.d.sync += [
                        near.eq(value[bits : bits + INDEX_BITS]),
                        inside.eq(value[:bits]),
                        beyond.eq(top.any() & ~top.all()),
                    ]
        m.d.sync += [
            index.eq(Mux(beyond, ~held[-1].replicate(INDEX_BITS), near ^ (SEGMENTS // 2))),
            way.eq(Mux(beyond, held - Mux(held[-1], *starts), inside)),
        ]
        return index, way


def _looked_up(m: Module, name: str, width: int, indices: list[Signal], write: tuple[Any, Any, Any]) -> list[Any]:
    """Words at `indices`, SharedRam.LATENCY cycles later, of memories shared by two lanes; the first one's writes."""
    enable, address, word = write
    found: list[Any] = []
    for first in range(0, len(indices), 2):
        m.submodules[f"{name}{first}"] = memory = SharedRam(width=width, depth=SEGMENTS)
        lanes = indices[first : first + 2]
        m.d.comb += [
            memory.write.eq(enable),
            memory.write_data.eq(word),
            memory.address_a.eq(Mux(enable, address, lanes[0])),
            memory.address_b.eq(lanes[-1]),
        ]
        found += (memory.data_a, memory.data_b)[: len(lanes)]
    return found

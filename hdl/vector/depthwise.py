"""Depthwise 3x3 convolution: line buffers, up to nine taps per lane and cycle, one scale and bias per channel."""

from typing import Any, Final

import numpy as np
from amaranth.hdl import Array, Cat, Elaboratable, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from hdl.array.adder_tree import AdderTree
from hdl.ecp5.block_ram import BlockRam
from hdl.ecp5.multiplier import RegisteredMultiplier
from hdl.finish import Finish
from hdl.parameters import require
from hdl.pipeline import delay
from hdl.vector.credit_fifo import CreditFifo
from hdl.vector.raster import Raster, map_layout, map_setting
from hdl.vector.right_shift import RightShift, shift_latency
from sim.contract.constants import WIDE_BITS
from sim.contract.depthwise import Depthwise
from sim.contract.wide import Wide
from sim.machine.settings import MAP_COLUMNS_MIN, TAPS

LANES_MAX: Final = 14
"""With eleven multipliers each, fourteen lanes take those of an LFE5U-85F."""

WEIGHT_BITS: Final = 8
MULTIPLIER_BITS: Final = 16
BIAS_BITS: Final = 45
SHIFT_MAX: Final = 44
TOTAL_BITS: Final = 46
"""|sum * multiplier| is below 2^42, |bias| below 2^44."""

LOW_BITS: Final = 17
"""Low bits of a sum that one multiplier takes, as a number without sign; another takes the rest."""

TAPS_PER_CYCLE: Final = (9, 3, 1)

SUM_BITS: Final = WIDE_BITS + WEIGHT_BITS + (TAPS - 1).bit_length()

COLUMNS_MAX: Final = 512
"""Columns whose two previous rows fill one block RAM per lane."""


class DepthwiseConvolution(wiring.Component):
    """Depthwise 3x3 convolution of wide maps, stride 1 or 2, bit for bit sim.contract.depthwise.Depthwise.

    A map is computed `lanes` channels at a time: one transfer of `i` holds a pixel of these channels, pixels in rows
    from the top left, and results leave `o` in the same order. `i_channels` takes weights, multiplier and bias of one
    channel; `lanes` transfers, lane 0 first, start a pass over the map, and the next pass's may come while it runs.
    `i_map` sets size, stride and shift of every pass after it: it waits until all results before it have been taken,
    and the next pass waits for it, also where its channels have come already.

    Throughput: a pixel every n = 9 / taps_per_cycle cycles. A pass takes (rows * columns + columns + 1) * n + 1 cycles,
    which stride 2 does not change, and at least `shortest_pass` + lanes, the time to hand over the channels. The result
    centred on pixel i (counted in rows) needs pixel i + columns + 1 of the map, or as many steps of n cycles after its
    last; from there `latency` cycles: 21 with nine taps per cycle, 22 with three, 26 with one.

    lanes: channels at a time, 1..14. columns: widest map, 3..512; rows: 1..1024, which is no parameter.
    taps_per_cycle: 9, 3, 1. Per lane: that many MULT18X18D and two more (for 27 x 16 bits), and one DP16KD (two rows of
    pixels). Raises ValueError naming the parameter, its limit and the nearest valid value.
    """

    TAP_STAGE = BlockRam.LATENCY + 1

    def __init__(self, *, lanes: int = 4, columns: int = 256, taps_per_cycle: int = 9) -> None:
        self.lanes = require("lanes", lanes, range(1, LANES_MAX + 1), f"in 1..{LANES_MAX}")
        self._taps = require("taps_per_cycle", taps_per_cycle, TAPS_PER_CYCLE, f"one of {TAPS_PER_CYCLE}")
        self._turns = TAPS // taps_per_cycle
        self._product_stage = self.TAP_STAGE + RegisteredMultiplier.LATENCY + (taps_per_cycle - 1).bit_length()
        # With several turns the last sum is added in a cycle of its own.
        self.sum_stage = self._product_stage + (self._turns if self._turns > 1 else 0)
        self.bias_stage = self.sum_stage + RegisteredMultiplier.LATENCY
        self.total_stage = self.bias_stage + 2
        self.finished_stage = self.total_stage + shift_latency(SHIFT_MAX) + Finish.LATENCY
        self.latency = self.finished_stage + 1
        self.shortest_pass = self.bias_stage + 1
        limit = f"in {MAP_COLUMNS_MIN}..{COLUMNS_MAX}"
        self.columns = require("columns", columns, range(MAP_COLUMNS_MIN, COLUMNS_MAX + 1), limit)
        pixel = data.ArrayLayout(signed(WIDE_BITS), lanes)
        channel = data.StructLayout(
            {
                "weight": data.ArrayLayout(signed(WEIGHT_BITS), TAPS),
                "multiplier": unsigned(MULTIPLIER_BITS),
                "bias": signed(BIAS_BITS),
            }
        )
        setting = data.StructLayout({"map": map_layout(columns), "shift": range(SHIFT_MAX + 1)})
        super().__init__(
            {
                "i_map": In(stream.Signature(setting)),
                "i_channels": In(stream.Signature(channel)),
                "i": In(stream.Signature(pixel)),
                "o": Out(stream.Signature(pixel)),
            }
        )

    @staticmethod
    def model(depthwise: Depthwise, values: NDArray[np.int16]) -> NDArray[np.int16]:
        """Results (ceil(rows / stride), ceil(columns / stride), C) of a map (rows, columns, C)."""
        return depthwise.run(Wide(values, depthwise.input_exponent)).values

    def setting(self, depthwise: Depthwise, rows: int, columns: int) -> dict[str, Any]:
        """The transfer of `i_map` for maps (rows, columns, C). Raises ValueError when they do not fit the unit."""
        return {"map": map_setting(rows, columns, depthwise.stride, limit=self.columns), "shift": depthwise.shift}

    def channels(self, depthwise: Depthwise) -> list[dict[str, Any]]:
        """The transfers of `i_channels` for all passes over a map; the last pass's spare lanes give zeros."""
        count = depthwise.multiplier.size
        transfers = [
            {"weight": weight, "multiplier": multiplier, "bias": bias}
            for weight, multiplier, bias in zip(
                depthwise.weight.reshape(count, TAPS).tolist(),
                depthwise.multiplier.tolist(),
                depthwise.bias.tolist(),
                strict=True,
            )
        ]
        return transfers + [{"weight": [0] * TAPS, "multiplier": 0, "bias": 0}] * (-count % self.lanes)

    def elaborate(self, platform: Any) -> Elaboratable:
        """The raster says when to step; everything behind it moves on without stopping."""
        m = Module()
        m.submodules.fifo = fifo = CreditFifo(self.o.payload.shape(), depth=self.latency + CreditFifo.TURNAROUND)
        wiring.connect(m, fifo.o, wiring.flipped(self.o))
        m.submodules.raster = raster = Raster(columns=self.columns)
        shift = Signal(range(SHIFT_MAX + 1), reset_less=True)
        begin = delay(m, raster.o_begin, self.TAP_STAGE, "begin", reset_less=False)
        begin_sum = delay(m, begin, self.sum_stage - self.TAP_STAGE, "begin_sum", reset_less=False)
        begin_bias = delay(m, begin_sum, self.bias_stage - self.sum_stage, "begin_bias", reset_less=False)
        channels, loaded = self._channels(m, raster.o_begin, begin_bias)
        hold, room = self.i_map.valid, fifo.o_room
        if self._turns > 1:
            resting = self._resting(m, raster.o_step)
            hold, room = hold | resting, room & ~resting
        m.d.comb += [
            raster.i_map.payload.eq(self.i_map.payload.map),
            raster.i_map.valid.eq(self.i_map.valid & fifo.o_empty),
            self.i_map.ready.eq(raster.i_map.ready & fifo.o_empty),
            raster.hold.eq(hold),
            raster.loaded.eq(loaded),
            raster.pixel_valid.eq(self.i.valid),
            raster.room.eq(room),
            self.i.ready.eq(raster.pixel_ready),
            fifo.spend.eq(raster.o_emit),
            fifo.store.eq(delay(m, raster.o_emit, self.finished_stage, "emitted", reset_less=False)),
        ]
        with m.If(self.i_map.valid & self.i_map.ready):
            m.d.sync += shift.eq(self.i_map.payload.shift)
        stored = delay(m, raster.o_step, BlockRam.LATENCY, "stored", reset_less=False)
        address = delay(m, raster.o_column, BlockRam.LATENCY, "address")
        masked, turn = self._turn(m, raster.o_masked, stored)
        for lane in range(self.lanes):
            pixel = delay(m, self.i.payload[lane], BlockRam.LATENCY, f"pixel{lane}")
            m.submodules[f"rows{lane}"] = rows = BlockRam(width=2 * WIDE_BITS, depth=self.columns)
            m.d.comb += [
                rows.read_address.eq(raster.o_column),
                rows.write_enable.eq(stored),
                rows.write_address.eq(address),
                rows.write_data.eq(Cat(pixel, rows.read_data[:WIDE_BITS])),
            ]
            column = [rows.read_data[WIDE_BITS:], rows.read_data[:WIDE_BITS], pixel]
            window = self._window(m, lane, column, stored)
            weight = Signal(data.ArrayLayout(signed(WEIGHT_BITS), TAPS), name=f"weight{lane}", reset_less=True)
            with m.If(begin):
                m.d.sync += weight.eq(channels[lane].weight)
            m.submodules[f"tree{lane}"] = tree = AdderTree(inputs=self._taps, width=WIDE_BITS + WEIGHT_BITS)
            for number in range(self._taps):
                m.submodules[f"tap{lane}_{number}"] = product = RegisteredMultiplier()
                taps = range(number, TAPS, self._taps)
                m.d.comb += [
                    product.a.eq(_chosen([Mux(masked[tap], 0, window[tap]) for tap in taps], turn)),
                    product.b.eq(_chosen([weight[tap] for tap in taps], turn)),
                    tree.i[number].eq(product.o),
                ]
            total = self._scaled(m, lane, self._sum(m, lane, tree.o, stored), channels[lane], (begin_sum, begin_bias))
            m.submodules[f"shift{lane}"] = shifter = RightShift(width=TOTAL_BITS, max_shift=SHIFT_MAX, kept=WIDE_BITS)
            m.submodules[f"finish{lane}"] = finish = Finish()
            m.d.comb += [
                shifter.value.eq(total),
                shifter.shift.eq(shift),
                finish.floor.eq(shifter.floor),
                finish.up.eq(shifter.up),
                finish.over.eq(shifter.over),
                finish.negative.eq(shifter.negative),
                fifo.word[lane].eq(finish.o),
            ]
        return m

    def _resting(self, m: Module, step: Signal) -> Any:
        """The taps of the latest step are not through."""
        left = Signal(range(self._turns))
        with m.If(step):
            m.d.sync += left.eq(self._turns - 1)
        with m.Elif(left != 0):
            m.d.sync += left.eq(left - 1)
        return left != 0

    def _turn(self, m: Module, masked: Signal, stored: Signal) -> tuple[Signal, Signal]:
        """(taps outside the map, kept until the next step; which of the turns) from the tap stage on."""
        if self._turns == 1:
            return delay(m, masked, self.TAP_STAGE, "masked"), Signal()
        kept, turn = Signal(TAPS, reset_less=True), Signal(range(self._turns), reset_less=True)
        arriving = delay(m, masked, BlockRam.LATENCY, "masked")
        with m.If(stored):
            m.d.sync += [kept.eq(arriving), turn.eq(0)]
        with m.Else():
            m.d.sync += turn.eq(turn + 1)
        return kept, turn

    def _sum(self, m: Module, lane: int, part: Any, stored: Signal) -> Any:
        """Sum of the taps at the sum stage, of the parts that come turn by turn."""
        if self._turns == 1:
            return part
        first = delay(m, stored, self._product_stage - BlockRam.LATENCY, f"first{lane}")
        total = Signal(signed(SUM_BITS), name=f"sum{lane}", reset_less=True)
        m.d.sync += total.eq(part + Mux(first, 0, total))
        return total

    def _channels(self, m: Module, begun: Signal, taken: Signal) -> tuple[list[Any], Signal]:
        """(channels of the next pass by lane, all of them are there), kept until the last stage has `taken` them."""
        arrived = Signal(range(self.lanes + 1))
        in_use = Signal()
        loaded = Signal()
        full = arrived == self.lanes
        port = self.i_channels
        m.d.comb += [loaded.eq(full & ~in_use), port.ready.eq(~full)]
        waiting = [Signal(port.payload.shape(), name=f"waiting{lane}", reset_less=True) for lane in range(self.lanes)]
        with m.If(begun):
            m.d.sync += in_use.eq(1)
        with m.If(taken):
            m.d.sync += [arrived.eq(0), in_use.eq(0)]
        with m.Elif(port.valid & port.ready):
            m.d.sync += arrived.eq(arrived + 1)
            for lane in range(self.lanes):
                m.d.sync += waiting[lane].eq(port.payload if lane + 1 == self.lanes else waiting[lane + 1])
        return waiting, loaded

    @staticmethod
    def _window(m: Module, lane: int, column: list[Any], stored: Signal) -> list[Signal]:
        """The nine taps, rows first, one cycle after their newest column (top to bottom)."""
        window = [Signal(signed(WIDE_BITS), name=f"window{lane}_{tap}", reset_less=True) for tap in range(TAPS)]
        with m.If(stored):
            for row in range(3):
                m.d.sync += [
                    window[3 * row].eq(window[3 * row + 1]),
                    window[3 * row + 1].eq(window[3 * row + 2]),
                    window[3 * row + 2].eq(column[row]),
                ]
        return window

    @staticmethod
    def _scaled(m: Module, lane: int, total: Any, channel: Any, begins: tuple[Signal, Signal]) -> Signal:
        """sum * multiplier + bias at the total stage, the sum in two parts."""
        multiplier = Signal(MULTIPLIER_BITS, name=f"multiplier{lane}", reset_less=True)
        bias = Signal(signed(BIAS_BITS), name=f"bias{lane}", reset_less=True)
        begin_sum, begin_bias = begins
        with m.If(begin_sum):
            m.d.sync += multiplier.eq(channel.multiplier)
        with m.If(begin_bias):
            m.d.sync += bias.eq(channel.bias)
        m.submodules[f"low{lane}"] = low = RegisteredMultiplier()
        m.submodules[f"high{lane}"] = high = RegisteredMultiplier()
        high_part = Signal(signed(TOTAL_BITS - LOW_BITS), name=f"high_part{lane}", reset_less=True)
        low_part = Signal(signed(TOTAL_BITS), name=f"low_part{lane}", reset_less=True)
        result = Signal(signed(TOTAL_BITS), name=f"total{lane}", reset_less=True)
        m.d.comb += [
            low.a.eq(total[:LOW_BITS]),
            low.b.eq(multiplier),
            high.a.eq(total[LOW_BITS:].as_signed()),
            high.b.eq(multiplier),
        ]
        m.d.sync += [
            low_part.eq(low.o + bias),
            high_part.eq(high.o),
            result.eq(Cat(low_part[:LOW_BITS], low_part[LOW_BITS:].as_signed() + high_part)),
        ]
        return result


def _chosen(values: list[Any], turn: Signal) -> Any:
    """The signed value number `turn`, all of one width; the last one where there is none."""
    return values[0] if len(values) == 1 else Array(values)[turn]

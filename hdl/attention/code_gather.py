"""From rows to row tiles: the softmax gives the codes of a query's keys, the array takes `rows` keys of every query.

    q0: keys 0, 1, 2, ...  |  q1: keys 0, 1, 2, ...  |  ...      written, `lanes` codes at a time
    tile 0: q0 q1 q2 ...   |  tile 0 again, as often as passes need it  |  tile 1: ...    read, `rows` codes at a time

A code of P stands for a level of up to three nibbles, each streamed in a RUN of its own. The nibbles of a code are
looked up here, one cell of distributed RAM per row and nibble, on the way to the array: so every RUN reads the same
product tables (those of the levels 0..15), and one LOAD serves all nibbles of P. With a codebook for each nibble no
cell would be needed here, but a LOAD for each.
"""

from typing import Any

import numpy as np
from amaranth.hdl import Array, Cat, Elaboratable, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from hdl.array.geometry import CODE_BITS
from hdl.attention.geometry import AttentionGeometry
from hdl.ecp5.block_memory import BlockMemory
from hdl.ecp5.distributed_ram import DistributedRam
from hdl.pipeline import delay
from hdl.vector.credit_fifo import CreditFifo

HALVES = 2


class CodeGather(wiring.Component):
    """Nibbles of the levels of P for the rows of the array, from rows of codes.

    - `i_level` writes the nibbles of a code's level, always ready; while a set is read nothing may be written.
    - `i_shape` announces a set of `queries` rows; queries * ceil(keys / rows) words must fit code_words.
    - `i`: rows of codes in words of `lanes`, the last word of a row marked, as hdl.softmax gives them.
    - `i_read` reads the oldest set out and frees its half: for every tile of `tiles`, of `groups` (row tiles of the
      keys), of `planes` and of `runs`, all `queries`. Run number r gives nibble r of every level.
    - `o`: `rows` nibbles. Beyond the last key they have no meaning: the array multiplies them by zero.
    - `o_idle`: nothing is stored, announced or asked for.

    One set is written while another is read (two halves). Throughput: one word per cycle on either side, and one cycle
    between two sets. A set is read from the cycle after its last word came in.
    Latency from there to `o`: `latency` = 6 cycles, 7 where a bank needs several block RAMs for its depth.

    Memory: rows / lanes banks of lanes * 4 bits by 2 * code_words; 8 * rows * code_words bits in all.
    """

    def __init__(self, geometry: AttentionGeometry) -> None:
        self._geometry = geometry
        self._banks = geometry.array.rows // geometry.lanes
        self._bank_width = geometry.lanes * CODE_BITS
        self._memory_latency = BlockMemory.latency(width=self._bank_width, depth=HALVES * geometry.code_words)
        self.latency = self._memory_latency + 4
        command = geometry.command_layout.members
        read = data.StructLayout({name: command[name] for name in ("queries", "tiles", "groups", "planes", "runs")})
        super().__init__(
            {
                "i_level": In(stream.Signature(geometry.level_layout)),
                "i_shape": In(stream.Signature(command["queries"])),
                "i": In(stream.Signature(geometry.softmax.codes_layout)),
                "i_read": In(stream.Signature(read)),
                "o": Out(stream.Signature(data.ArrayLayout(unsigned(CODE_BITS), geometry.array.rows))),
                "o_idle": Out(1),
            }
        )

    @staticmethod
    def model(
        codes: NDArray[np.integer], nibbles: NDArray[np.integer], *, rows: int, tiles: int, planes: int, runs: int
    ) -> NDArray[np.int64]:
        """Words int64 (n, rows) of one set: codes (queries, keys), nibbles (16, score_planes); 0 beyond the keys."""
        queries, keys = codes.shape
        groups = -(-keys // rows)
        padded = np.zeros((queries, groups * rows), np.int64)
        padded[:, :keys] = codes
        present = np.arange(groups * rows) < keys
        words = np.asarray(nibbles, np.int64)[padded] * present[None, :, None]
        one = words.reshape(queries, groups, rows, -1).transpose(1, 3, 0, 2)[:, :runs]
        return np.tile(np.repeat(one[:, None], planes, axis=1).reshape(-1, rows), (tiles, 1))

    def elaborate(self, platform: Any) -> Elaboratable:
        """A writer that steps, a reader that counts, the look-up, and the number of full halves between them."""
        m = Module()
        geometry = self._geometry
        filled, emptied, full = Signal(), Signal(), Signal(range(HALVES + 1))
        m.d.sync += full.eq(full + filled - emptied)
        write_enables, write_address, writing = self._writer(m, filled, full)
        m.submodules.fifo = fifo = CreditFifo(
            geometry.array.rows * CODE_BITS, depth=self._memory_latency + 3 + CreditFifo.TURNAROUND
        )
        issue, read_address, run, reading = self._reader(m, emptied, (full != 0) & fifo.o_room)
        m.d.comb += [
            fifo.spend.eq(issue),
            fifo.store.eq(delay(m, issue, self._memory_latency + 2, "issue", reset_less=False)),
            self.o.valid.eq(fifo.o.valid),
            self.o.payload.as_value().eq(fifo.o.payload),
            fifo.o.ready.eq(self.o.ready),
            self.o_idle.eq(~writing & ~reading & (full == 0) & fifo.o_empty),
        ]

        codes = []
        for bank in range(self._banks):
            memory = BlockMemory(width=self._bank_width, depth=HALVES * geometry.code_words)
            m.submodules[f"bank{bank}"] = memory
            m.d.comb += [
                memory.write_enable.eq(write_enables[bank]),
                memory.write_address.eq(write_address),
                memory.write_data.eq(self.i.payload.code.as_value()),
                memory.read_address.eq(read_address),
            ]
            codes.append(memory.read_data)
        chosen = delay(m, run, self._memory_latency + 1, "run")
        word = Cat(codes)
        code, nibble = (Signal(len(word), name=name, reset_less=True) for name in ("code", "nibble"))
        m.d.sync += code.eq(word)
        m.d.comb += [self.i_level.ready.eq(1), fifo.word.eq(nibble)]
        for row in range(geometry.array.rows):
            m.submodules[f"levels{row}"] = levels = DistributedRam(width=CODE_BITS * geometry.score_planes)
            planes = [levels.read_data.word_select(plane, CODE_BITS) for plane in range(geometry.score_planes)]
            m.d.comb += [
                levels.write_enable.eq(self.i_level.valid),
                levels.write_address.eq(self.i_level.payload.code),
                levels.write_data.eq(self.i_level.payload.nibbles.as_value()),
                levels.read_address.eq(code.word_select(row, CODE_BITS)),
            ]
            m.d.sync += nibble.word_select(row, CODE_BITS).eq(Array(planes)[chosen])
        return m

    def _writer(self, m: Module, filled: Signal, full: Signal) -> tuple[Any, Any, Signal]:
        """(enable per bank, address, a set is being written)."""
        geometry = self._geometry
        half, writing = Signal(), Signal()
        queries = Signal.like(self.i_shape.payload, reset_less=True)
        row = Signal.like(queries)
        start = Mux(half, geometry.code_words, 0)
        address = Signal(range(HALVES * geometry.code_words), reset_less=True)
        bank = Signal(self._banks, init=1)
        accepted = Signal()
        m.d.comb += [
            # With both halves full the one to be written is being read, or waits for that.
            self.i_shape.ready.eq(~writing & (full != HALVES)),
            self.i.ready.eq(writing),
            accepted.eq(self.i.valid & writing),
            filled.eq(accepted & self.i.payload.last & (row == queries - 1)),
        ]
        with m.If(self.i_shape.valid & self.i_shape.ready):
            m.d.sync += [queries.eq(self.i_shape.payload), writing.eq(1), row.eq(0), address.eq(start), bank.eq(1)]
        with m.If(accepted):
            m.d.sync += bank.eq(bank.rotate_left(1))
            with m.If(bank[-1]):
                m.d.sync += address.eq(address + queries)
            with m.If(self.i.payload.last):
                m.d.sync += [row.eq(row + 1), address.eq(start + row + 1), bank.eq(1)]
        with m.If(filled):
            m.d.sync += [writing.eq(0), half.eq(~half)]
        return [bit & accepted for bit in bank], address, writing

    def _reader(self, m: Module, emptied: Signal, enable: Any) -> tuple[Signal, Signal, Signal, Signal]:
        """(a word is read, its address, its nibble, a set is asked for)."""
        geometry = self._geometry
        half, reading, issue = Signal(), Signal(), Signal()
        shape = Signal.like(self.i_read.payload, reset_less=True)
        start = Mux(half, geometry.code_words, 0)
        address, group_start = (
            Signal(range(HALVES * geometry.code_words), name=name, reset_less=True)
            for name in ("address", "group_start")
        )
        loops = ("queries", "runs", "planes", "groups", "tiles")
        counters = [Signal.like(shape[name], name=f"{name}_done", reset_less=True) for name in loops]
        ends = [Signal(name=f"{name}_end") for name in loops]
        m.d.comb += [
            self.i_read.ready.eq(~reading),
            issue.eq(reading & enable),
            emptied.eq(issue & ends[-1]),
        ]
        with m.If(self.i_read.valid & ~reading):
            m.d.sync += [shape.eq(self.i_read.payload), reading.eq(1), address.eq(start), group_start.eq(start)]
            m.d.sync += [counter.eq(0) for counter in counters]
        inner: Any = 1
        for name, counter, end in zip(loops, counters, ends, strict=True):
            m.d.comb += end.eq(inner & (counter == shape[name] - 1))
            with m.If(issue & inner):
                m.d.sync += counter.eq(Mux(end, 0, counter + 1))
            inner = end
        queries_end, _, planes_end, groups_end, tiles_end = ends
        with m.If(issue):
            m.d.sync += address.eq(address + 1)
            with m.If(queries_end):
                m.d.sync += address.eq(group_start)
            with m.If(planes_end):
                m.d.sync += [address.eq(address + 1), group_start.eq(address + 1)]
            with m.If(groups_end):
                m.d.sync += [address.eq(start), group_start.eq(start)]
            with m.If(tiles_end):
                m.d.sync += [reading.eq(0), half.eq(~half)]
        return issue, address, counters[1], reading

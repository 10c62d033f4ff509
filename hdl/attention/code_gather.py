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
from hdl.attention.loops import Loops
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
    Latency from there to `o`: `latency` = 7 cycles, 8 where a bank needs several block RAMs for its depth.

    Memory: rows / lanes banks of lanes * 4 bits by 2 * code_words; 8 * rows * code_words bits in all.
    """

    def __init__(self, geometry: AttentionGeometry) -> None:
        self._geometry = geometry
        self._banks = geometry.array.rows // geometry.lanes
        self._bank_width = geometry.lanes * CODE_BITS
        self._memory_latency = BlockMemory.latency(width=self._bank_width, depth=HALVES * geometry.code_words)
        self.latency = self._memory_latency + 5
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

    @property
    def memory(self) -> tuple[int, int, int]:
        """Banks, bits of a word, and words of each."""
        return self._banks, self._bank_width, HALVES * self._geometry.code_words

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
        geometry, latency = self._geometry, self._memory_latency
        filled, emptied, full = Signal(), Signal(), Signal(range(HALVES + 1))
        m.d.sync += full.eq(full + filled - emptied)
        write_enables, write_address, writing = self._writer(m, filled, full)
        m.submodules.fifo = fifo = CreditFifo(
            geometry.array.rows * CODE_BITS, depth=self.latency - 1 + CreditFifo.TURNAROUND
        )
        issue, read_address, run, reading = self._reader(m, emptied, (full != 0) & fifo.o_room)
        m.d.comb += [
            fifo.spend.eq(issue),
            fifo.store.eq(delay(m, issue, latency + 3, "issue", reset_less=False)),
            self.o.valid.eq(fifo.o.valid),
            self.o.payload.as_value().eq(fifo.o.payload),
            fifo.o.ready.eq(self.o.ready),
            self.o_idle.eq(~writing & ~reading & (full == 0) & fifo.o_empty),
        ]

        write_enables = delay(m, write_enables, 1, "write_enables", reset_less=False)
        write_address, codes_in = delay(m, write_address, 1, "write_address"), delay(m, self.i.payload.code, 1, "in")
        read_address = delay(m, read_address, 1, "read_address")
        codes = []
        for bank in range(self._banks):
            memory = BlockMemory(width=self._bank_width, depth=HALVES * geometry.code_words)
            m.submodules[f"bank{bank}"] = memory
            m.d.comb += [
                memory.write_enable.eq(write_enables[bank]),
                memory.write_address.eq(write_address),
                memory.write_data.eq(codes_in.as_value()),
                memory.read_address.eq(read_address),
            ]
            codes.append(memory.read_data)
        chosen = delay(m, run, latency + 2, "run")
        word = Cat(codes)
        code, nibble = (Signal(len(word), name=name, reset_less=True) for name in ("code", "nibble"))
        m.d.sync += code.eq(word)
        m.d.comb += [self.i_level.ready.eq(1), fifo.word.eq(nibble)]
        level_enable = delay(m, self.i_level.valid, 1, "level_enable", reset_less=False)
        level = delay(m, self.i_level.payload, 1, "level")
        for row in range(geometry.array.rows):
            m.submodules[f"levels{row}"] = levels = DistributedRam(width=CODE_BITS * geometry.score_planes)
            planes = [levels.read_data.word_select(plane, CODE_BITS) for plane in range(geometry.score_planes)]
            m.d.comb += [
                levels.write_enable.eq(level_enable),
                levels.write_address.eq(level.code),
                levels.write_data.eq(level.nibbles.as_value()),
                levels.read_address.eq(code.word_select(row, CODE_BITS)),
            ]
            m.d.sync += nibble.word_select(row, CODE_BITS).eq(Array(planes)[chosen])
        return m

    def _writer(self, m: Module, filled: Signal, full: Signal) -> tuple[Signal, Signal, Signal]:
        """(enable per bank, address, a set is being written)."""
        geometry = self._geometry
        writing, accepted = Signal(), Signal()
        queries = Signal.like(self.i_shape.payload, reset_less=True)
        address, next_row = (
            Signal(range(HALVES * geometry.code_words), name=name, reset_less=True) for name in ("address", "next_row")
        )
        start, bank = self._start(m, filled, "write"), Signal(self._banks, init=1)
        m.submodules.rows = rows = Loops([geometry.array.token_depth])
        enables = Signal(self._banks)
        m.d.comb += [
            # With both halves full the one to be written is being read, or waits for that.
            self.i_shape.ready.eq(~writing & (full != HALVES)),
            self.i.ready.eq(writing),
            accepted.eq(self.i.valid & writing),
            rows.start.eq(self.i_shape.valid & self.i_shape.ready),
            rows.counts.loop0.eq(self.i_shape.payload),
            rows.step.eq(accepted & self.i.payload.last),
            filled.eq(rows.step & rows.ends[0]),
            enables.eq(Mux(accepted, bank, 0)),
        ]
        with m.If(rows.start):
            m.d.sync += [queries.eq(self.i_shape.payload), writing.eq(1), bank.eq(1)]
            m.d.sync += [address.eq(start), next_row.eq(start + 1)]
        with m.If(accepted):
            m.d.sync += bank.eq(bank.rotate_left(1))
            with m.If(bank[-1]):
                m.d.sync += address.eq(address + queries)
            with m.If(self.i.payload.last):
                m.d.sync += [address.eq(next_row), next_row.eq(next_row + 1), bank.eq(1)]
        with m.If(filled):
            m.d.sync += writing.eq(0)
        return enables, address, writing

    def _start(self, m: Module, toggle: Signal, name: str) -> Signal:
        """First address of a half; the other one from the cycle after `toggle`."""
        start = Signal(range(HALVES * self._geometry.code_words), name=f"{name}_start")
        with m.If(toggle):
            m.d.sync += start.eq(Mux(start == 0, self._geometry.code_words, 0))
        return start

    def _reader(self, m: Module, emptied: Signal, enable: Any) -> tuple[Signal, Signal, Signal, Signal]:
        """(a word is read, its address, its nibble, a set is asked for)."""
        geometry = self._geometry
        reading, issue = Signal(), Signal()
        address, group = (
            Signal(range(HALVES * geometry.code_words), name=name, reset_less=True) for name in ("address", "group")
        )
        start = self._start(m, emptied, "read")
        shape = self.i_read.payload
        names = ("queries", "runs", "planes", "groups", "tiles")
        m.submodules.passes = passes = Loops([(1 << len(shape[name])) - 1 for name in names])
        run = Signal(range(geometry.score_planes), reset_less=True)
        m.d.comb += [
            self.i_read.ready.eq(~reading),
            issue.eq(reading & enable),
            emptied.eq(issue & passes.ends[-1]),
            passes.start.eq(self.i_read.valid & ~reading),
            passes.step.eq(issue),
        ]
        m.d.comb += [passes.counts[f"loop{number}"].eq(shape[name]) for number, name in enumerate(names)]
        queries_end, runs_end, planes_end, groups_end, _ = passes.ends
        with m.If(passes.start):
            m.d.sync += [reading.eq(1), address.eq(start), group.eq(start), run.eq(0)]
        with m.If(issue):
            with m.If(groups_end):
                m.d.sync += [address.eq(start), group.eq(start)]
            with m.Elif(queries_end & ~planes_end):
                m.d.sync += address.eq(group)
            with m.Else():
                m.d.sync += address.eq(address + 1)
                with m.If(planes_end):
                    m.d.sync += group.eq(address + 1)
            with m.If(queries_end):
                m.d.sync += run.eq(Mux(runs_end, 0, run + 1))
            with m.If(emptied):
                m.d.sync += reading.eq(0)
        return issue, address, run, reading

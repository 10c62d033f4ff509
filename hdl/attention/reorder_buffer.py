"""From column tiles to rows: the array gives `columns` keys of all queries, the softmax takes all keys of a query.

    tile 0:  q0 q1 q2 ... |  tile 1:  q0 q1 q2 ... |  ...        written, one word of `columns` logits each
    q0: tile 0, tile 1, ... |  q1: tile 0, tile 1, ... |  ...    read, `lanes` logits at a time

Words lie in the order in which they are written, so the writer only counts and the reader steps by the number of
queries. There is one buffer, not two: a word of the next set may be written as soon as the row whose word lay there has
been read. That costs no time where the array has other work while rows go out (P.v of the set before).
"""

from typing import Any

import numpy as np
from amaranth.hdl import Cat, Elaboratable, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from hdl.attention.geometry import AttentionGeometry
from hdl.attention.loops import Loops
from hdl.ecp5.block_memory import BlockMemory
from hdl.pipeline import delay
from hdl.vector.credit_fifo import CreditFifo
from sim.contract.constants import WIDE_BITS


class ReorderBuffer(wiring.Component):
    """Rows of logits from column tiles.

    - `i_shape` announces a set of `queries` rows of `keys` keys in `tiles` = ceil(keys / columns) column tiles;
      queries * tiles words must fit logit_words. It is taken when the set before is written and its rows have begun to
      go out.
    - `i`: words of `columns` logits, tile by tile, in a tile query by query.
    - `o`: rows, query by query, in words of `lanes` logits for hdl.softmax; the last word of a row has `last`, lanes
      beyond the last key are not `present`.
    - `o_idle`: no set is announced and nothing is left to go out.

    Throughput: one word per cycle on either side; on `o` a row of a single word takes two. Words of the next set enter
    while rows of this one go out, never ahead of them (see above).
    Latency from the last word of a row to its first word on `o`: `latency` = 8 cycles, 9 where a bank needs several
    block RAMs for its depth.

    Memory: columns / lanes banks of lanes * 16 bits by logit_words; 16 * columns * logit_words bits in all.
    """

    def __init__(self, geometry: AttentionGeometry) -> None:
        self._geometry = geometry
        self._bank_width = geometry.lanes * WIDE_BITS
        self._banks = geometry.array.columns // geometry.lanes
        self._memory_latency = BlockMemory.latency(width=self._bank_width, depth=geometry.logit_words)
        self.latency = self._memory_latency + 6
        super().__init__(
            {
                "i_shape": In(stream.Signature(geometry.shape_layout)),
                "i": In(stream.Signature(data.ArrayLayout(signed(WIDE_BITS), geometry.array.columns))),
                "o": Out(stream.Signature(geometry.softmax.logits_layout)),
                "o_idle": Out(1),
            }
        )

    @property
    def memory(self) -> tuple[int, int, int]:
        """Banks, bits of a word, and words of each."""
        return self._banks, self._bank_width, self._geometry.logit_words

    @staticmethod
    def model(tiles: NDArray[np.int16], keys: int) -> NDArray[np.int16]:
        """Rows int16 (queries, keys) of the words int16 (tiles, queries, columns) of one set."""
        count, queries, columns = tiles.shape
        return tiles.transpose(1, 0, 2).reshape(queries, count * columns)[:, :keys]

    def elaborate(self, platform: Any) -> Elaboratable:
        """A writer that counts, a reader that steps, and two counters of rows between them."""
        m = Module()
        geometry = self._geometry
        token_depth = geometry.array.token_depth
        # One less than a number of rows: the sign says that there is none.
        rows_less_one = signed(token_depth.bit_length() + 1)
        write, row_read, hand_over = Signal(), Signal(), Signal()
        reading = Signal()
        rows_read = Signal(rows_less_one, reset_less=True)

        # The writer; `handed`: the reader has taken this set over.
        shape = Signal(geometry.shape_layout, reset_less=True)
        done, handed = Signal(init=1), Signal(init=1)
        write_address = Signal(range(geometry.logit_words), reset_less=True)
        complete, unread = (Signal(rows_less_one, name=name, init=-1) for name in ("complete", "unread"))
        m.submodules.words = words = Loops([token_depth, geometry.key_columns])
        # `behind`: what is read is the set before the one that is written. `lead`: rows that are read whose first word
        # is not overwritten yet. The first tile is enough: once all rows are read nothing can be hurt.
        behind, lead = Signal(), Signal(rows_less_one)
        taken, last_tile = Signal(), words.last[1]
        m.d.comb += [
            self.i_shape.ready.eq(done & handed),
            taken.eq(self.i_shape.valid & self.i_shape.ready),
            words.start.eq(taken),
            words.counts.loop0.eq(self.i_shape.payload.queries),
            words.counts.loop1.eq(self.i_shape.payload.tiles),
            words.step.eq(write),
            self.i.ready.eq(~done & (~reading | ~behind | ~lead[-1])),
            write.eq(self.i.valid & self.i.ready),
        ]
        # Both count one cycle late, so two less than the rows: with one left nothing is written.
        read_late = delay(m, row_read, 1, "read_late", reset_less=False)
        count(m, lead, read_late, delay(m, write, 1, "write_late", reset_less=False))
        with m.If(write):
            m.d.sync += write_address.eq(write_address + 1)
            with m.If(words.ends[1]):
                m.d.sync += done.eq(1)
        written = Signal()  # a row is complete, known one cycle late
        m.d.sync += written.eq(write & last_tile)
        with m.If(written):
            m.d.sync += complete.eq(complete + 1)
        with m.If(taken):
            m.d.sync += [shape.eq(self.i_shape.payload), write_address.eq(0), done.eq(0), handed.eq(0), behind.eq(1)]
            m.d.sync += [complete.eq(-1), lead.eq(rows_read - 1)]

        # Rows that are complete and not begun; one of them is `waiting`, so that a word goes out by single bits.
        waiting, begin = Signal(), Signal()
        fill = ~waiting & ~unread[-1]
        count(m, unread, written & handed, fill)
        m.d.sync += waiting.eq((waiting & ~begin) | fill)
        m.d.comb += hand_over.eq(~handed & ~reading & (last_tile | done))
        with m.If(hand_over):
            m.d.sync += [handed.eq(1), behind.eq(0), unread.eq(complete + written), rows_read.eq(-1)]
        with m.Elif(row_read):
            m.d.sync += rows_read.eq(rows_read + 1)

        m.submodules.fifo = fifo = CreditFifo(
            geometry.softmax.logits_layout, depth=self._memory_latency + 3 + CreditFifo.TURNAROUND
        )
        wiring.connect(m, fifo.o, wiring.flipped(self.o))
        issue = Signal()
        m.submodules.rows = rows = Loops([geometry.softmax.row_words, token_depth])
        m.d.comb += [
            issue.eq(reading & (~rows.first[0] | waiting) & fifo.o_room),
            begin.eq(issue & rows.first[0]),
            fifo.spend.eq(issue),
            self.o_idle.eq(done & handed & ~reading & fifo.o_empty),
        ]
        read = self._reader(m, rows, shape, (hand_over, issue), (reading, row_read))
        self._memory(m, fifo, (write, write_address), issue, read)
        return m

    def _reader(
        self, m: Module, rows: Loops, shape: Any, events: tuple[Signal, Signal], state: tuple[Signal, Signal]
    ) -> Any:
        """(address, bank, last word of its row, lanes with a key) of the word that is read.

        events: a set is handed over; a word is read. state, set here: rows are left to read; a row is read.
        """
        geometry = self._geometry
        (hand_over, issue), (reading, row_read) = events, state
        lane_bits = (geometry.lanes - 1).bit_length()
        queries = Signal(range(geometry.array.token_depth + 1), reset_less=True)
        address, next_row = (
            Signal(range(geometry.logit_words), name=name, reset_less=True) for name in ("address", "next_row")
        )
        bank, tail = Signal(self._banks, reset_less=True), Signal(geometry.lanes, reset_less=True)
        beyond = shape.keys[:lane_bits]
        m.d.comb += [
            rows.start.eq(hand_over),
            rows.counts.loop0.eq(((shape.keys - 1) >> lane_bits) + 1),
            rows.counts.loop1.eq(shape.queries),
            rows.step.eq(issue),
            row_read.eq(issue & rows.ends[0]),
        ]
        with m.If(hand_over):
            m.d.sync += [
                reading.eq(1),
                queries.eq(shape.queries),
                tail.eq(Cat((beyond == 0) | (beyond > lane) for lane in range(geometry.lanes)) if lane_bits else 1),
                address.eq(0),
                next_row.eq(1),
                bank.eq(1),
            ]
        with m.If(issue):
            m.d.sync += bank.eq(bank.rotate_left(1))
            with m.If(bank[-1]):
                m.d.sync += address.eq(address + queries)
            with m.If(rows.ends[0]):
                m.d.sync += [bank.eq(1), address.eq(next_row), next_row.eq(next_row + 1)]
            with m.If(rows.ends[1]):
                m.d.sync += reading.eq(0)
        return address, bank, rows.ends[0], Mux(rows.ends[0], tail, ~0)

    def _memory(self, m: Module, fifo: CreditFifo, write: Any, issue: Signal, read: Any) -> None:
        """The banks, with registers on the way in, and the choice between them, in a register of its own."""
        geometry, latency = self._geometry, self._memory_latency
        write_enable, write_address = write
        address, bank, last, present = read
        write_enable = delay(m, write_enable, 1, "write_enable", reset_less=False)
        write_address, data_in = delay(m, write_address, 1, "write_address"), delay(m, self.i.payload, 1, "data_in")
        read_address = delay(m, address, 1, "read_address")
        words = []
        for number in range(self._banks):
            memory = BlockMemory(width=self._bank_width, depth=geometry.logit_words)
            m.submodules[f"bank{number}"] = memory
            lanes = range(number * geometry.lanes, (number + 1) * geometry.lanes)
            m.d.comb += [
                memory.write_enable.eq(write_enable),
                memory.write_address.eq(write_address),
                memory.write_data.eq(Cat(data_in[lane] for lane in lanes)),
                memory.read_address.eq(read_address),
            ]
            words.append(memory.read_data)
        beside = Signal(data.StructLayout({"last": 1, "present": geometry.lanes}))
        m.d.comb += [beside.last.eq(last), beside.present.eq(present)]
        read_bank = delay(m, bank, latency + 1, "bank")
        chosen = Signal(self._bank_width, reset_less=True)
        for number, word in enumerate(words):
            with m.If(read_bank[number]):
                m.d.sync += chosen.eq(word)
        beside = delay(m, beside, latency + 2, "beside")
        m.d.comb += [
            fifo.store.eq(delay(m, issue, latency + 2, "issue", reset_less=False)),
            fifo.word.logit.as_value().eq(chosen),
            fifo.word.present.eq(beside.present),
            fifo.word.last.eq(beside.last),
        ]


def count(m: Module, counter: Signal, up: Any, down: Any) -> None:
    """One up or down per cycle, nothing when both happen."""
    with m.If(up & ~down):
        m.d.sync += counter.eq(counter + 1)
    with m.Elif(down & ~up):
        m.d.sync += counter.eq(counter - 1)

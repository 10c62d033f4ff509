"""From column tiles to rows: the array gives `columns` keys of all queries, the softmax takes all keys of a query.

    tile 0:  q0 q1 q2 ... |  tile 1:  q0 q1 q2 ... |  ...        written, one word of `columns` logits each
    q0: tile 0, tile 1, ... |  q1: tile 0, tile 1, ... |  ...    read, `lanes` logits at a time

Words lie in the order in which they are written, so the writer only counts and the reader steps by the number of
queries. There is one buffer, not two: a word of the next set may be written as soon as the row whose word lay there has
been read. That costs no time where the array has other work while rows go out (P.v of the set before).
"""

from typing import Any

import numpy as np
from amaranth.hdl import Array, Cat, Elaboratable, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from hdl.attention.geometry import AttentionGeometry
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

    Throughput: one word per cycle on either side. A row may go out from the cycle after its last word came in. Words of
    the next set enter while rows of this one go out, never ahead of them (see above).
    Latency from the last word of a row to its first word on `o`: `latency` = 5 cycles, 6 where a bank needs several
    block RAMs for its depth.

    Memory: columns / lanes banks of lanes * 16 bits by logit_words; 16 * columns * logit_words bits in all.
    """

    def __init__(self, geometry: AttentionGeometry) -> None:
        self._geometry = geometry
        self._bank_width = geometry.lanes * WIDE_BITS
        self._banks = geometry.array.columns // geometry.lanes
        self._memory_latency = BlockMemory.latency(width=self._bank_width, depth=geometry.logit_words)
        self.latency = self._memory_latency + 3
        super().__init__(
            {
                "i_shape": In(stream.Signature(geometry.shape_layout)),
                "i": In(stream.Signature(data.ArrayLayout(signed(WIDE_BITS), geometry.array.columns))),
                "o": Out(stream.Signature(geometry.softmax.logits_layout)),
                "o_idle": Out(1),
            }
        )

    @staticmethod
    def model(tiles: NDArray[np.int16], keys: int) -> NDArray[np.int16]:
        """Rows int16 (queries, keys) of the words int16 (tiles, queries, columns) of one set."""
        count, queries, columns = tiles.shape
        return tiles.transpose(1, 0, 2).reshape(queries, count * columns)[:, :keys]

    def elaborate(self, platform: Any) -> Elaboratable:
        """A writer that counts, a reader that steps, and two counters of rows between them."""
        m = Module()
        geometry = self._geometry
        counts = range(geometry.array.token_depth + 1)
        write, row_read, hand_over = Signal(), Signal(), Signal()
        reading, row = Signal(), Signal(counts)

        # The writer; `handed`: the reader has taken this set over.
        shape = Signal(geometry.shape_layout, reset_less=True)
        done, handed, last_tile = Signal(init=1), Signal(init=1), Signal(reset_less=True)
        tile, query = Signal(range(geometry.key_columns + 1), reset_less=True), Signal(counts, reset_less=True)
        write_address = Signal(range(geometry.logit_words), reset_less=True)
        # `behind`: what is read is the set before the one that is written. `lead`: rows that are read whose first word
        # is not overwritten yet. The first tile is enough: once all rows are read nothing can be hurt.
        behind, lead = Signal(), Signal(counts)
        m.d.comb += [
            self.i_shape.ready.eq(done & handed),
            self.i.ready.eq(~done & (~(reading & behind) | (lead != 0))),
            write.eq(self.i.valid & self.i.ready),
        ]
        with m.If(reading & behind):
            m.d.sync += lead.eq(lead + row_read - write)
        with m.If(self.i_shape.valid & self.i_shape.ready):
            m.d.sync += [
                shape.eq(self.i_shape.payload),
                done.eq(0),
                handed.eq(0),
                behind.eq(1),
                last_tile.eq(self.i_shape.payload.tiles == 1),
                tile.eq(1),
                query.eq(0),
                write_address.eq(0),
                lead.eq(row + row_read),
            ]
        with m.If(write):
            m.d.sync += [write_address.eq(write_address + 1), query.eq(query + 1)]
            with m.If(query == shape.queries - 1):
                m.d.sync += [query.eq(0), tile.eq(tile + 1), last_tile.eq(tile + 1 == shape.tiles), done.eq(last_tile)]

        # Rows that are complete and not read yet.
        complete = Signal(counts)
        written = write & last_tile
        m.d.comb += hand_over.eq(~handed & ~reading & (last_tile | done))
        with m.If(hand_over):
            m.d.sync += [handed.eq(1), behind.eq(0), complete.eq(Mux(done, shape.queries, query + written))]
        with m.Else():
            m.d.sync += complete.eq(complete + (written & handed) - row_read)

        m.submodules.fifo = fifo = CreditFifo(
            geometry.softmax.logits_layout, depth=self._memory_latency + 2 + CreditFifo.TURNAROUND
        )
        wiring.connect(m, fifo.o, wiring.flipped(self.o))
        issue = Signal()
        m.d.comb += [
            issue.eq(reading & (complete != 0) & fifo.o_room),
            fifo.spend.eq(issue),
            self.o_idle.eq(done & handed & ~reading & fifo.o_empty),
        ]
        address, bank, last, present = self._reader(m, shape, (hand_over, issue), (reading, row))
        m.d.comb += row_read.eq(issue & last)
        self._memory(m, fifo, (write, write_address), issue, (address, bank, last, present))
        return m

    def _reader(self, m: Module, shape: Any, events: tuple[Signal, Signal], state: tuple[Signal, Signal]) -> Any:
        """(address, bank, last word of its row, lanes with a key) of the word that is read.

        events: a set is handed over, a word is read. state, set here: rows are to be read, the number of the row.
        """
        (hand_over, issue), (reading, row) = events, state
        geometry = self._geometry
        lane_bits = (geometry.lanes - 1).bit_length()
        queries, address = Signal.like(row, reset_less=True), Signal(range(geometry.logit_words), reset_less=True)
        words, word = (Signal(range(geometry.softmax.row_words), name=n, reset_less=True) for n in ("words", "word"))
        bank = Signal(range(self._banks), reset_less=True)
        tail, last = Signal(geometry.lanes, reset_less=True), Signal()
        m.d.comb += last.eq(word == words)
        with m.If(hand_over):
            beyond = shape.keys[:lane_bits]
            mask = Cat((beyond == 0) | (beyond > lane) for lane in range(geometry.lanes))
            m.d.sync += [
                reading.eq(1),
                queries.eq(shape.queries),
                words.eq((shape.keys - 1) >> lane_bits),
                tail.eq(mask if lane_bits else 1),
                row.eq(0),
                address.eq(0),
                word.eq(0),
                bank.eq(0),
            ]
        with m.If(issue):
            m.d.sync += [word.eq(word + 1), bank.eq(bank + 1)]
            with m.If(bank == self._banks - 1):
                m.d.sync += [bank.eq(0), address.eq(address + queries)]
            with m.If(last):
                m.d.sync += [word.eq(0), bank.eq(0), address.eq(row + 1), row.eq(row + 1)]
                m.d.sync += reading.eq(row != queries - 1)
        return address, bank, last, Mux(last, tail, ~0)

    def _memory(self, m: Module, fifo: CreditFifo, write: Any, issue: Signal, read: Any) -> None:
        """The banks, and the choice between them in a register of its own."""
        geometry, latency = self._geometry, self._memory_latency
        write_enable, write_address = write
        address, bank, last, present = read
        words = []
        for number in range(self._banks):
            memory = BlockMemory(width=self._bank_width, depth=geometry.logit_words)
            m.submodules[f"bank{number}"] = memory
            lanes = range(number * geometry.lanes, (number + 1) * geometry.lanes)
            m.d.comb += [
                memory.write_enable.eq(write_enable),
                memory.write_address.eq(write_address),
                memory.write_data.eq(Cat(self.i.payload[lane] for lane in lanes)),
                memory.read_address.eq(address),
            ]
            words.append(memory.read_data)
        beside = Signal(data.StructLayout({"last": 1, "present": geometry.lanes}))
        m.d.comb += [beside.last.eq(last), beside.present.eq(present)]
        chosen = Signal(self._bank_width, reset_less=True)
        m.d.sync += chosen.eq(Array(words)[delay(m, bank, latency, "bank")])
        beside = delay(m, beside, latency + 1, "beside")
        m.d.comb += [
            fifo.store.eq(delay(m, issue, latency + 1, "issue", reset_less=False)),
            fifo.word.logit.as_value().eq(chosen),
            fifo.word.present.eq(beside.present),
            fifo.word.last.eq(beside.last),
        ]

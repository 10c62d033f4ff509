"""Codes that the array streams, kept between the passes that read them: block after block, in two halves.

    block:  word 0 | word 1 | ...            written in order, beat by beat
    read:   word, word + pitch, word + 2 * pitch, ...    one per token, as often as passes need them

A dense layer reads a block of tokens again for every column tile, and SCORES q for every column tile of keys. So codes
come from memory once, and the next block comes while this one is read.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from amaranth.hdl import Cat, Elaboratable, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from hdl.array.geometry import CODE_BITS, TOKEN_DEPTH_MAX
from hdl.attention.geometry import read_layout, require_code_words
from hdl.ecp5.block_memory import BlockMemory
from hdl.parameters import require
from hdl.pipeline import delay
from hdl.vector.credit_fifo import CreditFifo

ROWS_MAX = 64


def codes_layout(bits: int) -> data.ArrayLayout:
    """Codes side by side."""
    return data.ArrayLayout(unsigned(CODE_BITS), bits // CODE_BITS)


class CodeBuffer(wiring.Component):
    """Words of `rows` codes out of blocks.

    - `i_block` begins a block of 1..block_words words; taken when a half is free and the block before is complete.
    - `i_codes`: the words of the block in order, each in rows * 4 / code_beat_bits = 1, 2 or 4 beats, its first codes
      in the first.
    - `i_read`: token t of `queries` >= 1 takes word `word` + t * `pitch` of the oldest block, which must have it. It
      waits until that word has been written. With `release` the block is given back behind the last token, and the next
      read finds the next block; it may be given back before it is complete.
    - `o`: a word per token.
    - `o_idle`: no read is under way and every word has been taken.

    Throughput: a beat per cycle, and one cycle between two blocks; a word per cycle on `o`, also from read to read, but
    for reads of a single token, which take two. Words are fetched up to `latency` cycles ahead of `o`.
    Latency from a read to its first word on `o`: `latency` = 7 cycles; from the last beat of a word that is waited for
    6 cycles; one more each where a beat needs several block RAMs for its depth.

    Memory: 2 halves * block_words * rows * 4 bits, a memory per beat of a word.

    rows: codes of a word, even, 2..64. code_beat_bits: of a beat. block_words: words of a half, a power of two.
    token_depth: most tokens of a read. Raises ValueError naming the parameter, its limit and the nearest valid value.
    """

    def __init__(
        self, *, rows: int = 64, code_beat_bits: int = 128, block_words: int = 1024, token_depth: int = TOKEN_DEPTH_MAX
    ) -> None:
        self._rows = require("rows", rows, range(2, ROWS_MAX + 1, 2), f"even, in 2..{ROWS_MAX}")
        require_code_words(rows, code_beat_bits, block_words)
        require("token_depth", token_depth, range(1, TOKEN_DEPTH_MAX + 1), f"in 1..{TOKEN_DEPTH_MAX}")
        self._beat_bits, self._block_words = code_beat_bits, block_words
        self._memory_latency = BlockMemory.latency(width=code_beat_bits, depth=2 * block_words)
        self.latency = self._memory_latency + 5
        self._read_layout = read_layout(block_words, token_depth)
        super().__init__(
            {
                "i_block": In(stream.Signature(range(block_words + 1))),
                "i_codes": In(stream.Signature(codes_layout(code_beat_bits))),
                "i_read": In(stream.Signature(self._read_layout)),
                "o": Out(stream.Signature(codes_layout(rows * CODE_BITS))),
                "o_idle": Out(1),
            }
        )

    @property
    def memory(self) -> tuple[int, int, int]:
        """Memories, bits of a word, and words of each."""
        return self._rows * CODE_BITS // self._beat_bits, self._beat_bits, 2 * self._block_words

    @staticmethod
    def model(
        blocks: Iterable[NDArray[np.integer]], reads: Iterable[Mapping[str, int]]
    ) -> Iterator[NDArray[np.integer]]:
        """Codes (queries, rows) of every read. blocks: codes (words, rows), oldest first. reads: fields of i_read.

        Raises ValueError where there is no block to read, or none of so many words.
        """
        waiting = iter(blocks)
        block: NDArray[np.integer] | None = None
        for read in reads:
            block = next(waiting, None) if block is None else block
            if block is None:
                raise ValueError("codes are read of a block that never begins")
            last = read["word"] + (read["queries"] - 1) * read["pitch"]
            if last >= len(block):
                raise ValueError(f"word {last} is read of a block of {len(block)} words")
            yield block[read["word"] + np.arange(read["queries"]) * read["pitch"]]
            if read["release"]:
                block = None

    def elaborate(self, platform: Any) -> Elaboratable:
        """A writer and a reader, and between them which halves are complete and how far the other is written."""
        m = Module()
        count, beat_bits, depth = self.memory
        filled, gives = Signal(), Signal()
        write_half, given_half = Signal(), Signal()
        # Bit h: half h is complete. `given`: the block that is being written has been given back already.
        complete, given = Signal(2), Signal()
        fill = Signal(range(self._block_words))
        enables = self._writer(m, filled, complete.bit_select(write_half, 1), fill)
        for half in range(2):
            completes = filled & (write_half == half) & ~given
            m.d.sync += complete[half].eq((complete[half] | completes) & ~(gives & (given_half == half)))
        m.d.sync += [
            write_half.eq(write_half ^ filled),
            given.eq(~filled & (given | (gives & ~complete.bit_select(given_half, 1)))),
        ]

        def written(half: Signal, index: Signal) -> Any:
            return complete.bit_select(half, 1) | ((half == write_half) & (index < fill))

        m.submodules.fifo = fifo = CreditFifo(
            self._rows * CODE_BITS, depth=self._memory_latency + 2 + CreditFifo.TURNAROUND
        )
        issue, read_address, idle = self._reader(m, fifo.o_room, gives, given_half, written)
        m.d.comb += [
            fifo.spend.eq(issue),
            fifo.store.eq(delay(m, issue, self._memory_latency + 1, "issue", reset_less=False)),
            self.o.valid.eq(fifo.o.valid),
            self.o.payload.as_value().eq(fifo.o.payload),
            fifo.o.ready.eq(self.o.ready),
            self.o_idle.eq(idle & fifo.o_empty),
        ]
        write_enables = delay(m, enables, 1, "write_enables", reset_less=False)
        write_address, read_address = Signal(range(depth), reset_less=True), delay(m, read_address, 1, "read_address")
        m.d.sync += write_address.eq(Cat(fill, write_half))
        codes = delay(m, self.i_codes.payload, 1, "codes")
        for beat in range(count):
            m.submodules[f"beat{beat}"] = storage = BlockMemory(width=beat_bits, depth=depth)
            m.d.comb += [
                storage.write_enable.eq(write_enables[beat]),
                storage.write_address.eq(write_address),
                storage.write_data.eq(codes.as_value()),
                storage.read_address.eq(read_address),
                fifo.word.word_select(beat, beat_bits).eq(storage.read_data),
            ]
        return m

    def _writer(self, m: Module, filled: Signal, occupied: Any, fill: Signal) -> Signal:
        """Enable of every beat's memory. `filled`: the block's last beat is taken; `fill`: its words so far."""
        beats = self.memory[0]
        filling, final, accepted = Signal(), Signal(reset_less=True), Signal()
        left = Signal(range(self._block_words + 1), reset_less=True)
        place, enables = Signal(beats, init=1), Signal(beats)
        m.d.comb += [
            self.i_block.ready.eq(~filling & ~occupied),
            self.i_codes.ready.eq(filling),
            accepted.eq(self.i_codes.valid & filling),
            enables.eq(Mux(accepted, place, 0)),
            filled.eq(enables[-1] & final),
        ]
        with m.If(accepted):
            m.d.sync += place.eq(place.rotate_left(1))
        with m.If(enables[-1]):
            m.d.sync += [fill.eq(Mux(final, 0, fill + 1)), left.eq(left - 1), final.eq(left == 2)]
            m.d.sync += filling.eq(~final)
        with m.If(self.i_block.valid & self.i_block.ready):
            m.d.sync += [filling.eq(1), left.eq(self.i_block.payload), final.eq(self.i_block.payload == 1)]
        return enables

    def _reader(
        self, m: Module, room: Signal, gives: Signal, given_half: Signal, written: Any
    ) -> tuple[Signal, Any, Any]:
        """(a word is read, its address, nothing is to be read).

        A read waits, is under way, and a token of it is due. Whether the word that is due has been written is found out
        in the cycle before, from what had been written then.
        """
        waits, reading, due, found = Signal(), Signal(), Signal(), Signal()
        waiting, current = (Signal(self._read_layout, name=name, reset_less=True) for name in ("waiting", "current"))
        final, last = Signal(reset_less=True), Signal(reset_less=True)
        half = Signal()
        due_word = Signal.like(current.word, reset_less=True)
        take, advance, issue = Signal(), Signal(), Signal()
        m.d.comb += [
            self.i_read.ready.eq(~waits),
            issue.eq(due & found & room),
            advance.eq(reading & (~due | issue)),
            take.eq(waits & (~reading | (advance & final))),
            gives.eq(issue & last),
        ]
        m.d.sync += [
            half.eq(half ^ (advance & final & current.release)),
            found.eq(Mux(advance, written(half, current.word), written(given_half, due_word))),
        ]
        with m.If(self.i_read.valid & self.i_read.ready):
            m.d.sync += [waiting.eq(self.i_read.payload), waits.eq(1)]
        with m.If(advance):
            m.d.sync += [
                due.eq(1),
                due_word.eq(current.word),
                given_half.eq(half),
                last.eq(final & current.release),
                current.word.eq(current.word + current.pitch),
                current.queries.eq(current.queries - 1),
                final.eq(current.queries == 2),
                reading.eq(~final),
            ]
        with m.Elif(issue):
            m.d.sync += due.eq(0)
        with m.If(take):
            m.d.sync += [current.eq(waiting), final.eq(waiting.queries == 1), reading.eq(1), waits.eq(0)]
        return issue, _address(m, due_word, given_half), ~waits & ~reading & ~due


def _address(m: Module, word: Signal, half: Signal) -> Signal:
    address = Signal(len(word) + 1, name="address")
    m.d.comb += address.eq(Cat(word, half))
    return address

"""The streaming softmax: a row of logits comes in while an earlier one is summed and a still earlier one goes out.

Why three phases. The contract cuts every term below 2**-23 of the largest, so a sum that starts before the maximum is
known and is rescaled later has other bits. A row therefore passes three times: maximum, sum, codes. Each phase takes
one word of `lanes` keys per cycle, and each works on another row:

    i_logits --> + bias --> logits memory --> distances --> distance memory --> + log2 of sum --> search --> queue --> o
                    |                ^              |                 ^
                    +--> maximum ----+              +--> sum ---------+

The two memories are rings of words, not row buffers: a short row occupies few words, so as many rows are under way as
the stages between the phases need, and rows follow each other without a gap. The second memory holds the distances,
three bits narrower than logits and ready for the search.

How many lanes. An array of 2,048 multiply-accumulates takes K * 64 / 2048 = K / 32 cycles per pass for q.k of one query
with K keys of 64 channels, and as many for P.v. The softmax has K / lanes cycles for the row, whatever the passes:

    lanes >= 32 / (passes of q.k + passes of P.v)

    operands                                    passes      lanes    196 keys: array, softmax    4,096 keys
    all of 4 bits                               1 + 1       16       12.25, 13 cycles            256, 256
    q, k, v of 8 bits, P of one nibble          4 + 2       8        36.75, 25                   768, 512
    q, k, v of 8 bits, P of two or three        4 + 4..6    4        49..61.25, 49               1024..1280, 1024

(cycles of the array without its table loads and partly filled tiles, which make it slower: 196 keys are 7 column tiles
of 32, and 4 tiles of 64 rows times 2 of columns, so the first line takes 15.)
"""

from typing import Any

import numpy as np
from amaranth.hdl import Elaboratable, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from hdl.ecp5.block_memory import BlockMemory
from hdl.pipeline import delay
from hdl.softmax.geometry import (
    BIAS_BITS,
    DISTANCE_BITS,
    LOGIT_BITS,
    OFFSET,
    ROWS_UNDER_WAY,
    SCORE_BITS,
    SoftmaxGeometry,
)
from hdl.softmax.logarithm import Log2OfSum
from hdl.softmax.maximum import RowMaximum
from hdl.softmax.queue import CreditQueue, Credits
from hdl.softmax.row_reader import RowReader
from hdl.softmax.search import ThresholdSearch
from hdl.softmax.terms import Distances, RowSum, Terms
from sim.contract.softmax import score_codes


class Softmax(wiring.Component):
    """Codes of the softmax over rows of logits, bit for bit sim.contract.softmax.score_codes.

    - `i_threshold` writes threshold memory (search.threshold_words: the threshold at which a code begins), always
      ready. All codes must be written before the first row; while rows are under way (`o_idle` is 0) nothing may be.
    - `i_logits`: a word of `lanes` logits, 16 bits signed, steps of 2**-9 of log2; `present` marks the lanes that hold
      a key, `last` the last word of a row. A row of `keys` keys ends there even without `last`. Every row needs a key.
    - `i_bias` (with bias=1): what is added to each logit of the same word, 17 bits signed. One transfer of either
      happens together with one of the other.
    - `o`: per word of logits one of codes, in the same order; lanes without a key give a code without meaning.
    - `o_idle`: every word has left.

    Throughput: one word of `lanes` keys per cycle, ceil(K / lanes) cycles for a row of K keys, without a gap between
    rows of equal length. (In a mix of lengths a long row may make the rows behind it wait, once 32 of them do.)
    Latency from the transfer of the first word of a row to that of its first codes, when nothing is under way:
    `latency(K)` = 2 * ceil(K / lanes) + 2 * log2(lanes) + S + 27 cycles, where S = 4, 5, 8 or 14 for 4, 5, 6 or 8 bits;
    two cycles more where a row memory has more than 2,048 words (`depth` of the geometry).
    Back-pressure: the pipeline never stops; a word enters a phase only when the memory or queue behind it has a place.

    DP16KD: the two row memories (18 and 15 bits a lane, geometry.depth words), a table for two lanes, one for log2,
    and per lane 1 or 3 for the thresholds of codes of 6 or 8 bits beyond the 31st. One MULT18X18D per
    lane. Parameters, errors: SoftmaxGeometry.
    """

    def __init__(self, *, lanes: int = 4, keys: int = 4096, code_bits: int = 4, bias: int = 1) -> None:
        self.geometry = geometry = SoftmaxGeometry(lanes=lanes, keys=keys, code_bits=code_bits, bias=bias)
        ports = {
            "i_threshold": In(stream.Signature(geometry.threshold_layout)),
            "i_logits": In(stream.Signature(geometry.logits_layout)),
            "o": Out(stream.Signature(geometry.codes_layout)),
            "o_idle": Out(1),
        }
        if bias:
            ports["i_bias"] = In(stream.Signature(data.ArrayLayout(signed(BIAS_BITS), lanes)))
        super().__init__(ports)

    @staticmethod
    def model(
        logits: NDArray[np.integer], thresholds: NDArray[np.int32], bias: NDArray[np.integer] | None = None
    ) -> NDArray[np.uint8]:
        """Codes uint8 (..., keys) of logits and biases (..., keys) and thresholds int32 (codes - 1,), descending."""
        total = np.asarray(logits, np.int32)
        if bias is not None:
            total = total + np.asarray(bias, np.int32)
        return score_codes(total, thresholds)

    def cycles(self, keys: int) -> int:
        """Cycles that a row of so many keys takes, rows in a stream: ceil(keys / lanes)."""
        return self.geometry.words(keys)

    def latency(self, keys: int) -> int:
        """Cycles from the first word of a row to its first codes, nobody stalling and nothing under way."""
        geometry = self.geometry
        memory = geometry.memory_latency
        search = ThresholdSearch.latency(geometry.code_bits)
        return 2 * geometry.words(keys) + 2 * geometry.tree_levels + 2 * memory + search + 23

    def elaborate(self, platform: Any) -> Elaboratable:
        """The three phases, and the credits between them."""
        m = Module()
        geometry = self.geometry
        lanes = geometry.lanes
        logits = data.ArrayLayout(LOGIT_BITS, lanes)
        distances = data.ArrayLayout(DISTANCE_BITS, lanes)
        latency = geometry.memory_latency

        m.submodules.logit_memory = logit_memory = BlockMemory(width=logits.size, depth=geometry.depth)
        m.submodules.distance_memory = distance_memory = BlockMemory(width=distances.size, depth=geometry.depth)
        m.submodules.to_sum = to_sum = RowReader(LOGIT_BITS, row_words=geometry.row_words, depth=geometry.depth)
        m.submodules.to_codes = to_codes = RowReader(
            geometry.log_bits, row_words=geometry.row_words, depth=geometry.depth
        )
        m.submodules.maxima = maxima = CreditQueue(to_sum.i.payload.shape(), depth=ROWS_UNDER_WAY)
        m.submodules.sums = sums = CreditQueue(to_codes.i.payload.shape(), depth=ROWS_UNDER_WAY)
        m.submodules.codes = codes = CreditQueue(geometry.codes_layout, depth=ROWS_UNDER_WAY)
        m.submodules.logit_words = logit_words = Credits(geometry.depth)
        m.submodules.distance_words = distance_words = Credits(geometry.depth)
        m.submodules.maximum_places = maximum_places = Credits(ROWS_UNDER_WAY)
        m.submodules.sum_places = sum_places = Credits(ROWS_UNDER_WAY)
        m.submodules.code_places = code_places = Credits(ROWS_UNDER_WAY)
        wiring.connect(m, maxima.o, to_sum.i)
        wiring.connect(m, sums.o, to_codes.i)

        # Phase 1: add the bias, store, find the maximum.
        accepted, last = self._accept(m, logit_words.available & maximum_places.available)
        word = Signal(logits)
        word_valid, word_last = Signal(), Signal(reset_less=True)
        write_logits = Signal(range(geometry.depth))
        m.d.sync += [word_valid.eq(accepted), word_last.eq(last), write_logits.eq(write_logits + word_valid)]
        payload = self.i_logits.payload
        for lane in range(lanes):
            total = payload.logit[lane] + (self.i_bias.payload[lane] if geometry.bias else 0)
            # Adding OFFSET inverts the highest bit.
            m.d.sync += word[lane].eq(Mux(payload.present[lane], total ^ OFFSET, 0))
        m.submodules.row_maximum = maximum = RowMaximum(geometry)
        m.d.comb += [
            logit_memory.write_enable.eq(word_valid),
            logit_memory.write_address.eq(write_logits),
            logit_memory.write_data.eq(word),
            maximum.i_valid.eq(word_valid),
            maximum.last.eq(word_last),
            maximum.logits.eq(word),
            maxima.i_valid.eq(maximum.o_valid),
            maxima.i.fact.eq(maximum.maximum),
            maxima.i.words.eq(maximum.words),
            logit_words.spend.eq(accepted),
            logit_words.refund.eq(to_sum.read),
            maximum_places.spend.eq(accepted & last),
            maximum_places.refund.eq(maxima.o.valid & maxima.o.ready),
        ]

        # Phase 2: distances below the maximum, stored for phase 3, and the sum of their powers of two.
        m.submodules.distances = distance = Distances(lanes)
        m.submodules.terms = terms = Terms(lanes)
        m.submodules.row_sum = row_sum = RowSum(geometry)
        m.submodules.logarithm = logarithm = Log2OfSum(geometry)
        marks = Signal(data.StructLayout({"first": 1, "last": 1}))
        m.d.comb += [marks.first.eq(to_sum.first), marks.last.eq(to_sum.last)]
        stored = latency + Distances.LATENCY
        summed = stored + Terms.LATENCY
        done = summed + row_sum.latency + Log2OfSum.LATENCY
        valid_stored = delay(m, to_sum.read, stored, "stored", reset_less=False)
        valid_summed = delay(m, valid_stored, summed - stored, "summed", reset_less=False)
        valid_done = delay(m, valid_summed, done - summed, "done", reset_less=False)
        marks_summed = delay(m, marks, summed, "marks_summed")
        last_done = delay(m, marks_summed.last, done - summed, "last_done")
        write_distances = Signal(range(geometry.depth))
        words, words_before = Signal(range(geometry.row_words + 1)), Signal(range(geometry.row_words + 1))
        m.d.sync += write_distances.eq(write_distances + valid_stored)
        with m.If(valid_done):
            m.d.sync += words_before.eq(Mux(last_done, 0, words))
        m.d.comb += [
            to_sum.enable.eq(distance_words.available & sum_places.available),
            logit_memory.read_address.eq(to_sum.address),
            distance.maximum.eq(delay(m, to_sum.fact, latency, "maximum")),
            distance.logits.eq(logit_memory.read_data),
            distance_memory.write_enable.eq(valid_stored),
            distance_memory.write_address.eq(write_distances),
            distance_memory.write_data.eq(distance.o),
            terms.distances.eq(distance.o),
            row_sum.i_valid.eq(valid_summed),
            row_sum.first.eq(marks_summed.first),
            row_sum.last.eq(marks_summed.last),
            row_sum.terms.eq(terms.o),
            logarithm.total.eq(row_sum.total),
            words.eq(words_before + 1),
            sums.i_valid.eq(valid_done & last_done),
            sums.i.fact.eq(logarithm.o),
            sums.i.words.eq(words),
            distance_words.spend.eq(to_sum.read),
            distance_words.refund.eq(to_codes.read),
            sum_places.spend.eq(to_sum.read & to_sum.last),
            sum_places.refund.eq(sums.o.valid & sums.o.ready),
        ]

        # Phase 3: -log2 of every probability, and its code.
        m.submodules.search = search = ThresholdSearch(geometry)
        log_sum = delay(m, to_codes.fact, latency, "log_sum")
        delayed = data.View(distances, distance_memory.read_data)
        for lane in range(lanes):
            score = Signal(SCORE_BITS, name=f"score{lane}", reset_less=True)
            m.d.sync += score.eq(delayed[lane] + log_sum)
            m.d.comb += [search.scores[lane].eq(score), codes.i.code[lane].eq(search.codes[lane])]
        found = latency + 1 + ThresholdSearch.latency(geometry.code_bits)
        taken = self.o.valid & self.o.ready
        m.d.comb += [
            self.i_threshold.ready.eq(1),
            search.write_enable.eq(self.i_threshold.valid),
            search.write.eq(self.i_threshold.payload),
            to_codes.enable.eq(code_places.available),
            distance_memory.read_address.eq(to_codes.address),
            codes.i_valid.eq(delay(m, to_codes.read, found, "found", reset_less=False)),
            codes.i.last.eq(delay(m, to_codes.last, found, "last_found")),
            code_places.spend.eq(to_codes.read),
            code_places.refund.eq(taken),
        ]
        wiring.connect(m, codes.o, wiring.flipped(self.o))

        # Every word that came in leaves once.
        under_way = Signal(range(2 * geometry.depth + 2 * ROWS_UNDER_WAY))
        # Counted a cycle late: what is accepted depends on the ports.
        m.d.sync += under_way.eq(under_way + word_valid - taken)
        m.d.comb += self.o_idle.eq((under_way == 0) & ~word_valid)
        return m

    def _accept(self, m: Module, room: Any) -> tuple[Signal, Signal]:
        """(a word enters, it is the last of its row); a row that has filled its memory ends unasked."""
        accepted, last = Signal(), Signal()
        count = Signal(range(self.geometry.row_words))
        m.d.comb += [
            accepted.eq(self.i_logits.valid & self.i_logits.ready),
            last.eq(self.i_logits.payload.last | (count == self.geometry.row_words - 1)),
        ]
        with m.If(accepted):
            m.d.sync += count.eq(Mux(last, 0, count + 1))
        if self.geometry.bias:
            m.d.comb += [
                self.i_logits.ready.eq(room & self.i_bias.valid),
                self.i_bias.ready.eq(room & self.i_logits.valid),
            ]
        else:
            m.d.comb += self.i_logits.ready.eq(room)
        return accepted, last

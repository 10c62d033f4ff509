"""Encoder: wide numbers to the codes that the array streams, by multiply, add, shift and a table of half steps."""

from typing import Any, Final

import numpy as np
from amaranth.hdl import Cat, Elaboratable, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from hdl.ecp5.block_ram import BlockRam
from hdl.ecp5.multiplier import RegisteredMultiplier
from hdl.ecp5.shared_ram import SharedRam
from hdl.parameters import require
from hdl.pipeline import delay
from hdl.vector.credit_fifo import CreditFifo
from hdl.vector.right_shift import RightShift, shift_latency
from sim.contract.constants import TILE_CHANNELS, WIDE_BITS
from sim.contract.encoder import ENCODER_INDICES, Encoder, half_step_table
from sim.contract.wide import Wide

CODE_BITS: Final = 8
"""A nibble, or a byte of two nibbles."""

SHARING: Final = 2
"""Lanes that share a block RAM of multipliers, as the halves of a word, or of tables, as its two readers."""

MULTIPLIER_BITS: Final = 16
ADDEND_BITS: Final = 31
SHIFT_MAX: Final = 30

BEATS_MAX: Final = 512
"""Beats of a token: their addends fill one block RAM of 512 words of 36 bits per lane."""

TABLES_PER_RAM: Final = 4
TABLES_MAX: Final = 16
LANES: Final = tuple(n for n in range(1, TILE_CHANNELS + 1) if TILE_CHANNELS % n == 0)

INDEX_BITS: Final = (ENCODER_INDICES - 1).bit_length()
SUM_BITS: Final = 32


class CodeEncoder(wiring.Component):
    """Codes of wide numbers, `lanes` channel positions per cycle, bit for bit sim.contract.encoder.Encoder.

    A token of C channels is ceil(C / lanes) transfers of `i`, `last` marking the final one: lane k of transfer b
    carries position b * lanes + k, that is channel permutation[position]. Codes leave in the same places on `o`.
    Lanes beyond C are don't-cares. Whoever reads the wide numbers reads them in permuted order; nothing here knows
    whether levels are uniform, logarithmic or hybrid.

    `i_channels` holds multiplier and addend of a position, `i_tiles` shift and table number of a K tile (64
    positions), `i_table` one code of a table: word index of table n at address 512 * n + index. The first two are
    always ready, and words in use must be left alone; `i_table` waits until all codes have been taken. What is written
    in cycle t counts for tokens that begin in cycle t + 2 or later.

    Throughput: one transfer per cycle. Latency from `i` to `o`: `latency` = 12 cycles with up to 4 tables, else 13.

    lanes: divisor of 64. channels: most positions of a token, 1..512 * lanes. tables: tables resident at once, 1..16.
    Per lane: one MULT18X18D and one DP16KD for addends. Per two lanes: one DP16KD for multipliers and one per four
    tables. One DP16KD for the tiles.
    Raises ValueError naming the parameter, its limit and the nearest valid value.
    """

    def __init__(self, *, lanes: int = 8, channels: int = 512, tables: int = 4) -> None:
        self.lanes = require("lanes", lanes, LANES, f"one of {LANES}")
        limit = BEATS_MAX * lanes
        self.channels = require("channels", channels, range(1, limit + 1), f"in 1..{BEATS_MAX} * lanes = {limit}")
        self.tables = require("tables", tables, range(1, TABLES_MAX + 1), f"in 1..{TABLES_MAX}")
        self._beats = -(-channels // lanes)
        self._tiles = -(-channels // TILE_CHANNELS)
        self._banks = -(-tables // TABLES_PER_RAM)
        self._shift_stage = BlockRam.LATENCY + RegisteredMultiplier.LATENCY + 1
        self._index_stage = self._shift_stage + shift_latency(SHIFT_MAX)
        self._code_stage = self._index_stage + SharedRam.LATENCY + (self._banks > 1)
        self.latency = self._code_stage + 1
        values = data.StructLayout({"values": data.ArrayLayout(signed(WIDE_BITS), lanes), "last": unsigned(1)})
        codes = data.StructLayout({"codes": data.ArrayLayout(unsigned(CODE_BITS), lanes), "last": unsigned(1)})
        channel = data.StructLayout(
            {
                "position": range(self._beats * lanes),
                "multiplier": signed(MULTIPLIER_BITS),
                "addend": signed(ADDEND_BITS),
            }
        )
        tile = data.StructLayout({"tile": range(self._tiles), "shift": range(SHIFT_MAX + 1), "table": range(tables)})
        entry = data.StructLayout({"address": range(tables * ENCODER_INDICES), "code": unsigned(CODE_BITS)})
        super().__init__(
            {
                "i_channels": In(stream.Signature(channel)),
                "i_tiles": In(stream.Signature(tile)),
                "i_table": In(stream.Signature(entry)),
                "i": In(stream.Signature(values)),
                "o": Out(stream.Signature(codes)),
            }
        )

    @staticmethod
    def model(encoder: Encoder, values: NDArray[np.int16]) -> NDArray[np.uint8]:
        """Codes (tokens, C) in permuted order of wide values (tokens, C) in channel order."""
        return encoder.encode(Wide(values, encoder.input_exponent))

    @staticmethod
    def parameters(encoder: Encoder) -> dict[str, list[dict[str, int]]]:
        """Everything to transfer before an operation's tokens, by stream name. One table where tiles share levels."""
        shared = encoder.levels.shape[0] == 1
        tables = [half_step_table(row).tolist() for row in encoder.levels]
        return {
            "i_channels": [
                {"position": position, "multiplier": multiplier, "addend": addend}
                for position, (multiplier, addend) in enumerate(
                    zip(encoder.multiplier.tolist(), encoder.addend.tolist(), strict=True)
                )
            ],
            "i_tiles": [
                {"tile": tile, "shift": shift, "table": 0 if shared else tile}
                for tile, shift in enumerate(encoder.shift.tolist())
            ],
            "i_table": [
                {"address": number * ENCODER_INDICES + index, "code": code}
                for number, table in enumerate(tables)
                for index, code in enumerate(table)
            ],
        }

    def elaborate(self, platform: Any) -> Elaboratable:
        """A beat counter runs ahead of each memory by its latency; tile, shift and table travel beside the values."""
        m = Module()
        m.submodules.fifo = fifo = CreditFifo(self.o.payload.shape(), depth=self.latency + CreditFifo.TURNAROUND)
        wiring.connect(m, fifo.o, wiring.flipped(self.o))
        accepted = Signal()
        beat = Signal(range(self._beats))
        m.d.comb += [
            self.i.ready.eq(fifo.o_room),
            accepted.eq(self.i.valid & fifo.o_room),
            fifo.spend.eq(accepted),
            fifo.store.eq(delay(m, accepted, self._code_stage, "accepted", reset_less=False)),
            fifo.word.last.eq(delay(m, self.i.payload.last, self._code_stage, "last")),
        ]
        with m.If(accepted):
            m.d.sync += beat.eq(Mux(self.i.payload.last, 0, beat + 1))

        m.d.comb += [self.i_channels.ready.eq(1), self.i_tiles.ready.eq(1), self.i_table.ready.eq(fifo.o_empty)]
        channel_enable, channel = self._written(m, self.i_channels, "channel")
        shift, table = self._tile_of(m, beat)
        addend_beat = delay(m, beat, RegisteredMultiplier.LATENCY, "addend_beat")
        lane_bits = (self.lanes - 1).bit_length()
        mine = [channel_enable & (channel.position[:lane_bits] == lane) for lane in range(self.lanes)]
        multipliers = self._multipliers(m, mine, channel, beat)
        indices = []
        for lane in range(self.lanes):
            m.submodules[f"addends{lane}"] = addends = BlockRam(width=ADDEND_BITS, depth=self._beats)
            m.d.comb += [
                addends.write_enable.eq(mine[lane]),
                addends.write_address.eq(channel.position[lane_bits:]),
                addends.write_data.eq(channel.addend),
                addends.read_address.eq(addend_beat),
            ]
            m.submodules[f"product{lane}"] = product = RegisteredMultiplier()
            total = Signal(signed(SUM_BITS), name=f"total{lane}", reset_less=True)
            m.submodules[f"shift{lane}"] = shifter = RightShift(
                width=SUM_BITS, max_shift=SHIFT_MAX, kept=INDEX_BITS + 1
            )
            m.d.comb += [
                product.a.eq(delay(m, self.i.payload.values[lane], BlockRam.LATENCY, f"value{lane}")),
                product.b.eq(multipliers[lane]),
                shifter.value.eq(total),
                shifter.shift.eq(shift),
            ]
            m.d.sync += total.eq(product.o[:SUM_BITS].as_signed() + addends.read_data.as_signed())
            clamped = Mux(shifter.negative, 0, shifter.floor[:INDEX_BITS] | shifter.over.replicate(INDEX_BITS))
            indices.append(clamped)
        entry = self._written(m, self.i_table, "entry")
        for first in range(0, self.lanes, SHARING):
            found = self._look_up(m, first, indices[first : first + SHARING], table, entry)
            for lane, code in enumerate(found, first):
                m.d.comb += fifo.word.codes[lane].eq(code)
        return m

    @staticmethod
    def _written(m: Module, port: Any, name: str) -> tuple[Signal, Any]:
        """(enable, payload) one cycle after a transfer: the write reaches every lane's memory from a register."""
        taken = Signal(name=f"{name}_taken")
        m.d.comb += taken.eq(port.valid & port.ready)
        return delay(m, taken, 1, f"{name}_enable", reset_less=False), delay(m, port.payload, 1, name)

    def _tile_of(self, m: Module, beat: Signal) -> tuple[Any, Any]:
        """(shift at the shift stage, table at the index stage) of the K tile that `beat` lies in."""
        enable, record = self._written(m, self.i_tiles, "record")
        layout = data.StructLayout({"shift": range(SHIFT_MAX + 1), "table": range(self.tables)})
        m.submodules.tiles = tiles = BlockRam(width=layout.size, depth=self._tiles)
        word = Signal(layout)
        found = Signal(layout)
        tile = beat[(TILE_CHANNELS // self.lanes).bit_length() - 1 :]
        m.d.comb += [
            word.shift.eq(record.shift),
            word.table.eq(record.table),
            tiles.write_enable.eq(enable),
            tiles.write_address.eq(record.tile),
            tiles.write_data.eq(word.as_value()),
            tiles.read_address.eq(delay(m, tile, self._shift_stage - BlockRam.LATENCY, "tile")),
            found.as_value().eq(tiles.read_data),
        ]
        return found.shift, delay(m, found.table, self._index_stage - self._shift_stage, "table")

    def _multipliers(self, m: Module, mine: list[Any], channel: Any, beat: Signal) -> list[Any]:
        """Multiplier of every lane, BlockRam.LATENCY cycles after its beat."""
        found: list[Any] = []
        lane_bits = (self.lanes - 1).bit_length()
        parts = min(self.lanes, SHARING)
        for first in range(0, self.lanes, parts):
            m.submodules[f"multipliers{first}"] = memory = BlockRam(
                width=parts * MULTIPLIER_BITS, depth=self._beats, parts=parts
            )
            m.d.comb += [
                memory.write_enable.eq(Cat(mine[first : first + parts])),
                memory.write_address.eq(channel.position[lane_bits:]),
                memory.write_data.eq(channel.multiplier.as_unsigned().replicate(parts)),
                memory.read_address.eq(beat),
            ]
            found += [memory.read_data.word_select(part, MULTIPLIER_BITS).as_signed() for part in range(parts)]
        return found

    def _look_up(self, m: Module, first: int, indices: list[Any], table: Any, written: tuple[Signal, Any]) -> list[Any]:
        """Codes of the indices of two lanes at the code stage; what is written takes the way of the first one's.

        With several block RAMs the choice between them has its own register.
        """
        enable, entry = written
        places = [Cat(index, table) for index in indices]
        address_bits = INDEX_BITS + (TABLES_PER_RAM - 1).bit_length()
        banks = []
        for bank in range(self._banks):
            depth = min(self.tables - bank * TABLES_PER_RAM, TABLES_PER_RAM) * ENCODER_INDICES
            m.submodules[f"table{first}_{bank}"] = codes = SharedRam(width=CODE_BITS, depth=depth)
            m.d.comb += [
                codes.write.eq(enable & (entry.address[address_bits:] == bank)),
                codes.write_data.eq(entry.code),
                codes.address_a.eq(Mux(enable, entry.address, places[0])[:address_bits]),
                codes.address_b.eq(places[-1][:address_bits]),
            ]
            banks.append((codes.data_a, codes.data_b))
        found = []
        for lane, (place, *words) in enumerate(zip(places, *banks, strict=False), first):
            if self._banks == 1:
                found.append(words[0])
                continue
            chosen = Signal(CODE_BITS, name=f"code{lane}", reset_less=True)
            bank_select = delay(m, place[address_bits:], SharedRam.LATENCY, f"bank{lane}")
            with m.Switch(bank_select):
                for bank, word in enumerate(words):
                    with m.Case(bank):
                        m.d.sync += chosen.eq(word)
            found.append(chosen)
        return found

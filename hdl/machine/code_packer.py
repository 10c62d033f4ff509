"""Between the encoder and memory: codes of a token to nibble planes, K tile by K tile.

i: lanes codes, lanes codes, ...  ->  two tiles of nibbles in distributed RAM  ->  o: beats of one plane, then the next
"""

from typing import Any, Final

import numpy as np
from amaranth.hdl import Cat, Elaboratable, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from hdl.array.geometry import CODE_BITS as NIBBLE_BITS
from hdl.ecp5.distributed_ram import DistributedRam
from hdl.parameters import require
from hdl.vector.encoder import CODE_BITS
from sim.contract.constants import TILE_CHANNELS

LANES: Final = (2, 4, 8, 16)
"""A beat is a part of one plane of a tile, and two tiles of a plane fit the words of distributed RAM."""

PLANES_MAX: Final = 2
WORDS_PER_BEAT: Final = 4
"""A code has 8 bits in a beat of 16 bits a lane, and 4 in a plane."""

TILES: Final = 2
"""One is filled while the other goes out."""


class CodePacker(wiring.Component):
    """Codes of hdl.vector.encoder as memory holds them ("Packed codes" of docs/machine.md).

    - `i_planes`: 1, codes are nibbles, or 2, bytes of two nibbles, for all codes that follow. Taken when everything
      before it has left and no token is begun; before the first one no code is.
    - `i`: codes as CodeEncoder gives them, `last` ends a token. Lanes of its last transfer are stored, whatever they
      hold; the rest of its last K tile is filled with zeros.
    - `o`: beats of 2 * lanes bytes, the first byte lowest; 16 / lanes a plane.
    - `o_idle`: no code is inside.

    Throughput: 64 / lanes cycles a tile, whole or not: one transfer per cycle where tokens are whole tiles. With two
    planes `o` has a beat in half of the cycles, with one in a quarter.
    Latency from the last transfer of a tile to its first beat: `LATENCY` = 2 cycles.

    Memory: 8 * lanes cells of distributed RAM, 16 words of 4 bits each.
    Raises ValueError naming the parameter, its limit and the nearest valid value.
    """

    LATENCY = 2

    def __init__(self, *, lanes: int = 8) -> None:
        self.lanes = require("lanes", lanes, LANES, f"one of {LANES}")
        self._beats = TILE_CHANNELS // (WORDS_PER_BEAT * lanes)
        codes = data.StructLayout({"codes": data.ArrayLayout(unsigned(CODE_BITS), lanes), "last": unsigned(1)})
        super().__init__(
            {
                "i_planes": In(stream.Signature(range(PLANES_MAX + 1))),
                "i": In(stream.Signature(codes)),
                "o": Out(stream.Signature(WORDS_PER_BEAT * NIBBLE_BITS * lanes)),
                "o_idle": Out(1),
            }
        )

    @staticmethod
    def model(codes: NDArray[np.integer], planes: int) -> NDArray[np.uint8]:
        """Bytes uint8 (tokens, tiles * planes * 32) of codes (tokens, C), nibbles with one plane."""
        tokens, channels = codes.shape
        padded = np.pad(np.asarray(codes, np.uint8), ((0, 0), (0, -channels % TILE_CHANNELS)))
        tiles = padded.reshape(tokens, -1, 1, TILE_CHANNELS)
        places = NIBBLE_BITS * np.arange(planes - 1, -1, -1, dtype=np.uint8)
        nibbles = tiles >> places[:, None] & (1 << NIBBLE_BITS) - 1
        return (nibbles[..., ::2] | nibbles[..., 1::2] << NIBBLE_BITS).astype(np.uint8).reshape(tokens, -1)

    def elaborate(self, platform: Any) -> Elaboratable:
        """A writer that steps from word to word, a reader that steps from beat to beat, the full tiles between them."""
        m = Module()
        filled, emptied, full = Signal(), Signal(), Signal(range(TILES + 1))
        m.d.sync += full.eq(full + filled - emptied)
        planes, output = Signal(range(PLANES_MAX + 1)), Signal(self.o.payload.shape(), reset_less=True)
        valid, begun = Signal(), Signal()
        m.d.comb += [
            self.o_idle.eq(~begun & (full == 0) & ~valid),
            self.i_planes.ready.eq(self.o_idle),
            self.o.valid.eq(valid),
            self.o.payload.eq(output),
        ]
        with m.If(self.i_planes.valid & self.i_planes.ready):
            m.d.sync += planes.eq(self.i_planes.payload)

        bank, write_beat, write_half, written = self._writer(m, begun, filled, (planes != 0) & (full != TILES))
        issue = Signal()
        m.d.comb += issue.eq((full != 0) & (~valid | self.o.ready))
        with m.If(issue | self.o.ready):
            m.d.sync += valid.eq(issue)
        low, read_beat, read_half = self._reader(m, issue, emptied, planes)

        half_bits = (self._beats - 1).bit_length()
        beats = []
        for plane in range(PLANES_MAX):
            words = []
            for number in range(WORDS_PER_BEAT):
                m.submodules[f"plane{plane}_word{number}"] = storage = DistributedRam(width=NIBBLE_BITS * self.lanes)
                nibbles = Cat(word.word_select(PLANES_MAX - 1 - plane, NIBBLE_BITS) for word in written)
                m.d.comb += [
                    storage.write_enable.eq(bank[number]),
                    storage.write_address.eq(Cat(write_beat[:half_bits], write_half)),
                    storage.write_data.eq(nibbles),
                    storage.read_address.eq(Cat(read_beat[:half_bits], read_half)),
                ]
                words.append(storage.read_data)
            beats.append(Cat(words))
        with m.If(issue):
            m.d.sync += output.eq(Mux(low, beats[1], beats[0]))
        return m

    def _writer(self, m: Module, begun: Signal, filled: Signal, room: Any) -> tuple[Signal, Signal, Signal, list[Any]]:
        """(write enable per word of a beat, beat, half, codes); begun, set here: a token has codes inside, no end."""
        padding, accepted, write = Signal(), Signal(), Signal()
        word = Signal(WORDS_PER_BEAT, init=1)
        beat, half = Signal(range(self._beats)), Signal()
        m.d.comb += [
            self.i.ready.eq(room & ~padding),
            accepted.eq(self.i.valid & self.i.ready),
            # A tile that is begun has room.
            write.eq(accepted | padding),
            filled.eq(write & word[-1] & (beat == self._beats - 1)),
        ]
        with m.If(accepted):
            m.d.sync += begun.eq(~self.i.payload.last | ~filled)
            m.d.sync += padding.eq(self.i.payload.last & ~filled)
        with m.If(padding & filled):
            m.d.sync += [padding.eq(0), begun.eq(0)]
        with m.If(write):
            m.d.sync += word.eq(word.rotate_left(1))
            with m.If(word[-1]):
                m.d.sync += beat.eq(Mux(filled, 0, beat + 1))
        with m.If(filled):
            m.d.sync += half.eq(~half)
        codes = [Mux(padding, 0, code) for code in self.i.payload.codes]
        return Mux(write, word, 0), beat, half, codes

    def _reader(self, m: Module, issue: Signal, emptied: Signal, planes: Signal) -> tuple[Any, Signal, Signal]:
        """(the low plane is read, beat, half)."""
        second, half = Signal(), Signal()
        beat = Signal(range(self._beats))
        low = second | (planes == 1)
        last = beat == self._beats - 1
        m.d.comb += emptied.eq(issue & last & low)
        with m.If(issue):
            m.d.sync += beat.eq(Mux(last, 0, beat + 1))
            with m.If(last):
                m.d.sync += [second.eq(~low), half.eq(half ^ low)]
        return low, beat, half

"""Position biases of an attention: commands of the position unit, and the passes of the array that make the products of
q with tables which decomposed positions read there."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.compiler.builder import Builder
from sim.compiler.heads import Heads, RowSet
from sim.compiler.passes import Pass, Passes, load_cycles, pack_weights, padded
from sim.contract.attention import DecomposedBias, StaticBias
from sim.contract.constants import CODES, SCALE_BITS, TILE_CHANNELS
from sim.contract.errors import UserError
from sim.contract.layer import weight_nibbles
from sim.machine.ports import Port
from sim.machine.settings import PositionKind


@dataclass(frozen=True)
class Vectors:
    """Products of q with the tables of rows and columns: of every token two vectors of `width` values, of which the
    first `rows` and `columns` count."""

    address: int
    width: int
    rows: int
    columns: int

    def of_tokens(self, first: int, count: int, builder: Builder) -> NDArray[np.int64]:
        """Addresses of the beats that the position unit takes for tokens first..first + count."""
        token = self.address + (first + np.arange(count)) * self.width * 4
        beats = [
            token[:, None] + part * self.width * 2 + np.arange(-(-length // builder.preset.lanes)) * builder.beat
            for part, length in enumerate((self.rows, self.columns))
        ]
        return np.concatenate(beats, axis=1)


@dataclass(frozen=True)
class Positions:
    """Of windows of `tokens` tokens, with sets of up to `block` queries."""

    builder: Builder
    heads: Heads
    tokens: int
    block: int

    def give(self, rows: RowSet, vectors: Vectors | None) -> None:
        """The command for a set, with its operands. vectors: of decomposed positions."""
        builder, bias = self.builder, self.heads.attention.position
        if isinstance(bias, StaticBias):
            side = bias.window
            self._command(PositionKind.STATIC, side, side, rows)
            width = -(-side // builder.preset.lanes) * builder.preset.lanes
            table = padded(bias.table[rows.head].reshape(side, side), side, width)
            content = table.astype("<i2").tobytes()
            builder.read_loops(
                Port.POSITION_VALUES, builder.constant(content), (len(content) // builder.beat, builder.beat)
            )
        elif isinstance(bias, DecomposedBias):
            assert vectors is not None
            self._command(PositionKind.DECOMPOSED, bias.rows, bias.columns, rows)
            token = rows.window * self.tokens + rows.first
            builder.read(Port.POSITION_VALUES, vectors.of_tokens(token, rows.queries, builder))
        else:
            columns = math.gcd(self.tokens, math.isqrt(self.tokens))
            self._command(PositionKind.NONE, self.tokens // columns, columns, rows)

    def _command(self, kind: PositionKind, down: int, across: int, rows: RowSet) -> None:
        """Sent where a window has one set, else read, so that sets differ in addresses alone and roll up."""
        builder, shape = self.builder, {"kind": kind, "rows": down, "columns": across}
        if self.block == self.tokens:
            builder.send(Port.POSITION_COMMAND, **shape, first_query=0, queries=self.tokens)
            return
        first = np.arange(0, self.tokens, self.block)
        queries = np.minimum(self.block, self.tokens - first)
        records = builder.records(Port.POSITION_COMMAND, shape | {"first_query": first, "queries": queries})
        of_set = np.frombuffer(records, np.uint8).reshape(len(first), -1)
        address = builder.constant(padded(of_set, len(first), builder.beat).tobytes())
        builder.read_block(Port.POSITION_COMMAND, address + rows.first // self.block * builder.beat, 1)

    def layer(self, bias: DecomposedBias, head: int, width: int, planes: int) -> Passes:
        """The products of a head's q with its tables, rows in the first `width` results, columns in the next.

        planes: of q's codes. Raises UserError for a scale that does not fit.
        """
        builder, heads = self.builder, self.heads
        preset, name = builder.preset, heads.attention.name
        books = heads.books(head)
        first_book = builder.codebooks(books, name)
        blocks = heads.row_blocks(head)
        table = np.zeros((2 * width, len(blocks) * preset.rows), np.int8)
        start = head * heads.width - blocks[0] * preset.rows
        for number, part in enumerate((bias.rel_rows[head], bias.rel_columns[head])):
            table[number * width : number * width + len(part), start : start + heads.width] = part
        scale = np.repeat([int(bias.row_scale[head]), int(bias.column_scale[head])], width)
        nibbles = [builder.constant(pack_weights(nibble, preset)) for nibble in weight_nibbles(table, 2)]
        highest = int(scale.max()) * CODES ** len(books)
        if highest >= 1 << SCALE_BITS:
            raise UserError(f"{name}: a position scale of {highest} exceeds {(1 << SCALE_BITS) - 1}; export it again")
        scales = {
            above: builder.constant((scale * CODES**above).astype("<u2").tobytes()) for above in range(len(books) + 1)
        }
        passes = []
        of_tile = TILE_CHANNELS // preset.rows
        begin = blocks[0] // of_tile
        for number, block in enumerate(blocks):
            q_tile, part = divmod(block, of_tile)
            for high, nibble in enumerate(nibbles):
                for run in range(len(books)):
                    passes.append(
                        Pass(
                            codebook=first_book + run,
                            scale=scales[1 - high + len(books) - 1 - run],
                            weights=nibble + number * preset.pass_bytes,
                            word=((q_tile - begin) * planes + (run if planes == 2 else 0)) * of_tile + part,
                        )
                    )
        return Passes(
            passes=tuple(passes),
            words=(blocks[-1] // of_tile - begin + 1) * planes * of_tile,
            planes=(),
            bias=builder.constant(bytes(preset.columns * 4)),
            columns=2 * width // preset.columns,
            scale_pitch=preset.columns * 2,
            bias_pitch=0,
            weight_pitch=len(blocks) * preset.pass_bytes,
            load=load_cycles(books, preset),
        )

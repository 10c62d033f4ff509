"""What the array does for a head of a window: passes of its scores and of P.v, the same for any queries, made once."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np

from sim.compiler.builder import Builder
from sim.compiler.code_blocks import Step
from sim.compiler.heads import Heads
from sim.compiler.held_constants import constants_within, hold_constants, release_constants
from sim.compiler.near_keys import HeadKeys
from sim.compiler.operand import Operand
from sim.compiler.passes import array_command
from sim.contract.codebook import low_plane_codebook
from sim.contract.constants import CODES, SCALE_BITS
from sim.contract.errors import UserError
from sim.machine.commands import Command
from sim.machine.ports import Port
from sim.machine.settings import Phase


class HeadCommands:
    """Of a head whose K and V are in memory; tokens: keys of a window."""

    def __init__(self, builder: Builder, heads: Heads, keys: HeadKeys, v: Operand, tokens: int) -> None:
        """READs the codebooks that the array does not hold."""
        self.builder, self.heads, self.keys, self.v, self.tokens = builder, heads, keys, v, tokens
        self.head = keys.channels.start // heads.width
        self.books = heads.books(self.head)
        low = tuple(low_plane_codebook().tolist())
        wanted = self.books if low in self.books else [*self.books, low]
        self._score_book = builder.codebooks(wanted, heads.attention.name)
        self._mix_book = self._score_book + wanted.index(low)
        self._steps: dict[tuple[int, int], list[Step]] = {}
        self._scoring: dict[tuple[int, int, int], list[Command]] = {}
        self._mixing: dict[tuple[int, int], list[Command]] = {}

    @contextmanager
    def constants_near(self, queries: int) -> Iterator[None]:
        """Where it has K, near memory has what passes read of the image too, as far as there is room and unless it has
        some already."""
        if not self.keys.held_tiles or self.builder.near_constants.copies:
            yield
            return
        passes = [self.scoring(0, queries, number) for number in range(len(self.scores(0, queries)))]
        commands = [command for one in (*passes, self.mixing(0, queries)) for command in one]
        hold_constants(self.builder, constants_within(commands, self.builder.beat, self.builder.near.room))
        self._forget()
        yield
        self.builder.wait()
        release_constants(self.builder)
        self._forget()

    def _forget(self) -> None:
        self._scoring.clear()
        self._mixing.clear()

    def scores(self, window: int, queries: int) -> list[Step]:
        """The passes of scores, the command with its first operands before the first."""
        if (window, queries) not in self._steps:
            self._steps[window, queries] = self._scores(window, queries)
        return self._steps[window, queries]

    def scoring(self, window: int, queries: int, number: int) -> list[Command]:
        """Commands of one of them."""
        key = window, queries, number
        if key not in self._scoring:
            self._scoring[key] = self.builder.recorded(self.scores(window, queries)[number])
        return self._scoring[key]

    def mixing(self, window: int, queries: int) -> list[Command]:
        """Of P.v."""
        key = window, queries
        if key not in self._mixing:
            self._mixing[key] = self.builder.recorded(partial(self._mix, *key))
        return self._mixing[key]

    def _scores(self, window: int, queries: int) -> list[Step]:
        builder, preset, keys, books = self.builder, self.builder.preset, self.keys, self.books
        tiles, planes = -(-self.tokens // preset.columns), keys.whole.codes.planes
        blocks = self.heads.row_blocks(self.head)
        scale = int(self.heads.attention.array_logit_scale()[self.head])
        nothing = builder.constant(bytes(preset.columns * 4))

        def command() -> None:
            array_command(
                builder,
                Phase.SCORES,
                codebook=self._score_book,
                queries=queries,
                keys=self.tokens,
                tiles=tiles,
                groups=len(blocks),
                planes=planes,
                runs=len(books),
                first=1,
                last=1,
                split=1,
                release=1,
                pitch=len(blocks) * len(books),
            )

        def step(tile: int, block: int, plane: int, run: int) -> None:
            start = block == blocks[0] and plane == run == 0
            if start and tile == 0:
                command()
            above = planes - 1 - plane + len(books) - 1 - run
            builder.read_block(Port.SCALE, self._scale(scale * CODES**above), 1)
            if start:
                builder.read_block(Port.BIAS, nothing, 1)
            builder.read(Port.WEIGHTS_TURNED, keys.turned(window, tile, block, plane))

        return [
            partial(step, tile, block, plane, run)
            for tile in range(tiles)
            for block in blocks
            for plane in range(planes)
            for run in range(len(books))
        ]

    def _mix(self, window: int, queries: int) -> None:
        builder, preset, attention, v = self.builder, self.builder.preset, self.heads.attention, self.v
        tiles, groups, runs = self.heads.width // preset.columns, -(-self.tokens // preset.rows), attention.score_planes
        shape = {"tiles": tiles, "groups": groups, "planes": v.codes.planes, "runs": runs}
        array_command(
            builder, Phase.MIX, codebook=self._mix_book, queries=queries, keys=self.tokens, first=1, last=1, **shape
        )
        for tile in range(tiles):
            channel = self.head * self.heads.width + tile * preset.columns
            part = slice(channel, channel + preset.columns)
            scale = attention.scale[part].astype(np.int64)
            bias = builder.constant(attention.bias[part].astype("<i4").tobytes())
            for group in range(groups):
                for plane in range(v.codes.planes):
                    for run in range(runs):
                        above = v.codes.planes - 1 - plane + runs - 1 - run
                        content = (scale * CODES**above).astype("<u2").tobytes()
                        builder.read_block(Port.SCALE, builder.constant(content), 1)
                        if run:
                            continue
                        if group == plane == 0:
                            builder.read_block(Port.BIAS, bias, 1)
                        builder.read_loops(
                            Port.WEIGHTS,
                            v.codes.address
                            + window * v.window
                            + group * preset.rows // v.group * v.codes.pitch
                            + v.half(channel, plane),
                            (1, builder.beat),
                            (preset.rows // v.group, v.codes.pitch),
                        )

    def _scale(self, scale: int) -> int:
        """Address of a payload of one scale for all columns. Raises UserError where it does not fit 16 bits."""
        if scale >= 1 << SCALE_BITS:
            raise UserError(
                f"{self.heads.attention.name}: a scale of {scale} exceeds {(1 << SCALE_BITS) - 1}; export it again"
            )
        return self.builder.constant(np.full(self.builder.preset.columns, scale, "<u2").tobytes())

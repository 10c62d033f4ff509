"""Attention on one array: q.k, softmax and P.v of a set of queries, without a host in between; and dense layers.

    i_weights, i_scale, i_bias ---------------------> +-------+
    i_block, i_codes ---> code buffer --------------> | array | ---> o                      wide results of P.v
                              +---------------------> +-------+
                              |                           | logits, column tile by column tile
                        code gather <--- softmax <--- reorder buffer
                                            ^
                                        i_position

The array holds K^T or V as product tables, like weights; q or P is streamed. Operands of 8 bits are pairs of nibbles: a
stationary one is two LOADs (`planes`), a streamed one two RUNs on each (`runs`), and the scale of a RUN is that of its
pair of nibbles. All nibbles of q and of the levels of P are 0..15, so all RUNs on a LOAD read the same tables, and in
between only the scales are loaded. For q this takes levels shifted up by 128; what that adds to a logit, 128 times the
sum of the key's levels, is taken off again in the bias of the key's column.

A command is four nested loops, the innermost last:

    for tile in tiles:            columns of the array: keys in SCORES, channels of the head in MIX
        for group in groups:      rows of the array: channels of the head in SCORES, keys in MIX
            for plane in planes:  LOAD
                for run in runs:  RUN of all queries; between two, the scales alone
        results of all queries

Where the keys are known only when the program runs, so is that correction; then q keeps its codes, level + 128, whose
high nibble stands for a - 8. Two codebooks, so a LOAD for every RUN: SCORES with `split`.

Streamed codes wait in the code buffer, block by block, and every tile and plane reads them there again.

A dense layer has weights instead of keys and an encoder's codes instead of q, so it is SCORES whose results leave at
once. Its passes have codebooks of their own, so one command is a pass: `first` and `last` say where sums begin and end.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from amaranth.hdl import Elaboratable, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import ArrayLike, NDArray

from hdl.array.array import Array
from hdl.array.geometry import CODE_BITS
from hdl.array.loader import codebook_word_layout, weights_layout
from hdl.attention.code_buffer import CodeBuffer, codes_layout
from hdl.attention.code_gather import CodeGather
from hdl.attention.code_reads import CodeReads
from hdl.attention.geometry import AttentionGeometry
from hdl.attention.reorder_buffer import ReorderBuffer
from hdl.attention.sequencer import AttentionSequencer
from hdl.ecp5.block_ram import BlockRam
from hdl.matmul import OUTPUT_DEPTH, MultiplyAccumulate, load_cycles, run_cycles
from hdl.output_fifo import OutputFifo
from hdl.rescale import GroupRescale
from hdl.sequencer import CommandSequencer
from hdl.softmax.geometry import BIAS_BITS as POSITION_BITS
from hdl.softmax.softmax import Softmax
from sim.contract.constants import BIAS_BITS, SCALE_BITS, WIDE_BITS
from sim.machine.settings import Phase

KEEP_CYCLES = 3
"""Cycles from the transfer of a LOAD of scales alone to the next command's."""

SETS_AHEAD = 2
"""SCORES whose MIX has not begun when a further one may not begin either: the halves of the code gather."""


Codebooks = Mapping[int, ArrayLike] | Sequence[ArrayLike]


def command_cycles(geometry: AttentionGeometry, command: Mapping[str, int], codebooks: Codebooks) -> int:
    """Cycles from the transfer of a command to the next one's, operands and rows never late, results always taken.

    tiles * groups * planes * (LOAD + runs * RUN + (runs - 1) * KEEP_CYCLES), LOAD and RUN of hdl.matmul; where every
    RUN has tables of its own, tiles * groups * planes * runs * (LOAD + RUN) with the mean LOAD.
    codebooks: 16 levels by index.
    """
    runs = command["runs"]
    loads = [load_cycles(geometry.array, codebooks[index]) for index in run_codebooks(command)]
    one = sum(loads) + runs * run_cycles(command["queries"]) + (runs - len(loads)) * KEEP_CYCLES
    return command["tiles"] * command["groups"] * command["planes"] * one


def run_codebooks(command: Mapping[str, int]) -> range:
    """Codebooks of the LOADs of tables in a plane: one for all RUNs, or with `split` one for each."""
    return range(command["codebook"], command["codebook"] + (command["runs"] if command["split"] else 1))


class Attention(wiring.Component):
    """Multi-head attention by commands, bit for bit sim.contract.attention with P of 16 codes.

    - `i_codebook` (hdl.matmul), `i_threshold` (hdl.softmax) and `i_level` (CodeGather) write tables, always ready; what
      is in use must be left alone.
    - `i_command` SCORES: logits of `queries` rows of `keys` keys, tiles = ceil(keys / columns), softmax, codes into the
      code gather. MIX: P.v of the oldest set there, groups = ceil(keys / rows). Fields: module docstring.
      Of the sets begun by SCORES at most SETS_AHEAD = 2 may wait for their MIX; with more the unit would wait for ever.
      SCORES, SCORES, MIX, SCORES, MIX, ..., MIX keeps the array busy while rows pass through the softmax.
      With `split` every RUN of SCORES has a LOAD of tables, run r from `codebook` + r; else one LOAD serves all RUNs.
      DENSE: `queries` tokens of codes. With `first` sums start from a bias, else they go on from those of the DENSE
      before, of as many queries and nothing in between; with `last` results leave. `tiles` is 1 unless it has both.
      SCORES and MIX have both.
    - `i_weights`, `i_bias` as in hdl.matmul, per LOAD of tables and per tile (DENSE: with `first`); `i_scale` per RUN.
      Missing keys and channels are columns or rows of weight 0.
    - `i_block`, `i_codes` (CodeBuffer): blocks of words of `rows` nibbles for SCORES and DENSE. Token t of the RUN of
      group g and run r takes word `word` + g * `runs` + r + t * `pitch` of the oldest block; with `release` the command
      gives it back. A command may come before its codes.
    - `i_position` (with bias=1): position bias of `lanes` keys a word, ceil(keys / lanes) words a row.
    - `o`: wide results of MIX and DENSE, `columns` channels a transfer, per tile all queries.
    - `o_idle`: no command is active and every result has been taken.

    Cycles: `command_cycles`. The softmax needs queries * ceil(keys / lanes) cycles for a set; hidden while it takes
    less than a MIX and the first tile of a SCORES.
    """

    def __init__(self, geometry: AttentionGeometry) -> None:
        self.geometry = geometry
        array = geometry.array
        columns = array.columns
        ports = {
            "i_codebook": In(stream.Signature(codebook_word_layout(array))),
            "i_threshold": In(stream.Signature(geometry.softmax.threshold_layout)),
            "i_level": In(stream.Signature(geometry.level_layout)),
            "i_command": In(stream.Signature(geometry.command_layout)),
            "i_weights": In(stream.Signature(weights_layout(array))),
            "i_scale": In(stream.Signature(data.ArrayLayout(unsigned(SCALE_BITS), columns))),
            "i_bias": In(stream.Signature(data.ArrayLayout(signed(BIAS_BITS), columns))),
            "i_block": In(stream.Signature(range(geometry.block_words + 1))),
            "i_codes": In(stream.Signature(codes_layout(geometry.code_beat_bits))),
            "o": Out(stream.Signature(data.ArrayLayout(signed(WIDE_BITS), columns))),
            "o_idle": Out(1),
        }
        if geometry.bias:
            ports["i_position"] = In(stream.Signature(data.ArrayLayout(signed(POSITION_BITS), geometry.lanes)))
        super().__init__(ports)

    @staticmethod
    def model(
        geometry: AttentionGeometry,
        commands: Iterable[Mapping[str, int]],
        *,
        codebooks: Mapping[int, ArrayLike],
        thresholds: NDArray[np.int32],
        nibbles: NDArray[np.integer],
        weights: Iterable[NDArray[np.integer]],
        scale: Iterable[NDArray[np.integer]],
        bias: Iterable[NDArray[np.integer]],
        blocks: Iterable[NDArray[np.integer]],
        position: Iterable[NDArray[np.integer]] = (),
    ) -> NDArray[np.int16]:
        """Results int16 (transfers, columns) of the commands.

        commands: fields of i_command by name. codebooks: 16 levels by index. thresholds: (15,), descending. nibbles:
        (16, score_planes), of the level of each code, high first. weights: (rows, columns) per LOAD of tables. scale:
        (columns,) per RUN. bias: (columns,) per tile (DENSE: with `first`). blocks: nibbles (words, rows), in the order
        in which SCORES and DENSE read them. position: (queries, keys) per SCORES with bias=1. Raises ValueError where
        a set or a block does not fit a buffer, too many sets wait for their MIX, or none, sums go on that nobody
        began, or words are read that no block has.
        """
        array = geometry.array
        streams = {"weights": iter(weights), "scale": iter(scale), "bias": iter(bias)}
        commands = list(commands)
        codes = _codes_of(geometry, commands, blocks)
        positions = iter(position)
        waiting: deque[NDArray[np.uint8]] = deque()
        total: NDArray[np.int64] | None = None
        offset: NDArray[np.integer] = np.zeros(array.columns, np.int64)
        results: list[NDArray[np.int16]] = []
        for command in commands:
            queries, phase = command["queries"], command["phase"]
            tiles, groups, planes, runs = (command[name] for name in ("tiles", "groups", "planes", "runs"))
            _check_parts(command, 0 if total is None else len(total))
            _check_room(geometry, command, len(waiting))
            streamed: Iterator[NDArray[Any]]
            if phase == Phase.MIX:
                shape = {"rows": array.rows, "tiles": tiles, "planes": planes, "runs": runs}
                streamed = iter(CodeGather.model(waiting.popleft(), nibbles, **shape).reshape(-1, queries, array.rows))
            else:
                streamed = codes
            tables = [np.asarray(codebooks[index]) for index in run_codebooks(command)]
            words = []
            for _ in range(tiles):
                if command["first"]:
                    total, offset = None, next(streams["bias"])
                for _ in range(groups * planes):
                    for run in range(runs):
                        if run < len(tables):
                            loaded, levels = next(streams["weights"]), tables[run]
                        sums = Array.model(next(streamed), loaded, levels)
                        total, wide = GroupRescale.model(total, sums, next(streams["scale"]), offset)
                words.append(wide)
            if not command["last"]:
                continue
            total = None
            if phase != Phase.SCORES:
                results += words
                continue
            rows = ReorderBuffer.model(np.stack(words), command["keys"])
            waiting.append(Softmax.model(rows, thresholds, next(positions) if geometry.bias else None))
        return np.concatenate(results) if results else np.zeros((0, array.columns), np.int16)

    def elaborate(self, platform: Any) -> Elaboratable:
        """Two sequencers around the array, and the way from its results back to its codes."""
        m = Module()
        geometry, array = self.geometry, self.geometry.array
        m.submodules.loops = loops = AttentionSequencer(geometry)
        drain = MultiplyAccumulate.latency(array) + array.column_groups + BlockRam.LATENCY
        m.submodules.sequencer = sequencer = CommandSequencer(array, credits=OUTPUT_DEPTH, drain=drain)
        m.submodules.mac = mac = MultiplyAccumulate(array)
        m.submodules.fifo = results = OutputFifo(array, depth=OUTPUT_DEPTH)
        m.submodules.reorder = reorder = ReorderBuffer(geometry)
        m.submodules.softmax = softmax = Softmax(
            lanes=geometry.lanes, keys=geometry.keys, code_bits=CODE_BITS, bias=geometry.bias
        )
        m.submodules.gather = gather = CodeGather(geometry)
        m.submodules.reads = reads = CodeReads(geometry)
        m.submodules.buffer = buffer = CodeBuffer(
            rows=array.rows,
            code_beat_bits=geometry.code_beat_bits,
            block_words=geometry.block_words,
            token_depth=array.token_depth,
        )

        for own, inner in (
            (self.i_codebook, mac.i_codebook),
            (self.i_weights, mac.i_weights),
            (self.i_scale, mac.i_scale),
            (self.i_bias, mac.i_bias),
            (self.i_threshold, softmax.i_threshold),
            (self.i_level, gather.i_level),
            (self.i_block, buffer.i_block),
            (self.i_codes, buffer.i_codes),
        ):
            wiring.connect(m, wiring.flipped(own), inner)
        if geometry.bias:
            wiring.connect(m, wiring.flipped(self.i_position), softmax.i_bias)
        wiring.connect(m, loops.o_command, sequencer.i_command)
        wiring.connect(m, reorder.o, softmax.i_logits)
        wiring.connect(m, softmax.o, gather.i)
        wiring.connect(m, reads.o, buffer.i_read)

        m.d.comb += [
            # A LOAD of scales alone: the sequencer waits for them, the loader never hears of it.
            mac.i_load.payload.eq(sequencer.o_load.payload),
            mac.i_load.valid.eq(sequencer.o_load.valid & ~loops.o_keep),
            sequencer.o_load.ready.eq(mac.i_load.ready | loops.o_keep),
            sequencer.loader_busy.eq(mac.o_busy),
            sequencer.scale_valid.eq(self.i_scale.valid),
            sequencer.scale_taken.eq(self.i_scale.ready),
            sequencer.bias_valid.eq(self.i_bias.valid),
            sequencer.bias_taken.eq(self.i_bias.ready),
            mac.control.eq(sequencer.o_control),
            sequencer.output_taken.eq(results.o_taken),
            results.i_valid.eq(mac.o_valid),
            results.wide.eq(mac.wide),
            # Codes: streamed ones, or of P.
            mac.codes.eq(Mux(loops.o_mix, gather.o.payload.as_value(), buffer.o.payload.as_value())),
            sequencer.codes_valid.eq(Mux(loops.o_mix, gather.o.valid, buffer.o.valid)),
            buffer.o.ready.eq(sequencer.codes_ready & ~loops.o_mix),
            gather.o.ready.eq(sequencer.codes_ready & loops.o_mix),
        ]
        self._announce(m, loops, reorder, gather, reads)
        outward = self._way_of_result(m, sequencer, results, loops.o_outward)
        m.d.comb += [
            reorder.i.payload.eq(results.o.payload),
            self.o.payload.eq(results.o.payload),
            reorder.i.valid.eq(results.o.valid & ~outward),
            self.o.valid.eq(results.o.valid & outward),
            results.o.ready.eq(Mux(outward, self.o.ready, reorder.i.ready)),
            self.o_idle.eq(
                loops.o_idle & sequencer.o_quiet & results.o_empty & reorder.o_idle & softmax.o_idle & gather.o_idle
            ),
        ]
        return m

    def _announce(
        self, m: Module, loops: AttentionSequencer, reorder: ReorderBuffer, gather: CodeGather, reads: CodeReads
    ) -> None:
        """A command goes to the loops and, in the same cycle, to the buffers that it concerns."""
        command, mix, scores = self.i_command.payload, Signal(), Signal()
        shape, codes = reorder.i_shape.payload, gather.i_shape.payload
        m.submodules.rows = rows = fifo.SyncFIFO(width=len(codes), depth=SETS_AHEAD)
        ready = Mux(mix, gather.i_read.ready, reads.i.ready & (~scores | (reorder.i_shape.ready & rows.w_rdy)))
        taken = Signal()
        m.d.comb += [
            mix.eq(command.phase == Phase.MIX),
            scores.eq(command.phase == Phase.SCORES),
            self.i_command.ready.eq(loops.i_command.ready & ready),
            taken.eq(self.i_command.valid & self.i_command.ready),
            loops.i_command.payload.eq(command),
            loops.i_command.valid.eq(taken),
            reorder.i_shape.valid.eq(taken & scores),
            shape.queries.eq(command.queries),
            shape.keys.eq(command.keys),
            shape.tiles.eq(command.tiles),
            rows.w_en.eq(taken & scores),
            rows.w_data.eq(command.queries),
            codes.eq(rows.r_data),
            gather.i_shape.valid.eq(rows.r_rdy),
            rows.r_en.eq(gather.i_shape.ready),
            gather.i_read.valid.eq(taken & mix),
            reads.i.valid.eq(taken & ~mix),
        ]
        for port in (gather.i_read, reads.i):
            m.d.comb += [port.payload[name].eq(command[name]) for name in port.payload.shape().members]

    @staticmethod
    def _way_of_result(m: Module, sequencer: CommandSequencer, results: OutputFifo, outward: Signal) -> Any:
        """The oldest result leaves the unit: noted per result when its codes are accepted, as many as are credits."""
        m.submodules.ways = ways = memory.Memory(shape=1, depth=OUTPUT_DEPTH, init=[])
        write, read = ways.write_port(), ways.read_port(domain="comb")
        noted, taken = Signal(range(OUTPUT_DEPTH)), Signal(range(OUTPUT_DEPTH))
        promised = sequencer.o_control.valid & sequencer.o_control.last
        m.d.sync += [noted.eq(noted + promised), taken.eq(taken + results.o_taken)]
        m.d.comb += [write.en.eq(promised), write.addr.eq(noted), write.data.eq(outward), read.addr.eq(taken)]
        return read.data


def _codes_of(
    geometry: AttentionGeometry, commands: Iterable[Mapping[str, int]], blocks: Iterable[NDArray[np.integer]]
) -> Iterator[NDArray[np.integer]]:
    """Codes (queries, rows) of every RUN that streams from blocks."""

    def fitting() -> Iterator[NDArray[np.integer]]:
        for block in blocks:
            if len(block) > geometry.block_words:
                raise ValueError(f"a block has {len(block)} words, over block_words={geometry.block_words}")
            yield block

    streaming = (command for command in commands if command["phase"] != Phase.MIX)
    return CodeBuffer.model(fitting(), (read for command in streaming for read in CodeReads.model(command)))


def _check_parts(command: Mapping[str, int], summed: int) -> None:
    """Raise ValueError where a command does not go on with the `summed` queries of the one before it as it should."""
    whole = command["first"] and command["last"]
    if not whole and (command["phase"] != Phase.DENSE or command["tiles"] != 1):
        raise ValueError("only a DENSE of one tile may begin without first=1 or end without last=1")
    if (0 if command["first"] else command["queries"]) != summed:
        raise ValueError(f"{Phase(command['phase']).name} of {command['queries']} queries behind sums of {summed}")


def _check_room(geometry: AttentionGeometry, command: Mapping[str, int], waiting: int) -> None:
    """Raise ValueError where a command breaks the rules of the class."""
    queries, keys = command["queries"], command["keys"]
    if command["phase"] == Phase.MIX:
        if not waiting:
            raise ValueError("a MIX without SCORES before it has no codes to read")
        return
    if command["phase"] == Phase.DENSE:
        return
    if waiting == SETS_AHEAD:
        raise ValueError(f"more than {SETS_AHEAD} sets of SCORES wait for their MIX")
    for name, words, limit in (
        ("logit_words", queries * -(-keys // geometry.array.columns), geometry.logit_words),
        ("code_words", queries * -(-keys // geometry.array.rows), geometry.code_words),
    ):
        if words > limit:
            raise ValueError(f"{queries} queries of {keys} keys take {words} words, over {name}={limit}")

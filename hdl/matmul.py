"""The matrix multiplier: commands and operands in, rounded 16-bit results out."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from amaranth.hdl import Elaboratable, Module, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import ArrayLike, NDArray

from hdl.array.array import Array
from hdl.array.geometry import CODE_BITS, ArrayGeometry
from hdl.array.loader import codebook_word_layout, weights_layout
from hdl.array.sweep import EARLY
from hdl.ecp5.block_ram import BlockRam
from hdl.output_fifo import OutputFifo, check_depth
from hdl.pipeline import delay
from hdl.rescale import GroupRescale, control_layout
from hdl.sequencer import SHORTEST_RUN, CommandSequencer, Opcode, command_layout
from sim.contract.constants import BIAS_BITS, SCALE_BITS, WIDE_BITS
from sim.machine import sweep

OUTPUT_DEPTH = 32
"""Tokens in the output FIFO and on the way to it; enough for one token per cycle at every geometry."""


def load_cycles(geometry: ArrayGeometry, levels: ArrayLike) -> int:
    """Cycles from the transfer of a LOAD command to the next command's, operands never late.

    row_groups * sweep_steps(levels) + 3 - EARLY: 33 for the uniform codebook, 64 rows and loader_rows = 32.
    """
    return sweep.load_cycles(geometry.row_groups, levels)


def run_cycles(tokens: int) -> int:
    """Cycles from the transfer of a RUN command to the next command's, codes never late, output never full.

    max(tokens, SHORTEST_RUN) + 1.
    """
    return max(tokens, SHORTEST_RUN) + 1


def command_cycles(
    geometry: ArrayGeometry, commands: Sequence[Mapping[str, int]], codebooks: Mapping[int, ArrayLike]
) -> list[int]:
    """Of each command, by its fields of i_command: `load_cycles` or `run_cycles`, nobody stalling.

    A LOAD right behind a LOAD waits for its last step: that one takes EARLY - 2 cycles more.
    """
    cycles: list[int] = []
    for command, after in zip(commands, [*commands[1:], None], strict=True):
        if command["opcode"] == Opcode.RUN:
            cycles.append(run_cycles(command["tokens"]))
            continue
        again = after is not None and after["opcode"] == Opcode.LOAD
        cycles.append(load_cycles(geometry, codebooks[command.get("codebook", 0)]) + (EARLY - 2) * again)
    return cycles


class MultiplyAccumulate(wiring.Component):
    """Array and group rescale: everything that makes a multiply-accumulate, without commands and output FIFO.

    `control` and `codes` of cycle t belong together; `wide` and `o_valid` as in GroupRescale,
    `latency(geometry)` = log2(rows) + 12 cycles after them for column group 0 and j more for group j.
    """

    def __init__(self, geometry: ArrayGeometry) -> None:
        self._geometry = geometry
        columns = geometry.columns
        super().__init__(
            {
                "i_load": In(stream.Signature(range(geometry.codebooks))),
                "i_codebook": In(stream.Signature(codebook_word_layout(geometry))),
                "i_weights": In(stream.Signature(weights_layout(geometry))),
                "i_scale": In(stream.Signature(data.ArrayLayout(unsigned(SCALE_BITS), columns))),
                "i_bias": In(stream.Signature(data.ArrayLayout(signed(BIAS_BITS), columns))),
                "o_busy": Out(1),
                "control": In(control_layout(geometry)),
                "codes": In(data.ArrayLayout(unsigned(CODE_BITS), geometry.rows)),
                "o_valid": Out(1),
                "wide": Out(data.ArrayLayout(signed(WIDE_BITS), columns)),
            }
        )

    @staticmethod
    def latency(geometry: ArrayGeometry) -> int:
        """Cycles from codes to the wide results of column group 0."""
        return Array.latency(geometry) + GroupRescale.LATENCY

    def elaborate(self, platform: Any) -> Elaboratable:
        """The control waits for its sums in one delay line."""
        m = Module()
        geometry = self._geometry
        m.submodules.array = array = Array(geometry)
        m.submodules.rescale = rescale = GroupRescale(geometry)
        wiring.connect(m, wiring.flipped(self.i_load), array.i_load)
        wiring.connect(m, wiring.flipped(self.i_codebook), array.i_codebook)
        wiring.connect(m, wiring.flipped(self.i_weights), array.i_weights)
        wiring.connect(m, wiring.flipped(self.i_scale), rescale.i_scale)
        wiring.connect(m, wiring.flipped(self.i_bias), rescale.i_bias)
        m.d.comb += [
            self.o_busy.eq(array.o_busy),
            array.codes.eq(self.codes),
            rescale.sums.eq(array.sums),
            rescale.control.eq(delay(m, self.control, Array.latency(geometry), "control", reset_less=False)),
            self.o_valid.eq(rescale.o_valid),
            self.wide.eq(rescale.wide),
        ]
        return m


class Matmul(wiring.Component):
    """Quantized matrix products by LOAD and RUN commands, bit for bit sim.contract.linear.

    - `i_codebook` writes sweep programs (hdl.array.loader.sweep_program), always ready. A program must be
      complete before the LOAD that uses it is transferred and stay until that LOAD is done.
    - LOAD takes one transfer of `i_scale` (and of `i_bias` with load_bias) and rows / loader_rows transfers of
      `i_weights`, in any order between the streams, and fills the product tables with `codebook`.
    - RUN takes `tokens` transfers of `i_codes`; token k accumulates in word k of token memory, starting from the
      bias with `first` and from what is there without. With `last` one transfer of `o` per token follows. The
      accumulators are stored with `last` too.
    - `o_idle`: no command is active, the pipeline is empty and every result has been taken.

    Commands follow one another without draining the pipeline. Throughput: one token per cycle, rows * columns
    multiply-accumulates each. Cycles: `load_cycles`, `run_cycles`. Latency from a token's transfer on `i_codes`
    to its result on `o`: `latency` = log2(rows) + 12 + column_groups cycles.
    Output back-pressure: a RUN with `last` accepts a token only if the output FIFO has room for it, counted in
    credits; results under way never wait.

    `i_weights`, `i_scale` and `i_bias` answer a valid seen earlier: payload and valid must stay until ready.
    """

    def __init__(self, geometry: ArrayGeometry, *, output_depth: int = OUTPUT_DEPTH) -> None:
        self.geometry = geometry
        self._output_depth = check_depth(output_depth)
        self.latency = MultiplyAccumulate.latency(geometry) + geometry.column_groups
        columns = geometry.columns
        super().__init__(
            {
                "i_command": In(stream.Signature(command_layout(geometry))),
                "i_codebook": In(stream.Signature(codebook_word_layout(geometry))),
                "i_weights": In(stream.Signature(weights_layout(geometry))),
                "i_scale": In(stream.Signature(data.ArrayLayout(unsigned(SCALE_BITS), columns))),
                "i_bias": In(stream.Signature(data.ArrayLayout(signed(BIAS_BITS), columns))),
                "i_codes": In(stream.Signature(data.ArrayLayout(unsigned(CODE_BITS), geometry.rows))),
                "o": Out(stream.Signature(data.ArrayLayout(signed(WIDE_BITS), columns))),
                "o_idle": Out(1),
            }
        )

    @staticmethod
    def model(
        geometry: ArrayGeometry,
        commands: Sequence[Mapping[str, int]],
        *,
        codebooks: Mapping[int, ArrayLike],
        weights: Iterable[NDArray[np.integer]],
        scale: Iterable[NDArray[np.integer]],
        bias: Iterable[NDArray[np.integer]],
        codes: Iterable[NDArray[np.integer]],
    ) -> tuple[NDArray[np.int16], int]:
        """What the commands give: (results int16 (transfers, columns) in order, cycles when nobody stalls).

        commands: fields of i_command by name, missing ones 0. codebooks: 16 levels by index. weights: one
        (rows, columns) per LOAD. scale, bias: one (columns,) per LOAD (with load_bias). codes: one (tokens, rows)
        per RUN. Cycles count from the first command's transfer until the next command's would be possible.
        Raises ValueError when a RUN without `first` reads a token that was never accumulated.
        """
        operands = {"weights": iter(weights), "scale": iter(scale), "bias": iter(bias), "codes": iter(codes)}
        columns = geometry.columns
        memory: dict[int, NDArray[np.int64]] = {}
        levels = loaded = factors = None
        offsets: NDArray[np.integer] = np.zeros(columns, np.int64)
        results: list[NDArray[np.int16]] = []
        for command in commands:
            if command["opcode"] == Opcode.LOAD:
                levels = np.asarray(codebooks[command.get("codebook", 0)])
                loaded, factors = next(operands["weights"]), next(operands["scale"])
                if command.get("load_bias", 0):
                    offsets = next(operands["bias"])
                continue
            tokens = command["tokens"]
            if tokens == 0:
                continue
            if levels is None or loaded is None or factors is None:
                raise ValueError("a RUN before any LOAD has no defined result")
            previous = None
            if not command.get("first", 0):
                if not set(range(tokens)) <= memory.keys():
                    raise ValueError("a RUN without `first` continues tokens that were never accumulated")
                previous = np.stack([memory[token] for token in range(tokens)])
            sums = Array.model(next(operands["codes"]), loaded, levels)
            total, wide = GroupRescale.model(previous, sums, factors, offsets)
            memory.update(enumerate(total))
            if command.get("last", 0):
                results.append(wide)
        wide = np.concatenate(results) if results else np.zeros((0, columns), np.int16)
        return wide, sum(command_cycles(geometry, commands, codebooks))

    def elaborate(self, platform: Any) -> Elaboratable:
        """Sequencer, multiply-accumulate, output FIFO."""
        m = Module()
        geometry = self.geometry
        m.submodules.mac = mac = MultiplyAccumulate(geometry)
        m.submodules.fifo = fifo = OutputFifo(geometry, depth=self._output_depth)
        # Long enough for the last code or scale to reach the FIFO, and for the last table write.
        drain = self.latency + BlockRam.LATENCY
        m.submodules.sequencer = sequencer = CommandSequencer(geometry, credits=self._output_depth, drain=drain)
        wiring.connect(m, wiring.flipped(self.i_command), sequencer.i_command)
        wiring.connect(m, sequencer.o_load, mac.i_load)
        wiring.connect(m, wiring.flipped(self.i_codebook), mac.i_codebook)
        wiring.connect(m, wiring.flipped(self.i_weights), mac.i_weights)
        wiring.connect(m, wiring.flipped(self.i_scale), mac.i_scale)
        wiring.connect(m, wiring.flipped(self.i_bias), mac.i_bias)
        wiring.connect(m, fifo.o, wiring.flipped(self.o))
        m.d.comb += [
            sequencer.loader_busy.eq(mac.o_busy),
            sequencer.scale_valid.eq(self.i_scale.valid),
            sequencer.scale_taken.eq(self.i_scale.ready),
            sequencer.bias_valid.eq(self.i_bias.valid),
            sequencer.bias_taken.eq(self.i_bias.ready),
            sequencer.codes_valid.eq(self.i_codes.valid),
            self.i_codes.ready.eq(sequencer.codes_ready),
            mac.codes.eq(self.i_codes.payload),
            mac.control.eq(sequencer.o_control),
            sequencer.output_taken.eq(fifo.o_taken),
            fifo.i_valid.eq(mac.o_valid),
            fifo.wide.eq(mac.wide),
            self.o_idle.eq(sequencer.o_quiet & fifo.o_empty),
        ]
        return m

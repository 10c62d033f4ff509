"""Plays one list of commands into a simulated Matmul and compares it with the model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from amaranth.sim import Simulator
from numpy.typing import NDArray

from hdl.array.geometry import ArrayGeometry
from hdl.array.loader import sweep_program
from hdl.array.sweep import STEPS_PER_CODEBOOK
from hdl.matmul import Matmul
from hdl.sequencer import Opcode
from tests.hdl.streams import PATIENCE, receive, send

NOTHING = {"opcode": Opcode.RUN, "tokens": 0}
"""A command without effect, whose transfer shows when the one before it was done."""


@dataclass
class Program:
    """Commands and the operands they consume, as Matmul.model takes them."""

    codebooks: dict[int, NDArray[np.int64]]
    commands: list[dict[str, int]] = field(default_factory=list)
    weights: list[NDArray[np.int64]] = field(default_factory=list)
    scale: list[NDArray[np.int64]] = field(default_factory=list)
    bias: list[NDArray[np.int64]] = field(default_factory=list)
    codes: list[NDArray[np.int64]] = field(default_factory=list)

    def load(
        self, geometry: ArrayGeometry, rng: np.random.Generator, *, codebook: int, bias: bool, scale_bits: int = 16
    ) -> None:
        """Append a LOAD of random weights, scales and (with `bias`) biases."""
        self.commands.append({"opcode": Opcode.LOAD, "codebook": codebook, "load_bias": int(bias)})
        self.weights.append(rng.integers(-8, 8, (geometry.rows, geometry.columns)))
        self.scale.append(rng.integers(0, 1 << scale_bits, geometry.columns))
        if bias:
            self.bias.append(rng.integers(-(1 << 24), 1 << 24, geometry.columns))

    def run(
        self, geometry: ArrayGeometry, rng: np.random.Generator, tokens: int, *, first: bool = True, last: bool = True
    ) -> None:
        """Append a RUN of random codes."""
        self.commands.append({"opcode": Opcode.RUN, "tokens": tokens, "first": int(first), "last": int(last)})
        if tokens:
            self.codes.append(rng.integers(0, 16, (tokens, geometry.rows)))


@dataclass
class Outcome:
    """Results int (transfers, columns) and the model's; cycles from each command's transfer to the next one's."""

    results: NDArray[np.int64]
    expected: NDArray[np.int64]
    cycles: list[int]


def play(
    dut: Matmul,
    program: Program,
    *,
    seed: int = 0,
    gaps: Mapping[str, float] | None = None,
    stall: float = 0.0,
    hold: int = 0,
) -> Outcome:
    """Simulate `program`; `gaps` delays single streams, `stall` and `hold` the output."""
    geometry = dut.geometry
    gap = dict(gaps or {})
    expected, _ = dut.model(
        geometry,
        program.commands,
        codebooks=program.codebooks,
        weights=program.weights,
        scale=program.scale,
        bias=program.bias,
        codes=program.codes,
    )
    lane_rows = geometry.loader_rows
    operands: dict[str, list[Any]] = {
        "i_weights": [
            tile[start : start + lane_rows].tolist()
            for tile in program.weights
            for start in range(0, geometry.rows, lane_rows)
        ],
        "i_scale": [values.tolist() for values in program.scale],
        "i_bias": [values.tolist() for values in program.bias],
        "i_codes": [token for block in program.codes for token in block.tolist()],
    }
    words = [
        {"address": index * STEPS_PER_CODEBOOK + number, "step": step}
        for index, levels in program.codebooks.items()
        for number, step in enumerate(sweep_program(levels))
    ]
    results: list[list[int]] = []
    transfers: list[int] = []
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)

    async def note_commands(ctx: Any) -> None:
        cycle = 0
        watched = (dut.i_command.valid, dut.i_command.ready, dut.o.valid, dut.o_idle)
        async for _, _, valid, ready, waiting, idle in ctx.tick().sample(*watched):
            cycle += 1
            assert not (waiting and idle), "idle was announced while a result waits"
            if valid and ready:
                transfers.append(cycle)

    def feeder(name: str) -> Any:
        async def feed(ctx: Any) -> None:
            rng = np.random.default_rng([seed, len(name)])
            await send(ctx, getattr(dut, name), operands[name], rng=rng, gap=gap.get(name, 0.0))

        return feed

    async def command(ctx: Any) -> None:
        rng = np.random.default_rng([seed, 100])
        await send(ctx, dut.i_codebook, words, rng=rng, gap=gap.get("i_codebook", 0.0))
        await send(ctx, dut.i_command, [*program.commands, NOTHING], rng=rng, gap=gap.get("i_command", 0.0))

    async def collect(ctx: Any) -> None:
        rng = np.random.default_rng([seed, 200])
        taken = await receive(ctx, dut.o, len(expected), rng=rng, stall=stall, hold=hold)
        results.extend([list(token) for token in taken])
        for _ in range(PATIENCE):
            if ctx.get(dut.o_idle) and len(transfers) > len(program.commands):
                break
            await ctx.tick()
        for _ in range(2 * dut.latency):
            assert not ctx.get(dut.o.valid), "a result too many"
            assert ctx.get(dut.o_idle), "idle was announced too early"
            await ctx.tick()

    for name in operands:
        simulator.add_testbench(feeder(name), background=True)
    simulator.add_testbench(command, background=True)
    simulator.add_process(note_commands)
    simulator.add_testbench(collect)
    simulator.run()
    return Outcome(
        np.array(results, np.int64).reshape(-1, geometry.columns),
        expected.astype(np.int64),
        np.diff(transfers).tolist(),
    )

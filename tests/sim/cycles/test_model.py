# amaranth: UnusedElaboratable=no

"""The model against cycles that the simulated hardware took, and against its own roofs."""

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hdl.layer_norm.layer_norm import LayerNormUnit
from hdl.machine.machine import NORM_BUFFERS, attention_geometry
from hdl.matmul import OUTPUT_DEPTH, MultiplyAccumulate, load_cycles
from hdl.memory.near import NearMemory
from sim.compiler.compile import Program, compile_encoder
from sim.contract.errors import UserError
from sim.cycles import delays
from sim.cycles.delays import Delays
from sim.cycles.memory import memory_rate, with_source
from sim.cycles.model import LayerCycles, program_cycles, rolled_out
from sim.cycles.timeline import Timeline
from sim.machine.commands import COMMAND_BYTES, Command, Opcode
from sim.machine.ports import Port
from sim.machine.presets import PRESETS
from tests.sim.compiler import networks
from tests.sim.cycles.measured import TOY_SAM_VIT, TOY_TINY_VIT

MEASURED = {"toy_tiny_vit": TOY_TINY_VIT, "toy_sam_vit": TOY_SAM_VIT}
TINY = PRESETS["tiny"]
ON_CHIP = memory_rate("onchip", TINY)
SHORT_LAYER = 3000
"""Cycles below which a few dozen, of the beginning and the end, weigh more than 3 %."""


@pytest.fixture(scope="module", params=MEASURED)
def compiled(request: pytest.FixtureRequest) -> tuple[str, Program]:
    """The programs whose cycles were measured."""
    toy = getattr(networks, request.param)()
    return request.param, compile_encoder(toy.parameters, toy.architecture, TINY)


def test_within_a_few_percent_of_the_hardware(compiled: tuple[str, Program]) -> None:
    name, program = compiled
    layers = program_cycles(program, ON_CHIP)
    measured = MEASURED[name]
    assert [layer.names[-1] for layer in layers] == list(measured)
    for layer in layers:
        found = measured[layer.names[-1]]
        allowed = max(0.04 * found, 0.03 * SHORT_LAYER)
        assert abs(layer.cycles - found) <= allowed, f"{layer.names[-1]}: {layer.cycles}, measured {found}"
    total = sum(layer.cycles for layer in layers)
    assert total == pytest.approx(sum(measured.values()), rel=0.01)


def test_roofs(compiled: tuple[str, Program]) -> None:
    _, program = compiled
    slow = program_cycles(program, memory_rate("sdram", TINY))
    for layer, with_sdram in zip(program_cycles(program, ON_CHIP), slow, strict=True):
        assert layer.cycles >= layer.roof == max(layer.mac_roof, layer.memory_roof, layer.near_roof)
        assert with_sdram.cycles > layer.cycles
        assert with_sdram.cycles >= with_sdram.memory_roof
        assert layer.macs == layer.mac_roof * TINY.rows * TINY.columns
        assert layer.passes or layer.kind not in ("QuantizedLayer", "Attention")


NEAR = TINY.memory_bytes


def one_move(read: Command, write: Command) -> int:
    timeline = Timeline(TINY, ON_CHIP, np.zeros(0, np.uint8))
    timeline.do(write)
    timeline.do(read)
    timeline.do(Command(Opcode.WAIT))
    timeline.do(Command(Opcode.STOP))
    return round(timeline.end())


@pytest.mark.parametrize(
    ("port", "out", "share", "per_beat"),
    [
        (Port.COPY, Port.COPIED, 1.0, 2.0),
        (Port.RESIDUAL_VALUES, Port.SUMS, 0.5, 1.5),
        (Port.ACTIVATION_VALUES, Port.ACTIVATED, 1.0, 2.0),
    ],
)
@pytest.mark.parametrize("near", ["", "read", "written", "both"])
def test_reads_and_their_writes_share_the_port(port: Port, out: Port, share: float, per_beat: float, near: str) -> None:
    source, target = (NEAR if near in (one, "both") else 0 for one in ("read", "written"))
    short, long = (
        one_move(
            Command(Opcode.READ, port, source, counts=(beats, 1, 1, 1)),
            Command(Opcode.WRITE, out, target, counts=(int(beats * share), 1, 1, 1)),
        )
        for beats in (200, 1200)
    )
    # Near memory has ports of its own, one each way.
    assert long - short == 1000 * (1.0 if near else per_beat)


@pytest.mark.parametrize(("mb_s", "cycles"), [(TINY.beat_bytes * TINY.clock_mhz / 3, 3.0), (1e6, 1.0)])
def test_a_source_of_the_image_has_a_port_of_its_own(mb_s: float, cycles: float) -> None:
    """A copy from the image takes its beats from the source, and the port to external memory for what is written; a
    request per cycle goes to either."""
    memory = with_source(memory_rate("onchip", TINY), TINY, mb_s)

    def copied(source: int, beats: int) -> float:
        timeline = Timeline(TINY, memory, np.zeros(1 << 15, np.uint8))
        timeline.do(Command(Opcode.WRITE, Port.COPIED, 1 << 16, counts=(beats, 1, 1, 1)))
        timeline.do(Command(Opcode.READ, Port.COPY, source, counts=(beats, 1, 1, 1)))
        timeline.do(Command(Opcode.WAIT))
        timeline.do(Command(Opcode.STOP))
        return timeline.end()

    assert copied(0, 1200) - copied(0, 200) == pytest.approx(1000 * max(cycles, 2))
    assert copied(1 << 15, 1200) - copied(1 << 15, 200) == pytest.approx(2000)


def test_what_a_source_takes_off_external_memory(compiled: tuple[str, Program]) -> None:
    _, program = compiled
    sdram = memory_rate("sdram", TINY)
    alone = program_cycles(program, sdram)
    fast, slow = (program_cycles(program, with_source(sdram, TINY, mb_s)) for mb_s in (1000, 1))
    for layer, helped, starved in zip(alone, fast, slow, strict=True):
        assert layer.source_roof == 0 < helped.source_roof <= helped.cycles
        assert helped.memory_roof < layer.memory_roof
        assert helped.cycles <= layer.cycles
        assert starved.bound == "source" or not layer.passes
        assert starved.cycles >= starved.source_roof
        assert 0 <= layer.bytes_constants <= layer.bytes_read
    assert sum(layer.bytes_constants for layer in alone) > 0.3 * len(program.image)


def test_a_write_that_nothing_feeds_does_not_end_with_another_port() -> None:
    timeline = Timeline(TINY, ON_CHIP, np.zeros(0, np.uint8))
    timeline.do(Command(Opcode.WRITE, Port.COPIED, counts=(8, 1, 1, 1)))
    timeline.do(Command(Opcode.WRITE, Port.SUMS, counts=(4, 1, 1, 1)))
    timeline.do(Command(Opcode.READ, Port.RESIDUAL_VALUES, counts=(8, 1, 1, 1)))
    timeline.do(Command(Opcode.READ, Port.COPY, counts=(800, 1, 1, 1)))
    timeline.do(Command(Opcode.WAIT))
    assert timeline.end() > 1600


def test_rounds_move_the_addresses() -> None:
    body = [Command(Opcode.READ, Port.COPY, 64, base=2), Command(Opcode.WAIT)]
    repeat = Command(Opcode.REPEAT, address=COMMAND_BYTES, rounds=3, steps=(0, 32, 0, 0, 0))
    commands = [Command(Opcode.WAIT), *body, repeat, replace(body[0], address=0)]
    done = list(rolled_out(commands, 0, len(commands)))
    assert [command.address for command, _ in done if command.opcode == Opcode.READ] == [64, 96, 128, 0]
    assert [again for command, again in done if command.opcode == Opcode.REPEAT] == [True, True, False]


@pytest.mark.parametrize("name", PRESETS)
def test_delays_are_those_of_the_hardware(name: str) -> None:
    preset = PRESETS[name]
    mine, array = Delays(preset), attention_geometry(preset).array
    norm = LayerNormUnit(lanes=preset.norm_lanes, depth=preset.norm_channels, buffers=NORM_BUFFERS, permuted=0)
    assert (mine.norm_turnaround, delays.NORM_RELEASE) == (norm.turnaround, norm.release)
    assert abs(delays.NORM_PIPELINE - norm.pipeline) <= 1
    assert delays.NORM_BUFFERS == NORM_BUFFERS
    assert mine.result == MultiplyAccumulate.latency(array) + array.column_groups
    assert (
        mine.near == NearMemory(beats=preset.near_bytes // preset.beat_bytes, beat_bits=8 * preset.beat_bytes).latency
    )
    assert delays.RESULTS_DEPTH == OUTPUT_DEPTH
    assert mine.row_groups * 17 + 1 + delays.LOAD_EXTRA == load_cycles(array, np.arange(-8, 8))


def test_memory_that_does_not_exist() -> None:
    with pytest.raises(UserError, match="choose onchip or sdram"):
        memory_rate("core", TINY)


def test_bound_is_the_higher_roof() -> None:
    layer = LayerCycles(("a",), "Residual", 9, 0, 0, 5, 7, 6, 0, 0, 0, 0, 0, 4, 0, 0, 3, {})
    assert (layer.bound, layer.roof) == ("memory", 7)
    assert replace(layer, mac_roof=8).bound == "array"
    assert replace(layer, near_roof=8).bound == "near"
    assert replace(layer, source_roof=8).bound == "source"
    assert (layer.lower_bound, layer.ratio) == (5, 1.8)
    assert replace(layer, traffic_bound=6).ratio == 1.5


def test_no_figure_needs_a_picture() -> None:
    """The model reads no result of the simulation: neither the executor nor the bench."""
    folder = Path(__file__).resolve().parents[3] / "sim" / "cycles"
    for file in folder.glob("*.py"):
        modules = [
            node.module or "" for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)
        ]
        assert not [module for module in modules if module.startswith(("sim.executor", "sim.bench"))]

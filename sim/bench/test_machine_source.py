"""A program whose image comes from a port of its own: the same memory in the end, and the port's bandwidth shows."""

from dataclasses import replace

import numpy as np
import pytest

from sim.bench.machine_bench import ImageSourceModel, MachineRun, run_program
from sim.bench.machine_layers import run_layers
from sim.bench.test_machine_probes import DENSE, MINI, NORM
from sim.compiler.compile import compile_encoder
from sim.compiler.traffic import traffic
from sim.contract.errors import UserError
from sim.machine.commands import COMMAND_BYTES, Command, Opcode
from sim.machine.faults import Fault
from sim.machine.ports import Port
from sim.machine.presets import MachinePreset
from tests.sim.compiler.networks import toy_sam_vit

WIDER = replace(MINI, lanes=4)
"""With the narrowest beats that an SDRAM may have."""

WHOLE = MINI.beat_bytes * MINI.clock_mhz
"""MB a second of a beat per cycle."""


@pytest.mark.parametrize(("preset", "sdram"), [(MINI, False), (WIDER, True)], ids=["pins", "sdram"])
def test_layers_are_the_executors(preset: MachinePreset, sdram: bool) -> None:
    """What is below the first writable address comes from the source, and memory begins behind it."""
    toy = toy_sam_vit()
    program = compile_encoder(toy.parameters, toy.architecture, preset)
    source = ImageSourceModel(preset.beat_bytes * preset.clock_mhz)
    for _, run in run_layers(program, toy.picture, [NORM, DENSE], sdram=sdram, source=source):
        work = traffic(program.commands, run.layer.commands, preset, program.writable)
        assert run.differing_bytes == 0
        assert run.reads == work.beats_read - work.beats_constants > 0
        commands = work.run_commands * COMMAND_BYTES // preset.beat_bytes
        assert run.source_reads >= work.beats_constants + commands > 0
        assert run.writes == work.beats_written


def copied(source: ImageSourceModel, beats: int = 1024) -> MachineRun:
    """A copy from the image to memory."""
    end = 4096 + beats * MINI.beat_bytes
    commands = [
        Command(Opcode.WRITE, Port.COPIED, end, (beats, 1, 1, 1)),
        Command(Opcode.READ, Port.COPY, 4096, (beats, 1, 1, 1)),
        Command(Opcode.WAIT),
        Command(Opcode.STOP),
    ]
    data = np.random.default_rng(3).integers(256, size=beats * MINI.beat_bytes, dtype=np.uint8).tobytes()
    image = b"".join(command.encode() for command in commands).ljust(4096, b"\0") + data
    run = run_program(MINI, image, end, 100_000, source=source)
    assert (run.done, run.fault) == (True, Fault.NONE)
    assert run.memory == (image + data).ljust(MINI.memory_bytes, b"\0")
    assert (run.reads, run.writes) == (0, beats)
    assert 0 <= run.source_reads - beats - len(commands) * COMMAND_BYTES // MINI.beat_bytes < 64
    return run


@pytest.mark.parametrize("cycles", [1, 3, 7.5])
def test_bandwidth(cycles: float) -> None:
    """A copied beat is two requests of the machine, which makes one per cycle."""
    long, short = (copied(ImageSourceModel(WHOLE / cycles), beats).cycles for beats in (1024, 512))
    assert long - short == pytest.approx(512 * max(cycles, 2), abs=8)


def test_latency() -> None:
    """Sixteen beats may be under way at once."""
    near, far = (copied(ImageSourceModel(WHOLE, latency)).cycles for latency in (2, 64))
    assert near < 1.1 * 2 * 1024
    assert 1024 / 16 * 64 < far < 1024 / 16 * 72


@pytest.mark.parametrize("mb_s", [0.0, 1e-6])
def test_too_slow_to_simulate(mb_s: float) -> None:
    with pytest.raises(UserError, match=r"a source of \S+ MB a second is too slow to simulate; give \S+ or more"):
        copied(ImageSourceModel(mb_s))

"""Near memory: behind external memory, beat by beat."""

import numpy as np
import pytest

from sim.executor import Executor, MachineError
from sim.machine.commands import Command, Opcode
from sim.machine.faults import Fault
from sim.machine.ports import Port
from sim.machine.presets import PRESETS
from tests.sim.executor.assembler import Assembler

TINY = PRESETS["tiny"]
NEAR, BEAT = TINY.memory_bytes, TINY.beat_bytes


def test_there_and_back_with_other_strides() -> None:
    a = Assembler()
    values = np.random.default_rng(1).integers(0, 256, (6, BEAT)).astype(np.uint8)
    place = a.room(11 * BEAT)
    a.move_out(Port.COPIED, NEAR + 5 * BEAT, counts=(1, 6, 1, 1), strides=(2 * BEAT, 0, 0))
    a.read(Port.COPY, values)
    a.wait()
    a.move_out(Port.COPIED, place, counts=(11, 1, 1, 1))
    a.move_in(Port.COPY, NEAR + 5 * BEAT, counts=(11, 1, 1, 1))
    a.wait()
    a.run()
    found = a.get(place, (11, BEAT), "u1")
    assert np.array_equal(found[::2], values)
    assert not found[1::2].any()


def test_loops_across_the_end_of_external_memory() -> None:
    a = Assembler()
    values = np.random.default_rng(2).integers(1, 256, (4, BEAT)).astype(np.uint8)
    place = a.room(values.size)
    loops = {"counts": (2, 2, 1, 1), "strides": (3 * BEAT, 0, 0)}
    a.move_out(Port.COPIED, NEAR - BEAT, **loops)
    a.read(Port.COPY, values)
    a.wait()
    a.move_out(Port.COPIED, place, counts=(4, 1, 1, 1))
    a.move_in(Port.COPY, NEAR + 2 * BEAT, counts=(2, 2, 1, 1), strides=(-3 * BEAT, 0, 0))
    a.wait()
    executor = a.executor()
    executor.run()
    assert np.array_equal(a.get(NEAR - BEAT, (BEAT,), "u1"), values[0])
    near = executor.near.reshape(-1, BEAT)
    assert np.array_equal(near[[0, 2, 3]], values[1:])
    assert np.array_equal(a.get(place, (4, BEAT), "u1"), values[[2, 3, 0, 1]])


def test_the_last_beat_may_be_written_whatever_writable_says() -> None:
    a = Assembler()
    a.move_out(Port.COPIED, NEAR + TINY.near_bytes - BEAT)
    a.read(Port.COPY, np.full(BEAT, 7, np.uint8))
    a.wait()
    a.executor()
    executor = Executor(TINY, a.memory, TINY.memory_bytes)
    executor.run()
    assert (executor.near[-BEAT:] == 7).all() and not executor.near[:-BEAT].any()


@pytest.mark.parametrize("opcode", [Opcode.READ, Opcode.WRITE])
def test_nothing_is_behind_near_memory(opcode: Opcode) -> None:
    a = Assembler()
    port = Port.COPY if opcode == Opcode.READ else Port.COPIED
    a.commands.append(Command(opcode, port, NEAR + TINY.near_bytes - BEAT, (2, 1, 1, 1)))
    with pytest.raises(MachineError, match="with the near") as caught:
        a.run()
    assert caught.value.fault == Fault.RANGE


def test_a_read_before_the_wait() -> None:
    a = Assembler()
    a.move_out(Port.COPIED, NEAR, counts=(2, 1, 1, 1))
    a.read(Port.COPY, np.zeros(2 * BEAT, np.uint8))
    a.move_in(Port.COPY, NEAR - BEAT, counts=(2, 1, 1, 1))
    with pytest.raises(MachineError, match="since the last WAIT") as caught:
        a.run()
    assert caught.value.fault is None


def test_commands_are_in_external_memory_alone() -> None:
    with pytest.raises(MachineError, match="runs out of memory") as caught:
        Assembler().executor().run(NEAR)
    assert (caught.value.fault, caught.value.where) == (Fault.RANGE, NEAR)


def test_memory_of_another_size() -> None:
    with pytest.raises(ValueError, match="memory of preset tiny has 8388608 bytes, found 16"):
        Executor(TINY, np.zeros(16, np.uint8), 0)

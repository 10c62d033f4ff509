"""What stops a program: every fault that the hardware shows, and what it would not notice."""

from collections.abc import Callable

import numpy as np
import pytest

from sim.contract.codebook import affine_codebook
from sim.executor import MachineError
from sim.machine.commands import COMMAND_BYTES, Command, Opcode
from sim.machine.faults import Fault
from sim.machine.ports import Port
from sim.machine.settings import Phase
from tests.sim.executor.assembler import PROGRAM_BYTES, Assembler

HIGH = PROGRAM_BYTES
MOVE = {"counts": (2, 1, 1, 1)}


def stopped(a: Assembler) -> MachineError:
    with pytest.raises(MachineError) as caught:
        a.executor().run()
    return caught.value


def single(*commands: Command) -> MachineError:
    a = Assembler()
    a.commands += commands
    return stopped(a)


@pytest.mark.parametrize(
    ("fault", "command"),
    [
        (Fault.PORT, Command(Opcode.READ, Port.RESULTS, HIGH)),
        (Fault.PORT, Command(Opcode.WRITE, Port.CODES, HIGH)),
        (Fault.PORT, Command(Opcode.SEND, Port.WEIGHTS, payload=b"1")),
        (Fault.ALIGNMENT, Command(Opcode.READ, Port.COPY, HIGH + 8)),
        (Fault.ALIGNMENT, Command(Opcode.READ, Port.COPY, HIGH, (1, 2, 1, 1), (24, 0, 0))),
        (Fault.RANGE, Command(Opcode.READ, Port.COPY, (1 << 23) + (1 << 14) - 16, (2, 1, 1, 1))),
        (Fault.RANGE, Command(Opcode.WRITE, Port.COPIED, HIGH, (1, 1, 2, 1), (0, -HIGH - 16, 0))),
        (Fault.PROTECTED, Command(Opcode.WRITE, Port.COPIED, HIGH - 16)),
        (Fault.PROTECTED, Command(Opcode.WRITE, Port.COPIED, HIGH, (1, 1, 2, 1), (0, -16, 0))),
        (Fault.FIELD, Command(Opcode.REPEAT, address=1 << 10, rounds=2)),
    ],
)
def test_a_command_that_the_hardware_refuses(fault: Fault, command: Command) -> None:
    error = single(Command(Opcode.WAIT), command)
    assert (error.fault, error.where) == (fault, COMMAND_BYTES)
    assert f"{COMMAND_BYTES:#x}" in str(error)
    assert f"error {fault.value} ({fault.name})" in str(error)


@pytest.mark.parametrize(("word", "fault"), [(b"\0", Fault.OPCODE), (b"\x63", Fault.OPCODE), (b"\1\x63", Fault.PORT)])
def test_words_that_are_no_commands(word: bytes, fault: Fault) -> None:
    a = Assembler()
    executor = a.executor()
    a.memory[: len(word)] = np.frombuffer(word, np.uint8)
    with pytest.raises(MachineError) as caught:
        executor.run()
    assert (caught.value.fault, caught.value.where) == (fault, 0)


def test_a_program_without_an_end() -> None:
    a = Assembler()
    a.wait()
    executor = a.executor()
    a.memory[:] = np.tile(a.memory[:COMMAND_BYTES], a.memory.size // COMMAND_BYTES)
    with pytest.raises(MachineError) as caught:
        executor.run(a.memory.size - 2 * COMMAND_BYTES)
    assert (caught.value.fault, caught.value.where) == (Fault.RANGE, a.memory.size)


def dense(a: Assembler, *, first: int = 1) -> None:
    """Codebook and command of a DENSE with results of two tokens, words 1 and 3 of a block."""
    a.codebooks(affine_codebook())
    a.write(Port.RESULTS, 32)
    a.array(Phase.DENSE, queries=2, first=first, word=1, pitch=2, release=1)


def operands(a: Assembler, *ports: Port) -> None:
    for port in ports:
        if port == Port.CODE_BLOCK:
            a.send(port, 4)
        else:
            size = {Port.SCALE: 16, Port.BIAS: 32, Port.WEIGHTS: 128, Port.CODES: 4 * 16}[port]
            a.read(port, np.zeros(size, np.uint8))


def write_lacks_beats(a: Assembler) -> None:
    a.write(Port.COPIED, 32)
    a.read(Port.COPY, np.zeros(16, np.uint8))
    a.wait()


def nobody_writes(a: Assembler) -> None:
    a.read(Port.COPY, np.zeros(16, np.uint8))


def another_port_is_written_first(a: Assembler) -> None:
    a.write(Port.SUMS, 16)
    a.write(Port.COPIED, 16)
    a.read(Port.COPY, np.zeros(16, np.uint8))


def operands_out_of_order(a: Assembler) -> None:
    dense(a)
    operands(a, Port.SCALE, Port.WEIGHTS)


def operands_without_a_command(a: Assembler) -> None:
    dense(a)
    operands(a, Port.SCALE, Port.BIAS, Port.WEIGHTS, Port.CODE_BLOCK, Port.CODES, Port.SCALE)


def command_before_operands(a: Assembler) -> None:
    dense(a)
    dense(a)


def mix_without_scores(a: Assembler) -> None:
    a.codebooks(affine_codebook())
    a.array(Phase.MIX, keys=8)


def values_without_a_norm(a: Assembler) -> None:
    a.read(Port.NORM_VALUES, np.zeros(16, np.uint8))


def pixels_without_channels(a: Assembler) -> None:
    a.send(Port.DEPTHWISE_MAP, 3, 3, 0, 0)
    a.read(Port.DEPTHWISE_VALUES, np.zeros(16, np.uint8))


def position_twice(a: Assembler) -> None:
    a.send(Port.POSITION_COMMAND, 0, 2, 2, 0, 1)
    a.send(Port.POSITION_COMMAND, 0, 2, 2, 0, 1)


def position_before_scores(a: Assembler) -> None:
    a.send(Port.POSITION_COMMAND, 2, 2, 2, 0, 2)
    a.read(Port.POSITION_VALUES, np.zeros(32, np.uint8))


@pytest.mark.parametrize(
    "program",
    [
        position_before_scores,
        write_lacks_beats,
        nobody_writes,
        another_port_is_written_first,
        operands_out_of_order,
        operands_without_a_command,
        command_before_operands,
        mix_without_scores,
        values_without_a_norm,
        pixels_without_channels,
        position_twice,
    ],
)
def test_where_the_hardware_would_wait_for_ever(program: Callable[[Assembler], None]) -> None:
    a = Assembler()
    program(a)
    error = stopped(a)
    assert (error.fault, error.where) == (Fault.WATCHDOG, COMMAND_BYTES * (len(a.commands) - 1)), error


def tokens_that_never_began(a: Assembler) -> None:
    dense(a, first=0)
    operands(a, Port.SCALE, Port.WEIGHTS, Port.CODE_BLOCK, Port.CODES)


def read_without_a_wait(a: Assembler) -> None:
    place = a.write(Port.COPIED, 32)
    a.read(Port.COPY, np.zeros(32, np.uint8))
    a.move_in(Port.COPY, place + 16)


def beats_of_half_a_payload(a: Assembler) -> None:
    a.read(Port.BIAS, np.zeros(16, np.uint8))


def more_payloads_than_beats(a: Assembler) -> None:
    a.read(Port.ENCODER_TABLE, np.zeros(16, np.uint8), payloads=5)


def table_in_use(a: Assembler) -> None:
    a.records(Port.ENCODER_ORDER, [(p, p, p) for p in range(8)])
    a.send(Port.ENCODER_PLANES, 1)
    a.write(Port.ENCODED, 32)
    a.read(Port.ENCODER_VALUES, np.zeros(16, np.uint8), token_dims=1)
    a.send(Port.ENCODER_TILE, 0, 3, 0)


def test_a_table_changes_after_a_wait() -> None:
    a = Assembler()
    table_in_use(a)
    a.commands.insert(-1, Command(Opcode.WAIT))
    a.run()


def order_without_a_channel(a: Assembler) -> None:
    a.records(Port.ENCODER_ORDER, [(p, p + 1, p) for p in range(8)])
    a.send(Port.ENCODER_PLANES, 1)
    a.read(Port.ENCODER_VALUES, np.zeros(16, np.uint8), token_dims=1)


def bank_for_two_values_of_a_beat(a: Assembler) -> None:
    a.records(Port.ENCODER_ORDER, [(p, p, p & 6) for p in range(8)])
    a.send(Port.ENCODER_PLANES, 1)
    a.read(Port.ENCODER_VALUES, np.zeros(16, np.uint8), token_dims=1)


def codebook_that_is_not_there(a: Assembler) -> None:
    a.array(Phase.DENSE, codebook=3)


@pytest.mark.parametrize(
    "program",
    [
        tokens_that_never_began,
        read_without_a_wait,
        beats_of_half_a_payload,
        more_payloads_than_beats,
        table_in_use,
        order_without_a_channel,
        bank_for_two_values_of_a_beat,
        codebook_that_is_not_there,
    ],
)
def test_what_the_hardware_would_not_notice(program: Callable[[Assembler], None]) -> None:
    a = Assembler()
    program(a)
    error = stopped(a)
    assert (error.fault, error.where) == (None, COMMAND_BYTES * (len(a.commands) - 1)), error


@pytest.mark.parametrize(
    ("port", "text"),
    [(Port.ENCODER_VALUES, "token"), (Port.RESIDUAL_VALUES, "first operand"), (Port.ARRAY_COMMAND, "still waits")],
)
def test_what_is_left_at_the_end(port: Port, text: str) -> None:
    a = Assembler()
    if port == Port.ARRAY_COMMAND:
        a.codebooks(affine_codebook())
        a.array(Phase.DENSE)
    else:
        a.send(Port.ENCODER_PLANES, 1)
        a.send(Port.RESIDUAL_SETTING, 16, 16)
        a.read(port, np.zeros(16, np.uint8))
    error = stopped(a)
    assert error.where == COMMAND_BYTES * len(a.commands)
    assert text in str(error)


def test_a_body_with_a_body() -> None:
    a = Assembler()
    for first in (COMMAND_BYTES, 0):
        a.wait()
        a.wait()
        a.commands.append(Command(Opcode.REPEAT, address=first, rounds=3))
    error = stopped(a)
    assert (error.fault, error.where) == (Fault.FIELD, 2 * COMMAND_BYTES)


def test_rounds_at_other_addresses() -> None:
    a = Assembler()
    rows = np.random.default_rng(1).integers(0, 256, (3, 4, 16)).astype(np.uint8)
    source, place = a.put(rows), a.room(rows.size)
    # Rows of every block change places: the target walks backwards.
    for number in range(2):
        a.move_out(Port.COPIED, place + 32 + 16 * number, base=2)
        a.move_in(Port.COPY, source + 16 * number, base=1)
    a.commands.append(Command(Opcode.REPEAT, rounds=2, steps=(32, -32, 0, 0, 0)))
    a.move_out(Port.COPIED, place + 64, base=1, counts=(8, 1, 1, 1))
    a.move_in(Port.COPY, source + 64, counts=(8, 1, 1, 1))
    a.run()
    found = a.get(place, rows.shape, "u1")
    assert np.array_equal(found[0], rows[0][[2, 3, 0, 1]])
    assert np.array_equal(found[1:], rows[1:])

"""Routes: outputs that go to an input on the chip."""

from collections.abc import Callable

import numpy as np
import pytest

from sim.contract.activation_table import TABLE_ENTRIES, ActivationTable
from sim.contract.codebook import affine_codebook
from sim.contract.depthwise import Depthwise
from sim.contract.layer_norm import LayerNorm
from sim.contract.wide import Wide
from sim.executor import MachineError
from sim.executor.routes import Routes
from sim.machine.commands import COMMAND_BYTES
from sim.machine.faults import Fault
from sim.machine.ports import Port
from sim.machine.presets import PRESETS
from sim.machine.settings import Phase
from tests.sim.executor.assembler import Assembler
from tests.sim.executor.test_dense import LEVELS, books, layer, passes, row_bytes, token_words


def activation(a: Assembler) -> ActivationTable:
    """A table of random samples, read by the unit."""
    samples = np.random.default_rng(3).integers(-(1 << 15), 1 << 15, TABLE_ENTRIES).astype(np.int16)
    a.records(Port.ACTIVATION_TABLE, list(enumerate(samples.tolist())))
    a.send(Port.ACTIVATION_SETTING, 4)
    return ActivationTable("gelu", -8, -8, samples, 4)


@pytest.mark.parametrize("preset", ["tiny", "small", "full"])
@pytest.mark.parametrize(("kind", "channels", "outputs"), [("uniform", 96, 20), ("bytes", 72, 40)])
def test_from_a_norm_to_an_activation_without_memory(preset: str, kind: str, channels: int, outputs: int) -> None:
    a = Assembler(PRESETS[preset])
    operation, rng = layer(LEVELS[kind], channels, outputs, 1), np.random.default_rng(4)
    norm = LayerNorm(
        name="norm",
        input_exponent=-8,
        wide_exponent=-8,
        epsilon=1 << 33,
        gain=rng.integers(-(1 << 13), 1 << 13, channels).astype(np.int16),
        bias=rng.integers(-(1 << 20), 1 << 20, channels).astype(np.int32),
        shift=15,
    )
    blocks = [rng.integers(-4000, 4000, (count, channels)).astype(np.int16) for count in (40, 29)]
    table = activation(a)
    a.records(Port.NORM_PARAMETER, [(p, int(norm.gain[p]), int(norm.bias[p])) for p in range(channels)])
    a.encoder(operation.encoder)
    a.codebooks(*books(operation))
    a.route(Port.NORMED, beats=channels * 2 // a.beat)
    a.route(Port.ENCODED)
    a.route(Port.RESULTS)
    pitch = row_bytes(a, operation)
    places = [a.room(len(values) * pitch) for values in blocks]
    for values in blocks:
        # Both blocks are filled before the first is read; the second norm begins in the middle of a token's beats.
        a.send(Port.CODE_BLOCK, len(values) * token_words(a, operation))
        a.send(Port.NORM_COMMAND, len(values), channels, norm.shift, norm.epsilon)
        a.read(Port.NORM_VALUES, values[:7])
        a.read(Port.NORM_VALUES, values[7:])
    for values, place in zip(blocks, places, strict=True):
        passes(a, operation, len(values), place, Port.ACTIVATED)
    a.wait()
    for source in (Port.NORMED, Port.ENCODED, Port.RESULTS):
        a.route(source, on=False)
    a.run()
    for values, place in zip(blocks, places, strict=True):
        expected = table.run(operation.run(norm.run(Wide(values, -8)))[1]).values
        assert np.array_equal(a.get(place, (len(values), pitch // 2))[:, :outputs], expected)
        assert len(np.unique(expected)) > 50


def test_activation_of_a_convolution() -> None:
    a, rng = Assembler(), np.random.default_rng(5)
    convolution = Depthwise(
        name="depthwise",
        input_exponent=-8,
        wide_exponent=-8,
        stride=1,
        weight=rng.integers(-128, 128, (8, 3, 3)).astype(np.int8),
        multiplier=rng.integers(0, 1 << 16, 8).astype(np.uint16),
        bias=rng.integers(-(1 << 40), 1 << 40, 8),
        shift=27,
    )
    values = rng.integers(-4000, 4000, (5, 6, 8)).astype(np.int16)
    table = activation(a)
    a.route(Port.CONVOLVED)
    place = a.write(Port.ACTIVATED, values.nbytes)
    a.send(Port.DEPTHWISE_MAP, 4, 5, 0, convolution.shift)
    a.records(
        Port.DEPTHWISE_CHANNEL,
        [
            (*convolution.weight[c].reshape(-1).tolist(), int(convolution.multiplier[c]), int(convolution.bias[c]))
            for c in range(8)
        ],
    )
    a.read(Port.DEPTHWISE_VALUES, values)
    a.wait()
    # Once it is off, both units are those of memory again.
    a.route(Port.CONVOLVED, on=False)
    second = a.write(Port.ACTIVATED, values.nbytes)
    a.read(Port.ACTIVATION_VALUES, values)
    a.wait()
    a.run()
    assert np.array_equal(a.get(place, values.shape), table.run(convolution.run(Wide(values, -8))).values)
    assert np.array_equal(a.get(second, values.shape), table.run(Wide(values, -8)).values)


@pytest.mark.parametrize("beats", [0, 1, 3, 7])
def test_tokens_end_where_they_should_however_beats_come(beats: int) -> None:
    routes, random = Routes(PRESETS["tiny"]), np.random.default_rng(6)
    routes.change(Port.NORMED, 1, beats)
    number, data = 0, []
    ends: list[int] = []
    for count in (1, 2, 0, 8, 5, 3, 20, 1):
        beat = random.integers(0, 256, (count, 16)).astype(np.uint8)
        data.append(beat)
        for batch in routes.batches(Port.NORMED, beat.reshape(-1)):
            assert batch.port == Port.ENCODER_VALUES
            if batch.token:
                ends += range(number + batch.token, number + len(batch.data) + 1, batch.token)
            assert np.array_equal(batch.data, np.concatenate(data)[number : number + len(batch.data)])
            number += len(batch.data)
    assert number == 40
    assert ends == (list(range(beats, 41, beats)) if beats else [])


def read_of_an_input_that_is_fed(a: Assembler) -> None:
    a.route(Port.ENCODED)
    a.send(Port.CODE_BLOCK, 1)
    a.read(Port.CODES, np.zeros(16, np.uint8))


def write_of_an_output_that_goes_elsewhere(a: Assembler) -> None:
    a.route(Port.RESULTS)
    a.write(Port.RESULTS, 16)


def nothing_takes_what_the_last_unit_gives(a: Assembler) -> None:
    a.encoder(layer(LEVELS["uniform"], 64, 8, 1).encoder)
    a.records(Port.NORM_PARAMETER, [(p, 1, 1) for p in range(64)])
    a.send(Port.NORM_COMMAND, 1, 64, 1, 1)
    a.route(Port.NORMED, beats=8)
    a.read(Port.NORM_VALUES, np.zeros(128, np.uint8))


def more_codes_than_the_block_holds(a: Assembler) -> None:
    a.encoder(layer(LEVELS["uniform"], 64, 8, 1).encoder)
    a.route(Port.ENCODED)
    a.send(Port.CODE_BLOCK, 1)
    a.read(Port.ENCODER_VALUES, np.zeros(128, np.uint8), token_dims=1)


@pytest.mark.parametrize(
    "program",
    [
        read_of_an_input_that_is_fed,
        write_of_an_output_that_goes_elsewhere,
        nothing_takes_what_the_last_unit_gives,
        more_codes_than_the_block_holds,
    ],
)
def test_where_the_hardware_would_wait_for_ever(program: Callable[[Assembler], None]) -> None:
    assert stopped(program) == Fault.WATCHDOG


def stopped(program: Callable[[Assembler], None]) -> Fault | None:
    """The fault of the last command."""
    a = Assembler()
    program(a)
    with pytest.raises(MachineError) as caught:
        a.executor().run()
    assert caught.value.where == COMMAND_BYTES * (len(a.commands) - 1), caught.value
    return caught.value.fault


def route_from_nowhere(a: Assembler) -> None:
    a.route(Port.COPIED)


def two_routes_to_an_input(a: Assembler) -> None:
    a.route(Port.CONVOLVED)
    a.route(Port.RESULTS)


def change_while_a_write_lacks_beats(a: Assembler) -> None:
    a.write(Port.COPIED, 16)
    a.route(Port.RESULTS)


def change_without_a_wait(a: Assembler) -> None:
    activation(a)
    a.write(Port.ACTIVATED, 16)
    a.read(Port.ACTIVATION_VALUES, np.zeros(16, np.uint8))
    a.route(Port.RESULTS)


def codes_on_their_way(a: Assembler) -> None:
    """A block of codes from the encoder, a WAIT, and nobody who has read it."""
    a.encoder(layer(LEVELS["uniform"], 64, 8, 1).encoder)
    a.route(Port.ENCODED)
    a.send(Port.CODE_BLOCK, 2)
    a.read(Port.ENCODER_VALUES, np.zeros(128, np.uint8), token_dims=1)
    a.wait()


def change_while_codes_are_on_their_way(a: Assembler) -> None:
    codes_on_their_way(a)
    a.route(Port.ENCODED, on=False)


def table_in_use_behind_a_wait(a: Assembler) -> None:
    codes_on_their_way(a)
    a.send(Port.ENCODER_TILE, 0, 3, 0)


@pytest.mark.parametrize(
    "program",
    [
        route_from_nowhere,
        two_routes_to_an_input,
        change_while_a_write_lacks_beats,
        change_without_a_wait,
        change_while_codes_are_on_their_way,
        table_in_use_behind_a_wait,
    ],
)
def test_what_the_hardware_would_not_notice(program: Callable[[Assembler], None]) -> None:
    assert stopped(program) is None


def test_results_in_memory_say_that_codes_have_arrived() -> None:
    a = Assembler()
    a.codebooks(affine_codebook())
    codes_on_their_way(a)
    a.write(Port.RESULTS, 16)
    a.array(Phase.DENSE, release=1)
    a.read(Port.SCALE, np.zeros(16, np.uint8))
    a.read(Port.BIAS, np.zeros(32, np.uint8))
    a.read(Port.WEIGHTS, np.zeros(128, np.uint8))
    a.wait()
    a.send(Port.ENCODER_TILE, 0, 3, 0)
    a.route(Port.ENCODED, on=False)
    a.run()

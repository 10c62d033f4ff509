# amaranth: UnusedElaboratable=no

"""Encoder against sim.contract.encoder: every kind of level set, clamps, shifts, permutation, stalls and cycles."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hdl.harness import Harness
from hdl.units import build_unit
from hdl.vector.encoder import CodeEncoder
from sim.contract.encoder import ADDEND_LIMIT, Encoder
from tests.hdl.vector.bench import Played, play

UNIFORM = np.arange(-8, 8)
HYBRID = np.array([-128, -64, -32, -16, -8, -4, -2, -1, 0, 1, 5, 9, 13, 40, 90, 127])
BYTES = np.arange(-128, 128)


def random_encoder(rng: np.random.Generator, channels: int, levels: list[NDArray[np.int64]]) -> Encoder:
    """An operation whose indices spread over the table and over both clamps, with a shift of its own per tile."""
    tiles = -(-channels // 64)
    shift = rng.integers(0, 31, tiles)
    shift[:2] = [30, 0][:tiles]
    per_channel = np.repeat(shift, 64)[:channels]
    # Sixteen bits of x times this, shifted, cover the table about once.
    reach = np.ldexp(1.0, np.minimum(per_channel + 9 - 16, 15))
    multiplier = np.clip(np.rint(reach * rng.uniform(-2, 2, channels)), -32767, 32767)
    addend = np.clip(np.ldexp(rng.uniform(0, 512, channels), per_channel), -ADDEND_LIMIT, ADDEND_LIMIT)
    multiplier[: channels // 8] = rng.choice([-32767, 32767], channels // 8)
    addend[: channels // 9] = rng.choice([-ADDEND_LIMIT, ADDEND_LIMIT], channels // 9)
    return Encoder(
        name="test",
        input_exponent=-8,
        permutation=rng.permutation(channels).astype(np.uint16),
        multiplier=multiplier.astype(np.int16),
        addend=addend.astype(np.int32),
        shift=shift.astype(np.uint8),
        levels=np.stack(levels).astype(np.int8),
    )


def beats(encoder: Encoder, values: NDArray[np.int16], lanes: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Transfers of the tokens: permuted order, garbage in the lanes beyond the last channel."""
    tokens, channels = values.shape
    count = -(-channels // lanes)
    padded = rng.integers(-(1 << 15), 1 << 15, (tokens, count * lanes))
    padded[:, :channels] = values[:, encoder.permutation]
    return [
        {"values": beat.tolist(), "last": int(number == count - 1)}
        for token in padded.reshape(tokens, count, lanes)
        for number, beat in enumerate(token)
    ]


def codes_of(played: Played, channels: int) -> NDArray[np.int64]:
    """Codes (tokens, C); `last` must end each token at the same transfer."""
    ends = [index + 1 for index, output in enumerate(played.outputs) if output.last]
    count = ends[0]
    assert ends == list(range(count, len(played.outputs) + 1, count))
    rows = np.array([list(output.codes) for output in played.outputs])
    return rows.reshape(len(ends), -1)[:, :channels]


@pytest.mark.parametrize(
    ("lanes", "channels", "tables", "levels", "seed"),
    [
        (4, 130, 4, [UNIFORM, HYBRID, np.sort(HYBRID)[::1] // 2 + np.arange(16) - 8], 1),
        (8, 150, 1, [BYTES], None),
        (1, 70, 4, [HYBRID], 2),
        # Table 5 is in the second memory at the place of table 1 in the first; tile 0 has but a few indices.
        (2, 384, 6, [UNIFORM * (16 - 2 * tile) for tile in range(6)], 3),
        (16, 16, 1, [UNIFORM], None),
    ],
    ids=["three sixteens", "bytes", "one lane", "six tables", "one beat"],
)
def test_codes_are_the_contracts(
    lanes: int, channels: int, tables: int, levels: list[NDArray[np.int64]], seed: int | None
) -> None:
    rng = np.random.default_rng(channels)
    encoder = random_encoder(rng, channels, levels)
    tokens = 1 + 1200 // channels
    values = rng.integers(-(1 << 15), 1 << 15, (tokens, channels)).astype(np.int16)
    values[0, :4] = [-32768, 32767, 0, -1]
    dut = CodeEncoder(lanes=lanes, channels=channels, tables=tables)
    transfers = beats(encoder, values, lanes, rng)
    before = list(CodeEncoder.parameters(encoder).items())
    played = play(dut, {"i": transfers}, len(transfers), before=before, seed=seed)
    expected = CodeEncoder.model(encoder, values)
    assert len(np.unique(expected)) == min(levels[0].size, len(np.unique(expected)))
    assert np.array_equal(codes_of(played, channels), expected)


def test_every_index_of_a_table_and_both_clamps() -> None:
    encoder = Encoder(
        name="test",
        input_exponent=0,
        permutation=np.arange(2, dtype=np.uint16),
        multiplier=np.array([1, -3], np.int16),
        addend=np.array([256, 700], np.int32),
        shift=np.zeros(1, np.uint8),
        levels=BYTES[None].astype(np.int8),
    )
    values = np.stack([np.arange(-300, 300)] * 2, axis=1).astype(np.int16)
    dut = CodeEncoder(lanes=2, channels=2, tables=1)
    transfers = beats(encoder, values, 2, np.random.default_rng(0))
    played = play(dut, {"i": transfers}, len(transfers), before=list(CodeEncoder.parameters(encoder).items()))
    expected = CodeEncoder.model(encoder, values)
    assert len(np.unique(expected[:, 0])) == 256
    assert np.array_equal(codes_of(played, 2), expected)


def test_a_table_waits_until_the_codes_of_values_before_it_have_left() -> None:
    """Entries of the very table in use, offered while values pass, change no code of theirs."""
    rng = np.random.default_rng(5)
    encoder = random_encoder(rng, 8, [UNIFORM])
    table = [{"address": index, "code": 15} for index in range(512)]
    values = rng.integers(-(1 << 15), 1 << 15, (300, 8)).astype(np.int16)
    dut = CodeEncoder(lanes=8, channels=8, tables=2)
    transfers = beats(encoder, values, 8, rng)
    # The first entry comes with the first values, before any are inside, and is what it was.
    table[0]["code"] = 0
    before = list(CodeEncoder.parameters(encoder).items())
    played = play(dut, {"i": transfers, "i_table": table}, len(transfers), before=before)
    assert np.array_equal(codes_of(played, 8), CodeEncoder.model(encoder, values))


@pytest.mark.parametrize("tables", [4, 5])
def test_cycles(tables: int) -> None:
    dut = CodeEncoder(lanes=4, channels=64, tables=tables)
    count = 100
    transfers = [{"values": [index] * 4, "last": int(index % 16 == 15)} for index in range(count)]
    played = play(dut, {"i": transfers}, count)
    assert dut.latency == (12 if tables == 4 else 13)
    assert played.entered == list(range(played.entered[0], played.entered[0] + count))
    assert played.left == [cycle + dut.latency for cycle in played.entered]


def test_a_receiver_that_waits_loses_nothing() -> None:
    rng = np.random.default_rng(8)
    encoder = random_encoder(rng, 64, [HYBRID])
    values = rng.integers(-(1 << 15), 1 << 15, (4, 64)).astype(np.int16)
    dut = CodeEncoder(lanes=4, channels=64)
    transfers = beats(encoder, values, 4, rng)
    before = list(CodeEncoder.parameters(encoder).items())
    played = play(dut, {"i": transfers}, len(transfers), before=before, hold=60)
    assert np.array_equal(codes_of(played, 64), CodeEncoder.model(encoder, values))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"lanes": "3"}, "lanes=3 must be one of (1, 2, 4, 8, 16, 32, 64); nearest valid value: 2"),
        (
            {"lanes": "2", "channels": "1025"},
            "channels=1025 must be in 1..512 * lanes = 1024; nearest valid value: 1024",
        ),
        ({"channels": "0"}, "channels=0 must be in 1..512 * lanes = 4096; nearest valid value: 1"),
        ({"tables": "17"}, "tables=17 must be in 1..16; nearest valid value: 16"),
    ],
)
def test_parameters_out_of_range_are_refused(parameters: dict[str, str], message: str) -> None:
    with pytest.raises(Exception, match="unit encoder: ") as refusal:
        build_unit("encoder", parameters)
    assert message in str(refusal.value)


def test_elaborates_for_ecp5() -> None:
    text = Harness(build_unit("encoder", {"lanes": "2", "tables": "5"})[0]).rtlil()
    assert text.count("cell \\MULT18X18D") == 2
    assert text.count("cell \\DP16KD") == 2 + 1 + 2 + 1

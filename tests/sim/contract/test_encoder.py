from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from sim.contract.encoder import ADDEND_LIMIT, LEVEL_COUNTS, Encoder, half_step_table
from sim.contract.errors import UserError
from sim.contract.wide import Wide

LARGEST = 32767


def random_levels(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.sort(rng.choice(np.arange(-128, 128), count, replace=False)).astype(np.int8)


def random_encoder(channels: int, count: int, seed: int = 0, *, one_row: bool = False) -> Encoder:
    rng = np.random.default_rng(seed)
    tiles = 1 if one_row else -(-channels // 64)
    return Encoder(
        name="fc",
        input_exponent=-7,
        permutation=rng.permutation(channels).astype(np.uint16),
        multiplier=rng.integers(-LARGEST, LARGEST + 1, channels).astype(np.int16),
        addend=rng.integers(1 << 28, 1 << 29, channels).astype(np.int32),
        shift=rng.integers(19, 23, -(-channels // 64)).astype(np.uint8),
        levels=np.stack([random_levels(rng, count) for _ in range(tiles)]),
    )


def nearest_level(index: int, levels: list[int]) -> int:
    """The literal definition: the level nearest to the middle of the half step."""
    middle = Fraction(2 * index + 1, 4) - 128
    distances = [abs(middle - level) for level in levels]
    assert distances.count(min(distances)) == 1, "the middle of a half step is never on a threshold"
    return levels[distances.index(min(distances))]


@pytest.mark.parametrize("count", LEVEL_COUNTS)
def test_table_takes_every_half_step_to_the_nearest_level(count: int) -> None:
    for seed in range(4):
        levels = random_levels(np.random.default_rng(seed), count)
        table, listed = half_step_table(levels), levels.tolist()
        nearest = [nearest_level(index, listed) for index in range(512)]
        codes = [listed.index(level) for level in nearest] if count == 16 else [level + 128 for level in nearest]
        assert table.tolist() == codes


@pytest.mark.parametrize(("channels", "one_row"), [(1, False), (70, False), (130, True), (128, False)])
@pytest.mark.parametrize("count", LEVEL_COUNTS)
def test_encoding_equals_the_formula_in_whole_numbers(channels: int, one_row: bool, count: int) -> None:
    encoder = random_encoder(channels, count, seed=channels + count, one_row=one_row)
    x = np.random.default_rng(1).integers(-(1 << 15), 1 << 15, (3, channels)).astype(np.int16)
    levels = encoder.level(encoder.encode(Wide(x, -7)))
    for token in range(3):
        for p in range(channels):
            total = int(x[token, encoder.permutation[p]]) * int(encoder.multiplier[p]) + int(encoder.addend[p])
            index = max(0, min(511, total // 2 ** int(encoder.shift[p // 64])))
            row = encoder.levels[0 if one_row else p // 64].tolist()
            assert levels[token, p] == nearest_level(index, row)


@pytest.mark.parametrize("count", LEVEL_COUNTS)
def test_every_level_has_its_own_code(count: int) -> None:
    # A step of the input is half a step of a level.
    levels = random_levels(np.random.default_rng(count), count)
    encoder = Encoder(
        "fc",
        0,
        np.zeros(1, np.uint16),
        np.array([1], np.int16),
        np.array([256], np.int32),
        np.array([0], np.uint8),
        levels[None],
    )
    codes = encoder.encode(Wide((2 * levels.astype(np.int16))[:, None], 0))
    np.testing.assert_array_equal(encoder.level(codes)[:, 0], levels)
    expected = np.arange(16) if count == 16 else levels.astype(int) + 128
    np.testing.assert_array_equal(codes[:, 0], expected)
    assert (encoder.bits, encoder.code_planes) == ({16: 4, 32: 5, 64: 6}.get(count, 8), 1 if count == 16 else 2)


def test_one_less_in_the_addend_gives_a_tie_to_the_lower_level() -> None:
    levels = np.arange(-8, 8).astype(np.int8)[None]
    multiplier, shift = np.array([1 << 10], np.int16), 10
    tie = Wide(np.array([[-1], [1], [13]], np.int16), 0)  # half steps: -0.5, 0.5 and 6.5 levels
    for less, wanted in ((0, [0, 1, 7]), (1, [-1, 0, 6])):
        addend = np.array([(256 << shift) - less], np.int32)
        encoder = Encoder("fc", 0, np.zeros(1, np.uint16), multiplier, addend, np.array([shift], np.uint8), levels)
        assert encoder.level(encoder.encode(tie))[:, 0].tolist() == wanted


@pytest.mark.parametrize("shift", [0, 16, 30])
def test_the_largest_numbers_do_not_wrap_around(shift: int) -> None:
    extremes = [
        (m, a) for m in (-LARGEST, -1, 0, LARGEST) for a in (-ADDEND_LIMIT, -1, 0, ADDEND_LIMIT - 1, ADDEND_LIMIT)
    ]
    encoder = Encoder(
        name="fc",
        input_exponent=0,
        permutation=np.arange(len(extremes)).astype(np.uint16),
        multiplier=np.array([m for m, _ in extremes], np.int16),
        addend=np.array([a for _, a in extremes], np.int32),
        shift=np.array([shift], np.uint8),
        levels=np.arange(-128, 128).astype(np.int8)[None],
    )
    for x in (-32768, -1, 0, 32767):
        codes = encoder.encode(Wide(np.full((1, len(extremes)), x, np.int16), 0))[0]
        indices = [max(0, min(511, (x * m + a) // 2**shift)) for m, a in extremes]
        assert codes.tolist() == [index // 2 + index % 2 if index < 511 else 255 for index in indices]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input_exponent", 65),
        ("shift", np.array([30, 31], np.uint8)),
        ("shift", np.zeros(1, np.uint8)),
        ("shift", np.zeros(2, np.int8)),
        ("shift", 3),
        ("permutation", np.zeros(70, np.uint16)),
        ("permutation", np.arange(70, dtype=np.int64)),
        ("permutation", np.zeros(0, np.uint16)),
        ("multiplier", np.full(70, -32768, np.int16)),
        ("multiplier", np.ones(69, np.int16)),
        ("addend", np.full(70, 1 << 30, np.int32)),
        ("addend", np.full(70, -(1 << 31), np.int32)),
        ("levels", np.arange(16).astype(np.int8)),
        ("levels", np.zeros((3, 16), np.int8)),
        ("levels", np.arange(16)[None]),
        ("levels", np.arange(17).astype(np.int8)[None]),
        ("levels", np.arange(16)[None, ::-1].astype(np.int8)),
        ("levels", np.array([[0, 0, *range(1, 15)]], np.int8)),
    ],
)
def test_an_encoder_out_of_range_is_refused(field: str, value: object) -> None:
    with pytest.raises(UserError, match="fc"):
        replace(random_encoder(70, 16), **{field: value})  # type: ignore[arg-type]


def test_an_input_of_another_width_or_exponent_is_refused() -> None:
    encoder = random_encoder(70, 16)
    for wrong in (Wide(np.zeros((1, 69), np.int16), -7), Wide(np.zeros((1, 70), np.int16), -6)):
        with pytest.raises(ValueError, match="expected"):
            encoder.encode(wrong)

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from sim.contract.attention import Attention, DecomposedBias, StaticBias
from sim.contract.encoder import Encoder
from sim.contract.errors import UserError
from sim.contract.softmax import log_thresholds, score_codes
from sim.contract.wide import Wide

POSITIONS = [None, "static", "decomposed"]


def encoder(part: str, channels: int, low: int, high: int) -> Encoder:
    rng = np.random.default_rng(channels - low)
    return Encoder(
        name=f"attend.{part}",
        input_exponent=-8,
        permutation=np.arange(channels).astype(np.uint16),
        multiplier=rng.integers(700, 1200, channels).astype(np.int16),
        addend=rng.integers(250 << 14, 260 << 14, channels).astype(np.int32),
        shift=np.full(-(-channels // 64), 14, np.uint8),
        levels=np.arange(low, high + 1).astype(np.int8)[None],
    )


def bias_of(kind: str | None, heads: int, width: int, rows: int, columns: int) -> StaticBias | DecomposedBias | None:
    rng = np.random.default_rng(11)
    if kind == "static":
        return StaticBias(rng.integers(-900, 900, (heads, rows * columns)).astype(np.int16), rows)
    if kind == "decomposed":
        return DecomposedBias(
            rel_rows=rng.integers(-128, 120, (heads, 2 * rows - 1, width)).astype(np.int8),
            rel_columns=rng.integers(-128, 120, (heads, 2 * columns - 1, width)).astype(np.int8),
            row_scale=rng.integers(10, 60, heads).astype(np.uint16),
            column_scale=rng.integers(10, 60, heads).astype(np.uint16),
            rows=rows,
            columns=columns,
        )
    return None


def attention(
    kind: str | None = None,
    *,
    heads: int = 2,
    width: int = 5,
    rows: int = 4,
    columns: int = 4,
    four_bit: bool = False,
    codes: int = 256,
    top: int = 255,
) -> Attention:
    rng = np.random.default_rng(heads + width)
    channels = heads * width
    limits = (
        {"q": (-8, 7), "k": (-8, 7), "v": (-8, 7)}
        if four_bit
        else {"q": (-128, 127), "k": (-128, 119), "v": (-128, 119)}
    )
    q, k, v = (encoder(part, channels, *limit) for part, limit in limits.items())
    return Attention(
        name="attend",
        heads=heads,
        q=q,
        k=k,
        v=v,
        logit_scale=rng.integers(20, 40, heads).astype(np.uint16),
        thresholds=log_thresholds((np.arange(1, codes) - 0.5) / (codes - 1)),
        score_levels=np.rint(np.linspace(0, top, codes)).astype(np.uint16),
        scale=rng.integers(1, 16, channels).astype(np.uint16)
        if top > 255
        else rng.integers(100, 256, channels).astype(np.uint16),
        bias=rng.integers(-(1 << 16), 1 << 16, channels).astype(np.int32),
        wide_exponent=-8,
        position=bias_of(kind, heads, width, rows, columns),
    )


def tokens(windows: int, count: int, channels: int, seed: int = 0, spread: float = 600) -> Wide:
    return Wide(np.random.default_rng(seed).normal(0, spread, (windows, count, channels)).astype(np.int16), -8)


def operands(windows: int, queries: int, keys: int, operation: Attention) -> tuple[Wide, Wide, Wide]:
    channels = operation.q.channels
    return tokens(windows, queries, channels, 1), tokens(windows, keys, channels, 2), tokens(windows, keys, channels, 3)


def rounded(numerator: int, bits: int) -> int:
    return max(-32768, min(32767, round(Fraction(numerator, 1 << bits))))


def position_bias(operation: Attention, head: int, i: int, j: int, level: list[int]) -> int:
    """Bias of query i and key j by the definitions of the papers, in plain integers."""
    bias = operation.position
    if isinstance(bias, StaticBias):
        (a, b), (c, d) = divmod(i, bias.window), divmod(j, bias.window)
        return int(bias.table[head, abs(a - c) * bias.window + abs(b - d)])
    if bias is None:
        return 0
    (a, b), (c, d) = divmod(i, bias.columns), divmod(j, bias.columns)
    along_rows = bias.rel_rows[head, a - c + bias.rows - 1].tolist()
    along_columns = bias.rel_columns[head, b - d + bias.columns - 1].tolist()
    return rounded(sum(map(int.__mul__, level, along_rows)) * int(bias.row_scale[head]), 10) + rounded(
        sum(map(int.__mul__, level, along_columns)) * int(bias.column_scale[head]), 10
    )


def literal(operation: Attention, q: Wide, k: Wide, v: Wide) -> np.ndarray:
    """The formulas of the contract, one number at a time; only the codes of scores come from the softmax."""
    levels = [
        encoder.level(encoder.encode(x)).astype(int).reshape(*x.values.shape[:2], operation.heads, -1)
        for encoder, x in ((operation.q, q), (operation.k, k), (operation.v, v))
    ]
    result = np.zeros(q.values.shape, np.int16)
    width = levels[0].shape[-1]
    for window in range(q.values.shape[0]):
        for head in range(operation.heads):
            ql, kl, vl = (part[window, :, head].tolist() for part in levels)
            for i, query in enumerate(ql):
                logits = [
                    rounded(sum(map(int.__mul__, query, key)) * int(operation.logit_scale[head]), 10)
                    + position_bias(operation, head, i, j, query)
                    for j, key in enumerate(kl)
                ]
                scores = score_codes(np.array([logits], np.int32), operation.thresholds)[0]
                for d in range(width):
                    c = head * width + d
                    total = sum(
                        int(operation.score_levels[code]) * value[d] for code, value in zip(scores, vl, strict=True)
                    )
                    result[window, i, c] = rounded(total * int(operation.scale[c]) + 4 * int(operation.bias[c]), 10)
    return result


@pytest.mark.parametrize("kind", POSITIONS)
@pytest.mark.parametrize("four_bit", [False, True])
def test_attention_equals_the_formulas_in_whole_numbers(kind: str | None, four_bit: bool) -> None:
    operation = attention(kind, four_bit=four_bit, codes=16 if four_bit else 256)
    q, k, v = operands(2, 16, 16, operation)
    codes, result = operation.run(q, k, v)
    np.testing.assert_array_equal(result.values, literal(operation, q, k, v))
    assert (result.exponent, operation.score_bits) == (-8, 4 if four_bit else 8)
    for part, x in (("q", q), ("k", k), ("v", v)):
        np.testing.assert_array_equal(codes[part], getattr(operation, part).encode(x))


def test_windows_of_unequal_sides_have_their_own_rows_and_columns() -> None:
    operation = attention("decomposed", rows=2, columns=5)
    q, k, v = operands(2, 10, 10, operation)
    np.testing.assert_array_equal(operation.run(q, k, v)[1].values, literal(operation, q, k, v))


def test_queries_and_keys_may_differ_in_number_without_positions() -> None:
    operation = attention()
    q, k, v = operands(1, 3, 29, operation)
    np.testing.assert_array_equal(operation.run(q, k, v)[1].values, literal(operation, q, k, v))


@pytest.mark.parametrize("kind", POSITIONS)
def test_attention_is_near_float64_attention(kind: str | None) -> None:
    operation = attention(kind, heads=2, width=16, rows=7, columns=7)
    q, k, v = operands(3, 49, 49, operation)
    ql, kl, vl = (
        encoder.level(encoder.encode(x)).astype(np.float64).reshape(3, 49, 2, 16).transpose(0, 2, 1, 3)
        for encoder, x in ((operation.q, q), (operation.k, k), (operation.v, v))
    )
    logits = ql @ kl.swapaxes(-1, -2) * (operation.logit_scale / 1024)[:, None, None]
    for head, i, j in np.ndindex(2, 49, 49):
        for window in range(3 if kind else 0):
            logits[window, head, i, j] += position_bias(operation, head, i, j, ql[window, head, i].astype(int).tolist())
    p = np.exp2((logits - logits.max(axis=-1, keepdims=True)) / 512)
    p /= p.sum(axis=-1, keepdims=True)
    exact = (255 * p @ vl).transpose(0, 2, 1, 3).reshape(3, 49, 32) * (operation.scale / 1024) + operation.bias / 256
    error = operation.run(q, k, v)[1].values - exact
    # Scores are rounded to a 255th: half a level at each of 49 keys.
    assert np.sqrt(np.square(error).mean() / exact.var()) < 0.06
    assert np.abs(error).max() < 0.5 * 49 * 128 * 256 / 1024


@pytest.mark.parametrize("kind", POSITIONS)
def test_chunks_change_no_bit(kind: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    operation = attention(kind)
    q, k, v = operands(5, 16, 16, operation)
    whole = operation.run(q, k, v)[1].values
    for size in (1, 2 * 16 * 3, 2 * 16 * 16 * 2):  # one query, three queries, two windows at a time
        monkeypatch.setattr("sim.contract.attention.PRODUCTS_PER_CHUNK", size)
        np.testing.assert_array_equal(operation.run(q, k, v)[1].values, whole)


def test_products_in_pieces_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    operation = attention("decomposed", rows=7, columns=7)
    q, k, v = operands(2, 49, 49, operation)
    whole = operation.run(q, k, v)[1].values
    for rows in (17, 20, 49):
        monkeypatch.setattr("sim.contract.attention.MULTIPLIES_PER_PRODUCT", 5 * 49 * rows)
        np.testing.assert_array_equal(operation.run(q, k, v)[1].values, whole)


def test_windows_do_not_see_each_other() -> None:
    operation = attention("decomposed")
    q, k, v = operands(3, 16, 16, operation)
    whole = operation.run(q, k, v)[1].values
    for window in range(3):
        alone = operation.run(*(x.with_values(x.values[window : window + 1]) for x in (q, k, v)))[1].values
        np.testing.assert_array_equal(alone[0], whole[window])


@pytest.mark.parametrize("keys", [512, 513, 4096])
def test_the_largest_sums_are_exact(keys: int) -> None:
    operation = attention(heads=1, width=128, codes=256)
    scores = np.full((1, 1, 2, keys), 255, np.uint8)
    v = np.full((1, 1, keys, 128), -128, np.float32)
    v[0, 0, -1, :] = -127  # an odd sum, which float32 cannot hold beyond 2**24
    small = replace(operation, scale=np.ones(128, np.uint16), bias=np.zeros(128, np.int32))
    expected = rounded(-255 * (128 * keys - 1), 10)
    assert (small.mix(scores, v) == expected).all()
    sums = operation.logits(np.full((1, 1, 1, 128), -128, np.float32), np.full((1, 1, 3, 128), -128, np.float32), 0)
    assert (sums == min(32767, 128**3 * int(operation.logit_scale[0]) >> 10)).all()


def test_sums_that_float32_cannot_hold_are_exact() -> None:
    rng = np.random.default_rng(0)
    operation = attention(heads=1, width=32, top=4095)
    scores = rng.integers(0, 256, (1, 1, 1, 4096)).astype(np.uint8)
    values = rng.integers(1, 120, (4096, 32))
    values[2048:] *= -1
    totals = operation.score_levels[scores.ravel()].astype(np.int64) @ values
    # The bias takes the sums back to 16 bits, where a lost last bit shows.
    bias = -totals * 255 // 4
    operation = replace(
        operation,
        v=encoder("v", 32, -8, 7),
        scale=np.full(32, 255, np.uint16),
        bias=bias.astype(np.int32),
    )
    found = operation.mix(scores, values.astype(np.float32)[None, None])
    assert found.ravel().tolist() == [rounded(int(a) * 255 + 4 * int(b), 10) for a, b in zip(totals, bias, strict=True)]


@pytest.mark.parametrize(("top", "planes"), [(15, 1), (255, 2), (256, 3), (4095, 3)])
def test_nibbles_of_scores_make_up_their_levels(top: int, planes: int) -> None:
    operation = attention(codes=16, top=max(top, 256))
    operation = replace(operation, score_levels=np.linspace(0, top, 16).astype(np.uint16))
    nibbles = operation.score_nibbles().astype(np.int64)
    assert nibbles.shape == (16, operation.score_planes) == (16, planes)
    assert nibbles.max() <= 15
    assert np.array_equal(nibbles @ (16 ** np.arange(planes)[::-1]), operation.score_levels)


def test_the_logit_scale_of_the_array_has_its_fraction_bits() -> None:
    operation = replace(attention(), logit_shift=7)
    assert np.array_equal(operation.array_logit_scale() / 1024, operation.logit_scale / 128)


def test_levels_of_scores_have_up_to_twelve_bits() -> None:
    operation = attention("static", top=4095)
    q, k, v = operands(1, 16, 16, operation)
    np.testing.assert_array_equal(operation.run(q, k, v)[1].values, literal(operation, q, k, v))
    with pytest.raises(UserError, match="scale of 16 exceeds 15"):
        replace(operation, scale=np.full(10, 16, np.uint16))
    assert replace(operation, v=encoder("v", 10, -8, 7), scale=np.full(10, 255, np.uint16)).heads == 2


@pytest.mark.parametrize("grid", ["uniform", "logarithmic"])
@pytest.mark.parametrize("keys", [1, 16, 4096])
def test_no_row_of_scores_sums_to_more_than_its_bound(grid: str, keys: int) -> None:
    thresholds = (np.arange(1, 16) - 0.5) / 15 if grid == "uniform" else 2.0 ** -np.arange(14.5, 0, -1)
    levels = np.arange(16) if grid == "uniform" else np.array([0, *2 ** np.arange(8).repeat(2)[1:]])
    operation = replace(
        attention(),
        thresholds=log_thresholds(thresholds),
        score_levels=levels.astype(np.uint16),
        scale=np.ones(10, np.uint16),
    )
    bound, rng = operation.largest_row_sum(), np.random.default_rng(keys)
    largest = 0
    for spread in (0, 20, 300, 2000, 6000):
        logits = rng.normal(0, spread, (20, keys)).astype(np.int32)
        largest = max(largest, int(levels[score_codes(logits, operation.thresholds)].sum(axis=-1).max()))
    # A row just above a threshold comes nearest.
    for threshold in operation.thresholds:
        count = min(keys, max(1, int(2.0 ** (int(threshold) / 512))))
        logits = np.where(np.arange(keys) < count, 0, -90000).astype(np.int32)[None]
        largest = max(largest, int(levels[score_codes(logits, operation.thresholds)].sum()))
    assert 0 < largest <= bound <= 4096 * int(levels.max())


@pytest.mark.parametrize("field", ["logit_scale", "scale"])
def test_a_scale_without_room_for_its_passes_is_refused(field: str) -> None:
    for operation, room in ((attention(four_bit=True, codes=16), None), (attention(), 255)):
        size = getattr(operation, field).shape
        limit = room or {"logit_scale": 65535, "scale": 4095}[field]
        replace(operation, **{field: np.full(size, limit, np.uint16)})  # type: ignore[arg-type]
        if limit < 65535:
            with pytest.raises(UserError, match=f"{field} of {limit + 1} exceeds {limit}"):
                replace(operation, **{field: np.full(size, limit + 1, np.uint16)})  # type: ignore[arg-type]


def test_an_accumulator_that_could_overflow_is_refused() -> None:
    # Thresholds so low that every key of a row may have the largest level.
    operation = replace(attention(), scale=np.full(10, 255, np.uint16), thresholds=np.full(255, 15000, np.int32))
    assert operation.largest_row_sum() == 4096 * 255
    largest = (2**35 - 1 - operation.largest_row_sum() * 128 * 255) // 4
    replace(operation, bias=np.full(10, -largest, np.int32))
    for bias in (-largest - 1, largest + 1, -(1 << 31)):
        with pytest.raises(UserError, match="in the accumulator"):
            replace(operation, bias=np.full(10, bias, np.int32))


def extreme_thresholds() -> np.ndarray:
    """Ascending, though the difference of 32-bit numbers wraps around to a negative one."""
    return np.array([-(1 << 31), *[(1 << 31) - 1] * 254], np.int32)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("heads", 3),
        ("heads", True),
        ("heads", 0),
        ("k", encoder("k", 8, -128, 119)),
        ("k", encoder("k", 10, -128, 127)),
        ("v", encoder("v", 10, -128, 127)),
        ("q", replace(encoder("q", 10, -128, 127), permutation=np.roll(np.arange(10), 1).astype(np.uint16))),
        ("logit_scale", np.ones(3, np.uint16)),
        ("logit_scale", np.ones(2, np.int32)),
        ("thresholds", np.zeros(14, np.int32)),
        ("thresholds", np.arange(255).astype(np.int32)),
        ("thresholds", extreme_thresholds()),
        ("score_levels", np.zeros(255, np.uint16)),
        ("score_levels", np.full(256, 4096, np.uint16)),
        ("scale", np.ones(2, np.uint16)),
        ("bias", np.zeros(10, np.int64)),
        ("wide_exponent", 65),
        ("position", StaticBias(np.zeros((2, 15), np.int16), 4)),
        ("position", StaticBias(np.zeros((2, 16), np.int32), 4)),
    ],
)
def test_an_attention_out_of_range_is_refused(field: str, value: object) -> None:
    with pytest.raises(UserError, match="attend"):
        replace(attention(), **{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rows", 5),
        ("columns", 0),
        ("rows", True),
        ("rel_rows", np.zeros((2, 8, 5), np.int8)),
        ("rel_columns", np.zeros((2, 7, 4), np.int8)),
        ("row_scale", np.zeros(1, np.uint16)),
        ("column_scale", np.zeros(2, np.int16)),
    ],
)
def test_decomposed_positions_out_of_range_are_refused(field: str, value: object) -> None:
    operation = attention("decomposed")
    assert isinstance(operation.position, DecomposedBias)
    with pytest.raises(UserError, match="attend"):
        replace(operation, position=replace(operation.position, **{field: value}))  # type: ignore[arg-type]


def test_tokens_that_the_positions_are_not_for_are_refused() -> None:
    for kind in ("static", "decomposed"):
        operation = attention(kind)
        for queries, keys in ((15, 16), (16, 15), (17, 17)):
            with pytest.raises(ValueError, match="position bias is for 16"):
                operation.run(*operands(1, queries, keys, operation))
    with pytest.raises(ValueError, match="at most 4096"):
        attention().run(*operands(1, 1, 4097, attention()))

# amaranth: UnusedElaboratable=no

"""Attention in Amaranth's simulator: whole attentions against the contract, back-pressure, cycles, bad commands."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hdl.array.geometry import CODE_BITS, ArrayGeometry
from hdl.array.sweep import STEPS_PER_CODEBOOK, sweep_program
from hdl.attention.attention import Attention, run_codebooks
from hdl.attention.geometry import AttentionGeometry
from hdl.matmul import OUTPUT_DEPTH, Matmul, load_cycles
from hdl.sequencer import Opcode
from hdl.softmax.search import threshold_words
from sim.bench.attention_cases import synthetic_attention, synthetic_operands
from sim.bench.attention_schedule import Plan, plan
from sim.machine.settings import Phase
from tests.hdl.attention.bench import play

GEOMETRY = AttentionGeometry(
    array=ArrayGeometry(rows=16, columns=4, loader_rows=8, token_depth=32, codebooks=4, column_group=2),
    lanes=2,
    keys=32,
    logit_words=64,
    code_words=32,
    block_words=64,
    code_beat_bits=32,
)
UNIFORM = np.arange(-8, 8, dtype=np.int8)
LOGARITHMIC = np.array([-15, -9, -7, -6, -5, -3, -2, -1, 0, 1, 2, 4, 6, 8, 11, 15], np.int8)

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "static position, held": ({"heads": 3, "width": 4, "side": 2, "position": "static"}, {"hold": 900}),
    "decomposed position, two row tiles, stalling": (
        {"heads": 1, "width": 18, "side": 3, "position": "decomposed"},
        {"gap": 0.3, "stall": 0.3},
    ),
    "4-bit operands": ({"heads": 2, "width": 5, "q_levels": LOGARITHMIC, "stationary_bits": 4, "score_top": 15}, {}),
    "4-bit q, stalling": ({"heads": 2, "width": 4, "q_levels": UNIFORM}, {"stall": 0.8}),
}


def payloads(geometry: AttentionGeometry, work: Plan) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Tables to write first, and operands by port."""
    array = geometry.array
    table = threshold_words(work.thresholds, geometry.softmax.code_bits).tolist()
    tables: dict[str, list[Any]] = {
        "i_codebook": [
            {"address": index * STEPS_PER_CODEBOOK + place, "step": step}
            for index, levels in enumerate(work.codebooks)
            for place, step in enumerate(sweep_program(levels))
        ],
        "i_threshold": [{"code": code, "threshold": word} for code, word in enumerate(table, 1)],
        "i_level": [{"code": code, "nibbles": row} for code, row in enumerate(work.nibbles.tolist())],
    }
    lanes = geometry.lanes
    sources: dict[str, list[Any]] = {
        "i_command": [*work.commands],
        "i_weights": [
            tile[at : at + array.loader_rows].tolist()
            for tile in work.weights
            for at in range(0, array.rows, array.loader_rows)
        ],
        "i_scale": [row.tolist() for row in work.scale],
        "i_bias": [row.tolist() for row in work.bias],
        "i_block": [len(block) for block in work.blocks],
        "i_codes": np.concatenate(work.blocks).reshape(-1, geometry.code_beat_bits // CODE_BITS).tolist(),
    }
    if geometry.bias:
        sources["i_position"] = [
            word
            for block in work.position
            for row in block
            for word in np.pad(row, (0, -len(row) % lanes)).reshape(-1, lanes).tolist()
        ]
    return tables, sources


def outputs(work: Plan, geometry: AttentionGeometry, **pressure: Any) -> np.ndarray:
    """Transfers int16 (n, columns) of the simulated unit."""
    tables, sources = payloads(geometry, work)
    count = work.output_transfers(geometry)
    taken, _ = play(Attention(geometry), sources, outputs=count, before=tables, **pressure)
    return np.array([list(word) for word in taken], np.int16)


@pytest.mark.parametrize("case", CASES)
def test_whole_attentions_equal_the_contract(case: str) -> None:
    shape, pressure = CASES[case]
    rng = np.random.default_rng(1)
    operation = synthetic_attention(rng, **shape)
    tokens = shape.get("side", 3) ** 2
    codes, expected = operation.run(*synthetic_operands(rng, operation, windows=1, queries=tokens, keys=tokens))
    work = plan(operation, codes, GEOMETRY)
    found = outputs(work, GEOMETRY, seed=2, **pressure)
    assert np.array_equal(found, work.modelled(GEOMETRY))
    result = np.zeros_like(expected.values)
    work.assemble(found, result)
    assert np.count_nonzero(result != expected.values) == 0
    assert len(np.unique(result)) > 10


@pytest.mark.parametrize("pressure", [{}, {"gap": 0.3, "stall": 0.3}], ids=["flowing", "stalls"])
def test_tables_of_their_own_for_every_run_of_q(pressure: dict[str, Any]) -> None:
    rng = np.random.default_rng(8)
    operation = synthetic_attention(rng, heads=2, width=18, side=3, position="static")
    codes, expected = operation.run(*synthetic_operands(rng, operation, windows=1, queries=9, keys=9))
    work = plan(operation, codes, GEOMETRY, split=True)
    assert not any(row.any() for row in work.bias[: work.commands[0]["tiles"]])
    result = np.zeros_like(expected.values)
    work.assemble(outputs(work, GEOMETRY, seed=9, **pressure), result)
    assert np.array_equal(result, expected.values)


def test_a_unit_without_a_position_stream() -> None:
    geometry = replace(GEOMETRY, bias=0, logit_words=16)
    rng = np.random.default_rng(3)
    operation = synthetic_attention(rng, heads=1, width=4, stationary_bits=4)
    # More queries than the buffers hold at once: two blocks.
    codes, expected = operation.run(*synthetic_operands(rng, operation, windows=1, queries=5, keys=15))
    work = plan(operation, codes, geometry)
    assert [command["queries"] for command in work.commands] == [4, 1, 4, 1]
    result = np.zeros_like(expected.values)
    work.assemble(outputs(work, geometry, gap=0.2, stall=0.2), result)
    assert np.array_equal(result, expected.values)


def test_a_mix_begins_while_logits_of_the_next_set_wait() -> None:
    """The second set's logits fill the output FIFO until the first set's rows have gone out, with MIX right behind."""
    # All rows loaded at once: the LOAD of the MIX takes fewer cycles than the output FIFO has words.
    array = replace(GEOMETRY.array, loader_rows=GEOMETRY.array.rows)
    geometry = replace(GEOMETRY, array=array, bias=0, logit_words=90)
    assert load_cycles(array, np.arange(16)) < OUTPUT_DEPTH
    rng = np.random.default_rng(5)
    operation = synthetic_attention(rng, heads=2, width=4, q_levels=UNIFORM, stationary_bits=4, score_top=15)
    codes, expected = operation.run(*synthetic_operands(rng, operation, windows=1, queries=29, keys=12))
    work = plan(operation, codes, geometry)
    assert [command["phase"] for command in work.commands] == [Phase.SCORES, Phase.SCORES, Phase.MIX, Phase.MIX]
    result = np.zeros_like(expected.values)
    work.assemble(outputs(work, geometry), result)
    assert np.array_equal(result, expected.values)


def parts(work: Plan) -> list[Plan]:
    """Plans of one command each, with its operands."""
    weights, scale, bias = iter(work.weights), iter(work.scale), iter(work.bias)
    blocks, position = iter(work.blocks), iter(work.position)
    result = []
    for command in work.commands:
        planes = command["tiles"] * command["groups"] * command["planes"]
        loads, runs = planes * len(run_codebooks(command)), planes * command["runs"]
        mix = command["phase"] == Phase.MIX
        part = replace(
            work,
            commands=[command],
            weights=[next(weights) for _ in range(loads)],
            scale=[next(scale) for _ in range(runs)],
            bias=[next(bias) for _ in range(command["tiles"])],
            blocks=[] if mix else [next(blocks)],
            position=[next(position)] if command["phase"] == Phase.SCORES else [],
        )
        result.append(part)
    return result


def joined(plans: list[Plan]) -> Plan:
    """One plan of the commands and operands of several."""

    def all_of(name: str) -> list[Any]:
        return [item for one in plans for item in getattr(one, name)]

    return replace(
        plans[0],
        commands=all_of("commands"),
        weights=all_of("weights"),
        scale=all_of("scale"),
        bias=all_of("bias"),
        blocks=all_of("blocks"),
        position=all_of("position"),
    )


def dense(
    work: Plan, rng: np.random.Generator, tokens: int, codebooks: list[int], runs: int = 1, *, tiles: int = 1
) -> Plan:
    """Column tiles of a dense layer, all from one block: a LOAD per codebook, `runs` RUNs on it."""
    array = GEOMETRY.array
    count = len(codebooks)
    rest = {**dict.fromkeys(("keys", "tiles", "groups", "planes"), 1), "split": 0}
    passes = [
        {"codebook": codebook, "word": number * runs, "first": int(number == 0), "last": int(number == count - 1)}
        for number, codebook in enumerate(codebooks)
    ] * tiles
    common = {"phase": Phase.DENSE, "queries": tokens, "runs": runs, "pitch": count * runs, **rest}
    return replace(
        work,
        commands=[{**common, **one, "release": int(n == len(passes) - 1)} for n, one in enumerate(passes)],
        weights=list(rng.integers(-8, 8, (count * tiles, array.rows, array.columns)).astype(np.int8)),
        scale=list(rng.integers(0, 4000, (count * runs * tiles, array.columns))),
        bias=list(rng.integers(-(1 << 16), 1 << 16, (tiles, array.columns))),
        blocks=[rng.integers(0, 16, (tokens * count * runs, array.rows)).astype(np.uint8)],
        position=[],
    )


def matmul_of(layer: Plan) -> np.ndarray:
    """Results int16 (tiles * tokens, columns) of a dense layer by hdl.matmul: a LOAD per RUN."""
    commands: list[dict[str, int]] = []
    (block,) = layer.blocks
    codes = []
    for command in layer.commands:
        runs = command["runs"]
        for run in range(runs):
            first, last = int(command["first"] and run == 0), int(command["last"] and run == runs - 1)
            commands.append({"opcode": Opcode.LOAD, "codebook": command["codebook"], "load_bias": first})
            commands.append({"opcode": Opcode.RUN, "tokens": command["queries"], "first": first, "last": last})
            codes.append(block[command["word"] + run :: command["pitch"]])
    return Matmul.model(
        GEOMETRY.array,
        commands,
        codebooks=dict(enumerate(layer.codebooks)),
        weights=[tile for tile, command in zip(layer.weights, layer.commands, strict=True) for _ in range(runs)],
        scale=layer.scale,
        bias=layer.bias,
        codes=codes,
    )[0]


@pytest.mark.parametrize("pressure", [{}, {"gap": 0.3, "stall": 0.5}, {"hold": 900}], ids=["flowing", "stalls", "held"])
def test_dense_layers_between_the_commands_of_attentions(pressure: dict[str, Any]) -> None:
    rng = np.random.default_rng(6)
    operation = synthetic_attention(rng, heads=2, width=18, side=2, position="static")
    codes, expected = operation.run(*synthetic_operands(rng, operation, windows=1, queries=4, keys=4))
    work = plan(operation, codes, GEOMETRY)
    work = replace(work, codebooks=[*work.codebooks, UNIFORM, LOGARITHMIC])
    first, second, mix_first, mix_second = parts(work)
    # Nibbles of a byte with a codebook each, three column tiles; one pass; passes of one LOAD each and three RUNs.
    layers = [
        dense(work, rng, 9, [1, 0], tiles=3),
        dense(work, rng, 32, [2]),
        dense(work, rng, 3, [2, 1, 0, 2], 3, tiles=2),
    ]
    order = [layers[0], first, layers[1], second, mix_first, layers[2], mix_second]
    whole = joined(order)
    found = outputs(whole, GEOMETRY, seed=7, **pressure)
    assert np.array_equal(found, whole.modelled(GEOMETRY))
    results = np.split(found, np.cumsum([one.output_transfers(GEOMETRY) for one in order])[:-1])
    for layer, place in zip(layers, (0, 2, 5), strict=True):
        assert np.array_equal(results[place], matmul_of(layer))
        assert len(np.unique(results[place])) > 10
    result = np.zeros_like(expected.values)
    work.assemble(np.concatenate([results[4], results[6]]), result)
    assert np.array_equal(result, expected.values)


def test_commands_that_break_a_rule_have_no_model() -> None:
    rng = np.random.default_rng(4)
    operation = synthetic_attention(rng, heads=4, width=4)
    codes, _ = operation.run(*synthetic_operands(rng, operation, windows=1, queries=3, keys=5))
    work = plan(operation, codes, GEOMETRY)
    scores = [command for command in work.commands if command["phase"] == Phase.SCORES]
    mixes = [command for command in work.commands if command["phase"] == Phase.MIX]
    for commands, message in (
        (scores[:3], "more than 2 sets of SCORES wait"),
        (mixes[:1], "a MIX without SCORES before it"),
        ([{**scores[0], "queries": 20, "keys": 32}], "take 160 words, over logit_words=64"),
        (
            [{**scores[0], "phase": Phase.DENSE, "tiles": 2, "first": 0}],
            "only a DENSE of one tile may begin without first=1",
        ),
        ([{**scores[0], "phase": Phase.DENSE, "tiles": 1, "first": 0}], "DENSE of 3 queries behind sums of 0"),
        ([{**scores[0], "phase": Phase.DENSE, "tiles": 1, "last": 0}, scores[1]], "SCORES of 3 .* of 3"),
        ([{**scores[0], "word": 1}], "word 9 is read of a block of 9 words"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(work, commands=commands).modelled(GEOMETRY)
    with pytest.raises(ValueError, match="a block has 72 words, over block_words=64"):
        replace(work, blocks=[np.tile(work.blocks[0], (8, 1))]).modelled(GEOMETRY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lanes": 8}, r"lanes=8 must be a power of two that divides columns=4, rows=16; nearest valid value: 4"),
        ({"keys": 5000}, r"keys=5000 must be in 1..4096; nearest valid value: 4096"),
        ({"logit_words": 0}, r"logit_words=0 must be in 1..65536; nearest valid value: 1"),
        ({"code_words": 1 << 17}, r"code_words=131072 must be in 1..65536; nearest valid value: 65536"),
        (
            {"block_words": 1 << 17},
            r"block_words=131072 must be a power of two in 2..65536; nearest valid value: 65536",
        ),
        ({"code_beat_bits": 128}, r"code_beat_bits=128 must be whole bytes, .* rows=16 .*; nearest valid value: 64"),
        ({"score_planes": 4}, r"score_planes=4 must be in 1..3; nearest valid value: 3"),
        ({"bias": 2}, r"bias=2 must be 0 or 1; nearest valid value: 1"),
    ],
)
def test_parameters_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(GEOMETRY, **change)

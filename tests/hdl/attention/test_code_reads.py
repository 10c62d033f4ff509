# amaranth: UnusedElaboratable=no

"""Reads of commands of every shape."""

from dataclasses import replace
from typing import Any

import pytest

from hdl.array.geometry import PRESETS
from hdl.attention.code_reads import CodeReads
from hdl.attention.geometry import AttentionGeometry
from tests.hdl.attention.bench import play

GEOMETRY = AttentionGeometry(array=replace(PRESETS["tiny"], token_depth=32), lanes=2, keys=32, block_words=64)
SHAPES = [(1, 1, 1, 1), (1, 1, 2, 3), (2, 1, 2, 1), (1, 3, 2, 2), (3, 2, 1, 3), (4, 3, 2, 2), (5, 1, 1, 1)]
"""(tiles, groups, planes, runs)."""


@pytest.mark.parametrize("pressure", [{}, {"gap": 0.4, "stall": 0.5}], ids=["flowing", "stalls"])
def test_a_read_for_every_run(pressure: dict[str, Any]) -> None:
    commands = [
        dict(zip(("tiles", "groups", "planes", "runs"), shape, strict=True))
        | {"word": 3 * number, "pitch": number, "queries": 32 - number, "release": number % 2}
        for number, shape in enumerate(SHAPES)
    ]
    expected = [read for command in commands for read in CodeReads.model(command)]
    taken, cycles = play(CodeReads(GEOMETRY), {"i": commands}, outputs=len(expected), seed=3, **pressure)
    assert [{name: read[name] for name in expected[0]} for read in taken] == expected
    if not pressure:
        # A cycle between two commands.
        assert cycles[-1] - cycles[0] == len(expected) - 1 + len(SHAPES) - 1


def test_runs_groups_planes_and_tiles() -> None:
    command = {"tiles": 2, "groups": 2, "planes": 2, "runs": 2, "word": 5, "pitch": 4, "queries": 3, "release": 1}
    reads = list(CodeReads.model(command))
    assert [read["word"] for read in reads] == [5, 6, 5, 6, 7, 8, 7, 8] * 2
    assert [read["release"] for read in reads] == [0] * 15 + [1]

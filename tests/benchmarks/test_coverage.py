# amaranth: UnusedElaboratable=no

"""Coverage: the declared points can be built on today's hardware, and what is not reached is not counted."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from amaranth.hdl import Fragment

from benchmarks.coverage.__main__ import TESTS, UNITS, figures, record, table
from benchmarks.coverage.point import Point, conditions, elaborate_in_view
from benchmarks.coverage.points import POINTS
from benchmarks.coverage.statements import ROOT, statement_lines
from benchmarks.coverage.verilated import counts_of
from hdl.activity.monitor import ActivityMonitor
from hdl.array.adder_tree import AdderTree
from hdl.array.geometry import PRESETS
from hdl.array.loader import TableLoader
from hdl.array.product_table import ProductTables
from hdl.attention.attention import Attention
from hdl.attention.code_buffer import CodeBuffer
from hdl.attention.code_gather import CodeGather
from hdl.attention.code_reads import CodeReads
from hdl.attention.geometry import AttentionGeometry
from hdl.attention.loops import Loops
from hdl.attention.reorder_buffer import ReorderBuffer
from hdl.attention.sequencer import AttentionSequencer
from hdl.layer_norm.group_counter import GroupCounter
from hdl.layer_norm.layer_norm import LayerNormUnit
from hdl.layer_norm.reciprocal_root import ReciprocalRoot
from hdl.layer_norm.shift_round import ShiftRound
from hdl.layer_norm.token_sums import TokenSums
from hdl.output_fifo import OutputFifo
from hdl.rescale import GroupRescale
from hdl.sequencer import CommandSequencer
from hdl.softmax.geometry import SoftmaxGeometry
from hdl.softmax.maximum import RowMaximum
from hdl.softmax.queue import CreditQueue, Credits
from hdl.softmax.row_reader import RowReader
from hdl.softmax.softmax import Softmax
from hdl.vector.activation import Activation
from hdl.vector.credit_fifo import CreditFifo
from hdl.vector.depthwise import DepthwiseConvolution
from hdl.vector.encoder import CodeEncoder
from hdl.vector.raster import Raster
from hdl.vector.residual import ResidualAdd
from hdl.vector.right_shift import RightShift
from sim.contract.errors import UserError

TINY = PRESETS["tiny"]
ATTENTION = AttentionGeometry(array=TINY, lanes=2, keys=10, logit_words=16, code_words=16)

BUILD: dict[type, Callable[[], Any]] = {
    ProductTables: lambda: ProductTables(rows=4, columns=4, loader_rows=2),
    AdderTree: lambda: AdderTree(inputs=3, width=4),
    TableLoader: lambda: TableLoader(TINY),
    GroupRescale: lambda: GroupRescale(TINY),
    CommandSequencer: lambda: CommandSequencer(TINY, credits=4, drain=20),
    OutputFifo: lambda: OutputFifo(TINY, depth=4),
    Softmax: lambda: Softmax(lanes=2, keys=10),
    RowMaximum: lambda: RowMaximum(SoftmaxGeometry(lanes=2, keys=10)),
    RowReader: lambda: RowReader(4, row_words=3, depth=8),
    CreditQueue: lambda: CreditQueue(4, depth=4),
    Credits: lambda: Credits(3),
    LayerNormUnit: lambda: LayerNormUnit(lanes=2, depth=16),
    GroupCounter: lambda: GroupCounter(bits=3),
    TokenSums: lambda: TokenSums(lanes=2),
    ReciprocalRoot: ReciprocalRoot,
    ShiftRound: lambda: ShiftRound(width=40, max_shift=20),
    CodeEncoder: lambda: CodeEncoder(lanes=2, channels=64),
    ResidualAdd: lambda: ResidualAdd(lanes=2),
    Activation: lambda: Activation(lanes=2),
    DepthwiseConvolution: lambda: DepthwiseConvolution(lanes=2, columns=8),
    Raster: lambda: Raster(columns=8),
    RightShift: lambda: RightShift(width=20, max_shift=9, kept=8),
    CreditFifo: lambda: CreditFifo(8, depth=4),
    Loops: lambda: Loops([3, 2]),
    ReorderBuffer: lambda: ReorderBuffer(ATTENTION),
    CodeBuffer: lambda: CodeBuffer(rows=8, code_beat_bits=8, block_words=4),
    CodeReads: lambda: CodeReads(ATTENTION),
    CodeGather: lambda: CodeGather(ATTENTION),
    AttentionSequencer: lambda: AttentionSequencer(ATTENTION),
    Attention: lambda: Attention(ATTENTION),
    ActivityMonitor: lambda: ActivityMonitor(streams=2),
}

TREE_TEST = "tests/hdl/array/test_adder_tree.py::test_sums_follow_after_the_latency_one_per_cycle"


def test_every_point_is_a_condition_on_todays_hardware() -> None:
    by_component: dict[Any, list[Point]] = defaultdict(list)
    for point in POINTS:
        by_component[point.component].append(point)
    assert len({point.title for point in POINTS}) == len(POINTS) > 200
    assert set(by_component) == set(BUILD)
    for component, points in by_component.items():
        module, view = elaborate_in_view(component.elaborate, BUILD[component](), None)
        assert [len(bit) for bit in conditions(points, view)] == [1] * len(points)
        # Parts that are never elaborated make Amaranth warn, in whichever test they are collected.
        Fragment.get(module, None)


def test_every_unit_has_sources_with_statements_and_every_test_exists() -> None:
    counted = {path for patterns in UNITS.values() for pattern in patterns for path in ROOT.glob(pattern)}
    assert {path.name for path in counted} >= {"rescale.py", "sequencer.py", "softmax.py", "lane.py", "raster.py"}
    for patterns in UNITS.values():
        assert any(statement_lines(path) for pattern in patterns for path in ROOT.glob(pattern))
    assert all((ROOT / test).exists() for test in TESTS)


def test_what_a_test_does_not_reach_is_not_counted() -> None:
    """Two operands have no odd one out: neither its register nor its point is reached. With seven they are."""
    even = figures(record([f"{TREE_TEST}[2-8]"]))
    both = figures(record([f"{TREE_TEST}[2-8]", f"{TREE_TEST}[7-8]"]))
    source = (ROOT / "hdl/array/adder_tree.py").read_text().splitlines()
    odd = (
        f"hdl/array/adder_tree.py:{1 + next(place for place, line in enumerate(source) if 'eq(level[index])' in line)}"
    )
    title = "adder tree: an operand without a partner"
    assert odd in even["units"]["array"]["missed"]
    assert odd not in both["units"]["array"]["missed"]
    assert even["points"][title] is None
    assert both["points"][title] == f"{TREE_TEST}[7-8]"
    assert even["points"]["adder tree: every operand at its lowest"] == f"{TREE_TEST}[2-8]"
    assert even["points"]["credit fifo: full"] is None
    assert f"not reached: {odd}" in table(even)
    assert f"not hit: {title}" in table(even)


def test_branches_that_are_not_taken_are_not_reached() -> None:
    """A queue that nobody overfills: nothing but what its test does at clock edges is counted."""
    found = figures(record(["tests/hdl/vector/test_credit_fifo.py::test_fifo_keeps_order_and_its_promise[2]"]))
    assert found["units"]["parts of vector units"]["reached"] > 10
    assert found["units"]["softmax"]["reached"] == 0
    assert found["points"]["credit fifo: full"]


def test_lines_of_verilog_are_counted_once_per_module_and_without_what_the_back_end_adds() -> None:
    def point(page: str, line: int, kind: str, instance: str, count: int) -> str:
        fields = {"f": "top.v", "l": line, "n": 5, "page": page, "o": kind, "h": instance}
        return "C '" + "".join(f"\x01{name}\x02{value}" for name, value in fields.items()) + f"' {count}"

    source = "always @* begin\n  if (\\$auto$verilog_backend.cc:1:dump_module$1 ) begin end\n  if (rst) begin\n"
    text = "\n".join(
        [
            "# SystemC::Coverage-3",
            point("v_branch/unit", 2, "if", "top.a", 0),
            point("v_branch/unit", 3, "if", "top.a", 0),
            point("v_branch/unit", 3, "if", "top.b", 4),
            point("v_branch/unit", 3, "else", "top.a", 0),
            point("v_toggle/unit", 3, "rst", "top.a", 9),
        ]
    )
    assert counts_of(text, source) == {
        ("v_branch/unit", "3", "5", "if"): 4,
        ("v_branch/unit", "3", "5", "else"): 0,
    }


def test_a_test_that_fails_gives_no_figures() -> None:
    with pytest.raises(UserError, match="a test failed"):
        record(["tests/hdl/array/no_such_test.py"])

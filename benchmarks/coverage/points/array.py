"""Points of the matmul array and what stands around it."""

from typing import Any, Final

from benchmarks.coverage.point import Point, View
from hdl.array.adder_tree import AdderTree
from hdl.array.loader import TableLoader
from hdl.array.product_table import ProductTables
from hdl.output_fifo import OutputFifo
from hdl.rescale import REVISIT_DISTANCE, GroupRescale
from hdl.sequencer import SHORTEST_RUN, CommandSequencer, Opcode

LIMIT: Final = (1 << 15) - 1


def _stored(at: View) -> Any:
    return at.store[at.group]


def _fits(at: View) -> Any:
    return _stored(at) & ~at("_round").finish.over


def _half(at: View) -> Any:
    return at("_round").half & ~at("_round").below.any()


def _run(at: View) -> Any:
    return at.machine.ongoing("RUN")


def _load(at: View) -> Any:
    return at.machine.ongoing("LOAD") & at.take_scale


def _begun(at: View) -> Any:
    return at.unit.i_command.valid & at.unit.i_command.ready & (at.command.opcode == Opcode.RUN)


def _revisited(at: View) -> Any:
    control, distance = at.unit.control, REVISIT_DISTANCE
    same = control.token == at.later(control.token, distance)
    return control.valid & ~control.first & at.later(control.valid, distance) & same


def _loader(name: str, condition: Any) -> Point:
    return Point("loader", name, TableLoader, condition)


def _rescale(name: str, condition: Any) -> Point:
    return Point("rescale", name, GroupRescale, condition)


def _sequencer(name: str, condition: Any) -> Point:
    return Point("sequencer", name, CommandSequencer, condition)


def _fifo(name: str, condition: Any) -> Point:
    return Point("output FIFO", name, OutputFifo, condition)


POINTS: Final = (
    Point(
        "product tables", "a product of -8 and 15", ProductTables, lambda at: at.unit.products[0][0] == -120, alone=True
    ),
    Point(
        "product tables", "a product of -8 and -15", ProductTables, lambda at: at.unit.products[0][0] == 120, alone=True
    ),
    Point("product tables", "the last row group is written", ProductTables, lambda at: at.unit.write.enable[-1]),
    Point(
        "product tables",
        "an entry is read while data waits without an enable",
        ProductTables,
        lambda at: ~at.unit.write.enable.any() & (at.unit.codes[0] == at.unit.write.code),
        alone=True,
    ),
    Point(
        "adder tree",
        "every operand at its lowest",
        AdderTree,
        lambda at: at.unit.o == -at.unit._inputs << (at.unit._width - 1),
        alone=True,
    ),
    Point(
        "adder tree",
        "every operand at its highest",
        AdderTree,
        lambda at: at.unit.o == at.unit._inputs * ((1 << (at.unit._width - 1)) - 1),
        alone=True,
    ),
    Point(
        "adder tree",
        "an operand without a partner",
        AdderTree,
        lambda at: bool(at.unit._inputs % 2) & (at.unit.o != 0),
        alone=True,
    ),
    _loader("duplicate levels", lambda at: at.beside.issue & at.step.write & ~at.step.advance & ~at.step.clear),
    _loader("a level without a code", lambda at: at.beside.issue & at.step.advance & ~at.step.write),
    _loader("a level of zero with a code", lambda at: at.beside.issue & at.step.clear & at.step.write),
    _loader("a descent", lambda at: at.beside.issue & at.step.advance & at.step.subtract),
    _loader("weights are late", lambda at: at("_counter").active & at("_counter").first & ~at.unit.i_weights.valid),
    _loader(
        "weights wait for the row group before",
        lambda at: at("_counter").active & at("_counter").first & at.unit.i_weights.valid & ~at("_counter").captured,
    ),
    _loader("the last of several row groups", lambda at: at.row_group[-1] & at.issue & bool(len(at.row_group) > 1)),
    _loader("a codebook that was never written", lambda at: at.issue & (at("_counter").last_step == 0)),
    _loader("a codebook other than the first", lambda at: at.issue & (at("_counter").codebook != 0)),
    _loader(
        "a load waits for the last steps of a sweep",
        lambda at: at.unit.i.valid & at("_counter").active & at("_counter").released,
    ),
    _rescale("saturates high", lambda at: _stored(at) & at("_round").finish.over & ~at("_round").sign),
    _rescale("saturates low", lambda at: _stored(at) & at("_round").finish.over & at("_round").sign),
    _rescale("tie rounds down to even", lambda at: _fits(at) & _half(at) & ~at("_round").floor[0]),
    _rescale("tie rounds up to even", lambda at: _fits(at) & _half(at) & at("_round").floor[0]),
    _rescale(
        "just above a tie rounds up",
        lambda at: _fits(at) & at("_round").half & ~at("_round").floor[0] & (at("_round").below == 1),
    ),
    _rescale("just below a tie", lambda at: _fits(at) & ~at("_round").half & at("_round").below.all()),
    _rescale("rounds at the limit", lambda at: _fits(at) & at("_round").finish.up & (at("_round").floor == LIMIT)),
    _rescale("a tie below zero", lambda at: _fits(at) & _half(at) & at("_round").sign),
    _rescale("one tile alone", lambda at: at.control.valid & at.control.first & at.control.last),
    _rescale("first of several tiles", lambda at: at.control.valid & at.control.first & ~at.control.last),
    _rescale("last of several tiles", lambda at: at.control.valid & ~at.control.first & at.control.last),
    _rescale("tile in the middle", lambda at: at.control.valid & ~at.control.first & ~at.control.last),
    _rescale("a token comes back after the least distance", _revisited),
    _rescale("a scale of 32 or more", lambda at: _stored(at) & at.scale[-1]),
    _rescale("scale without a bias", lambda at: at.control.take_scale & ~at.control.take_bias),
    _rescale("scale with a bias", lambda at: at.control.take_scale & at.control.take_bias),
    _sequencer(
        "RUN waits for credit", lambda at: _run(at) & at.more & at.last & (at.credits == 0) & at.unit.codes_valid
    ),
    _sequencer("a credit is spent as one comes back", lambda at: at.spent & at.unit.output_taken),
    _sequencer("RUN waits for codes", lambda at: at.unit.codes_ready & ~at.unit.codes_valid),
    _sequencer("RUN without results", lambda at: at.accepted & ~at.last),
    _sequencer("RUN of no tokens", lambda at: _begun(at) & (at.command.tokens == 0)),
    _sequencer("RUN of one token", lambda at: _begun(at) & (at.command.tokens == 1)),
    _sequencer("shortest RUN without padding", lambda at: _begun(at) & (at.command.tokens == SHORTEST_RUN)),
    _sequencer(
        "RUN of a full token memory", lambda at: _begun(at) & (at.command.tokens == at.unit._geometry.token_depth)
    ),
    _sequencer("LOAD waits for scales", lambda at: _load(at) & ~at.unit.scale_valid),
    _sequencer(
        "LOAD waits for biases", lambda at: _load(at) & at.unit.scale_valid & at.take_bias & ~at.unit.bias_valid
    ),
    _sequencer(
        "LOAD waits for the scales of the one before", lambda at: _load(at) & at.unit.scale_valid & at.scale_pending
    ),
    _sequencer(
        "LOAD waits for the biases of the one before",
        lambda at: _load(at) & at.take_bias & at.unit.bias_valid & at.bias_pending,
    ),
    _sequencer(
        "LOAD waits for the sweep",
        lambda at: at.machine.ongoing("LOAD") & ~at.take_scale & at.unit.loader_busy,
    ),
    _sequencer(
        "a command while the pipeline drains",
        lambda at: at.unit.i_command.valid & at.unit.i_command.ready & (at.draining != 0),
    ),
    _fifo("full", lambda at: at.level == at.unit._depth),
    _fifo("the read pointer wraps", lambda at: at.taken & (at.read_pointer == at.unit._depth - 1)),
    _fifo("the write pointer wraps", lambda at: at.unit.i_valid & (at.write_pointer == at.unit._depth - 1)),
    _fifo("one in, one out", lambda at: at.stored & at.taken),
    _fifo("the reader waits for a token", lambda at: at.unit.o.ready & ~at.unit.o.valid),
    _fifo("a token waits for the reader", lambda at: at.unit.o.valid & ~at.unit.o.ready),
    _fifo("emptied", lambda at: at.taken & (at.level == 1) & ~at.stored),
)

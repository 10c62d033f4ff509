"""Points of the LayerNorm unit."""

from typing import Any, Final

from benchmarks.coverage.point import Point, View
from hdl.layer_norm.group_counter import GroupCounter
from hdl.layer_norm.layer_norm import LayerNormUnit
from hdl.layer_norm.reciprocal_root import MAX_EXPONENT, ReciprocalRoot
from hdl.layer_norm.shift_round import ShiftRound
from hdl.layer_norm.token_sums import TokenSums

LIMIT: Final = (1 << 15) - 1


def _unit(name: str, condition: Any) -> Point:
    return Point("LayerNorm", name, LayerNormUnit, condition)


def _root(name: str, condition: Any) -> Point:
    return Point("LayerNorm root", name, ReciprocalRoot, condition)


def _rounding(name: str, condition: Any) -> Point:
    return Point("LayerNorm rounding", name, ShiftRound, condition, alone=True)


def _no_variance(at: View) -> Any:
    sums = at.unit.i.payload
    return at.starting & (at.unit.channels * sums.squares == sums.sum * sums.sum)


def _tie(at: View) -> Any:
    return at.half & ~at.sticky & at.fits


POINTS: Final = (
    _unit("token of one channel", lambda at: at.accepted & (at.channels == 1)),
    _unit("token of one transfer", lambda at: at.accepted & at.writing.at_start & at.writing.at_end),
    _unit("deepest token", lambda at: at.filled & (at.channels == at.geometry.depth)),
    _unit("command of no tokens", lambda at: at.commanded & (at.command.tokens == 0)),
    _unit("command of one token", lambda at: at.commanded & (at.command.tokens == 1)),
    _unit("lanes without a channel", lambda at: at.filled & at.surplus.any()),
    _unit("a token waits for a buffer", lambda at: at.unit.i.valid & at.more & at.writing.at_start & ~at.has_free),
    _unit("a token's end waits for the root", lambda at: at.unit.i.valid & at.more & at.writing.at_end & at.computing),
    _unit("all buffers are taken", lambda at: at.free == 0),
    _unit("a buffer is taken as one is released", lambda at: at.reserved & at.released),
    _unit("buffers start over", lambda at: at.filled & (at.write_buffer == at.geometry.buffers - 1)),
    _unit("a scale waits for the token before it", lambda at: at.root.o.valid & ~at.root.o.ready),
    _unit("a token is read right behind another", lambda at: at.ending & at.taking),
    _unit("reading waits for a place in the output", lambda at: at.active & ~at.has_credit),
    _unit("a place is taken as one comes back", lambda at: at.returned & at.issued),
    _unit("results wait for the reader", lambda at: at.unit.o.valid & ~at.unit.o.ready),
    _unit("parameters wait for the end of a command", lambda at: at.unit.i_parameters.valid & ~at.unit.o_idle),
    _unit("a result at the lower limit", lambda at: at.unit.o.valid & (at.unit.o.payload[0] == -LIMIT - 1)),
    _unit("a result at the upper limit", lambda at: at.unit.o.valid & (at.unit.o.payload[0] == LIMIT)),
    _unit("largest shift", lambda at: at.filled & (at.shift == 40)),
    _unit("no shift", lambda at: at.filled & (at.shift == 0)),
    Point(
        "LayerNorm group counter",
        "a single group",
        GroupCounter,
        lambda at: at.unit.step & at.unit.at_start & at.unit.at_end,
    ),
    Point(
        "LayerNorm group counter",
        "two groups",
        GroupCounter,
        lambda at: at.unit.step & at.unit.at_end & (at.unit.group == 1),
    ),
    Point(
        "LayerNorm token sums",
        "lowest channel squared",
        TokenSums,
        lambda at: at.unit.valid & (at.unit.x[0] == -LIMIT - 1),
    ),
    Point(
        "LayerNorm token sums",
        "token of one transfer",
        TokenSums,
        lambda at: at.unit.valid & at.unit.first & at.unit.last,
    ),
    Point("LayerNorm token sums", "gap within a token", TokenSums, lambda at: ~at.unit.valid & at.ever(at.unit.valid)),
    Point("LayerNorm token sums", "negative sum", TokenSums, lambda at: at.unit.o.valid & (at.unit.o.payload.sum < 0)),
    _root("variance zero", lambda at: _no_variance(at) & (at.unit.i.payload.squares != 0)),
    _root("all channels zero", lambda at: _no_variance(at) & (at.unit.i.payload.squares == 0)),
    _root("largest epsilon", lambda at: at.starting & (at.unit.epsilon == 1 << 60)),
    _root("epsilon of one", lambda at: at.starting & (at.unit.epsilon == 1)),
    _root("most channels", lambda at: at.starting & (at.unit.channels == 4096)),
    _root("smallest exponent", lambda at: at.done & (at.exponent == 0)),
    _root("largest exponent", lambda at: at.done & (at.exponent == MAX_EXPONENT)),
    _root("an epsilon that needs its fourth piece", lambda at: at.starting & at.unit.epsilon[48:].any()),
    _root("mantissa in the table's first entry", lambda at: at.take_estimate & (at.spread[-8:] == 64)),
    _root("mantissa in the table's last entry", lambda at: at.take_estimate & (at.spread[-8:] == 255)),
    _root("the root waits", lambda at: at.done & ~at.unit.o.ready),
    _root("negative sum", lambda at: at.starting & (at.unit.i.payload.sum < 0)),
    _rounding("tie rounds down to even", lambda at: _tie(at) & ~at.floor[0]),
    _rounding("tie rounds up to even", lambda at: _tie(at) & at.floor[0]),
    _rounding("a bit far below a tie", lambda at: at.half & at.sticky & ~at.floor[0] & at.fits),
    _rounding("saturates high", lambda at: ~at.fits & ~at.sign),
    _rounding("saturates low", lambda at: ~at.fits & at.sign),
    _rounding("overflow in the last stage alone", lambda at: ~at.over & ~at.fits),
    _rounding("rounds at the limit", lambda at: at.fits & at.finish.up & (at.floor[:16] == LIMIT)),
    _rounding("no shift", lambda at: at.unit.shift == 0),
    _rounding("largest shift", lambda at: at.unit.shift == at.unit._max_shift),
)

"""Points of the softmax unit."""

from typing import Any, Final

from amaranth.hdl import Const

from benchmarks.coverage.point import Point, View
from hdl.softmax.geometry import TERM_BITS
from hdl.softmax.maximum import RowMaximum
from hdl.softmax.queue import CreditQueue, Credits
from hdl.softmax.row_reader import RowReader
from hdl.softmax.softmax import Softmax
from hdl.softmax.terms import HALVINGS, Distances
from sim.contract.softmax import LARGEST_DISTANCE, LOG_FRACTION_BITS


def _starts(at: View) -> Any:
    return at.accepted & (at("_accept").count == 0)


def _stored_key(at: View) -> Any:
    """A key's distance is written: lane 0 held one."""
    present = at.later(at.distance.logits[0] != 0, Distances.LATENCY)
    return at.valid_stored & present


def _distance(at: View) -> Any:
    return at.distance.o[0]


def _scored(at: View) -> Any:
    return at.later(at.to_codes.read, at.latency + 1)


def _middle(at: View) -> Any:
    """The middle threshold, as it was written last, in a register of the probe's own."""
    write = at.unit.i_threshold
    here = write.valid & (write.payload.code == 1 << (at.geometry.code_bits - 1))
    return at.when(here, write.payload.threshold)


def _unit(name: str, condition: Any) -> Point:
    return Point("softmax", name, Softmax, condition)


POINTS: Final = (
    _unit(
        "row of one key",
        lambda at: _starts(at) & at.last & (sum(at.payload.present, start=Const(0)) == 1),
    ),
    _unit("row of one word", lambda at: _starts(at) & at.last),
    _unit("row of two words", lambda at: at.accepted & at.last & (at("_accept").count == 1)),
    _unit("longest row", lambda at: at.accepted & at.last & (at("_accept").count == at.geometry.row_words - 1)),
    _unit("a full row ends unasked", lambda at: at.accepted & at.last & ~at.payload.last),
    _unit("a lane without a key", lambda at: at.accepted & ~at.payload.present.all()),
    _unit("lane 0 without a key", lambda at: at.accepted & ~at.payload.present[0] & at.payload.present.any()),
    _unit("a word without a key", lambda at: at.accepted & ~at.payload.present.any()),
    _unit(
        "logits wait for biases",
        lambda at: at.unit.i_logits.valid & ~at.unit.i_bias.valid if at.geometry.bias else False,
    ),
    _unit(
        "biases wait for logits",
        lambda at: at.unit.i_bias.valid & ~at.unit.i_logits.valid if at.geometry.bias else False,
    ),
    _unit("without a bias", lambda at: at.accepted if not at.geometry.bias else False),
    _unit("ring of logits wraps", lambda at: at.word_valid & at.write_logits.all()),
    _unit("ring of distances wraps", lambda at: at.valid_stored & at.write_distances.all()),
    _unit("phase 1 waits for room for logits", lambda at: at.unit.i_logits.valid & ~at.logit_words.available),
    _unit("phase 1 waits for a place for a maximum", lambda at: at.unit.i_logits.valid & ~at.maximum_places.available),
    _unit("phase 2 waits for room for distances", lambda at: ~at.to_sum.i.ready & ~at.distance_words.available),
    _unit("phase 2 waits for a place for a sum", lambda at: ~at.to_sum.i.ready & ~at.sum_places.available),
    _unit("phase 3 waits for a place for codes", lambda at: ~at.to_codes.i.ready & ~at.code_places.available),
    _unit("codes wait for the reader", lambda at: at.unit.o.valid & ~at.unit.o.ready),
    _unit("the last codes leave", lambda at: at.taken & (at.under_way == 1) & ~at.accepted),
    _unit("a word in and a word out", lambda at: at.taken & at.accepted),
    _unit("a key at the maximum", lambda at: _stored_key(at) & (_distance(at) == 0)),
    _unit("a key a step below the maximum", lambda at: _stored_key(at) & (_distance(at) == 1)),
    _unit("a key at a whole halving", lambda at: _stored_key(at) & (_distance(at) == 1 << LOG_FRACTION_BITS)),
    _unit(
        "a key at sixteen halvings and one step less",
        lambda at: _stored_key(at) & (_distance(at) == (HALVINGS << LOG_FRACTION_BITS) - 1),
    ),
    _unit("a key at sixteen halvings", lambda at: _stored_key(at) & (_distance(at) == HALVINGS << LOG_FRACTION_BITS)),
    _unit(
        "a key a step before the largest distance", lambda at: _stored_key(at) & (_distance(at) == LARGEST_DISTANCE - 1)
    ),
    _unit("a key at or beyond the largest distance", lambda at: _stored_key(at) & (_distance(at) == LARGEST_DISTANCE)),
    _unit("sum of a single largest term", lambda at: at.row_sum.o_valid & (at.row_sum.total == 1 << (TERM_BITS - 1))),
    _unit("sum in its highest place", lambda at: at.row_sum.o_valid & at.row_sum.total[-1]),
    _unit(
        "sum of a whole power of two above one term",
        lambda at: at.row_sum.o_valid & (at.row_sum.total == 1 << TERM_BITS),
    ),
    _unit("score on the middle threshold", lambda at: _scored(at) & (at.score == _middle(at))),
    _unit("lowest code", lambda at: at.codes.i_valid & ~at.codes.i.code[0].any()),
    _unit("highest code", lambda at: at.codes.i_valid & at.codes.i.code[0].all()),
    _unit("thresholds are replaced after rows", lambda at: at.unit.i_threshold.valid & at.ever(at.taken)),
    Point("softmax maximum", "stays", RowMaximum, lambda at: at.valid & ~at.fresh & (at.level[0] < at.unit.maximum)),
    Point("softmax maximum", "rises", RowMaximum, lambda at: at.valid & ~at.fresh & (at.level[0] > at.unit.maximum)),
    Point(
        "softmax maximum",
        "is met again",
        RowMaximum,
        lambda at: at.valid & ~at.fresh & (at.level[0] == at.unit.maximum),
    ),
    Point(
        "softmax maximum",
        "falls with a new row",
        RowMaximum,
        lambda at: at.valid & at.fresh & (at.level[0] < at.unit.maximum),
    ),
    Point(
        "softmax row reader",
        "rows without a gap",
        RowReader,
        lambda at: at.unit.i.valid & at.unit.read & at.unit.last,
    ),
    Point("softmax row reader", "row of one word", RowReader, lambda at: at.unit.read & at.unit.first & at.unit.last),
    Point(
        "softmax row reader", "held within a row", RowReader, lambda at: at.active & ~at.unit.enable & ~at.unit.first
    ),
    Point("softmax row reader", "the address wraps", RowReader, lambda at: at.unit.read & at.unit.address.all()),
    Point(
        "softmax queue",
        "full",
        CreditQueue,
        lambda at: at.unit.o.valid & ((at.written - at.fetched)[: len(at.written)] == at.unit._depth - 1),
    ),
    Point("softmax queue", "runs empty", CreditQueue, lambda at: at.unit.o.valid & at.unit.o.ready & ~at.waiting),
    Point("softmax queue", "wraps", CreditQueue, lambda at: at.unit.i_valid & at.written.all()),
    Point("softmax queue", "in and out at once", CreditQueue, lambda at: at.unit.i_valid & at.fetch & at.waiting),
    Point("softmax credits", "none left", Credits, lambda at: ~at.unit.available),
    Point("softmax credits", "the last is spent", Credits, lambda at: at.unit.spend & ~at.unit.refund & (at.free == 0)),
    Point("softmax credits", "spent and refunded at once", Credits, lambda at: at.unit.spend & at.unit.refund),
    Point("softmax credits", "refunded when none was left", Credits, lambda at: at.unit.refund & ~at.unit.available),
)

"""Points of the vector units: encoder, residual, activation, depthwise convolution and their parts."""

from typing import Any, Final

from benchmarks.coverage.point import Point, View
from hdl.finish import Finish
from hdl.vector.activation import Activation
from hdl.vector.credit_fifo import CreditFifo
from hdl.vector.depthwise import SHIFT_MAX, DepthwiseConvolution
from hdl.vector.encoder import INDEX_BITS, CodeEncoder
from hdl.vector.raster import Raster
from hdl.vector.residual import ResidualAdd
from hdl.vector.right_shift import RightShift
from sim.contract.activation_table import LARGEST_SEGMENT_BITS, SEGMENTS, TABLE_ENTRIES
from sim.machine.settings import DISTANCE_MAX


def _encoder(name: str, condition: Any) -> Point:
    return Point("encoder", name, CodeEncoder, condition)


def _index(at: View) -> Any:
    return at.later(at.accepted, at.unit._index_stage)


def _residual(name: str, condition: Any) -> Point:
    return Point("residual", name, ResidualAdd, condition)


def _total(at: View) -> Any:
    """A sum that fits is about to be rounded, or with `_over` one that does not."""
    return at.later(at.accepted, at.unit.TOTAL_STAGE) & ~at.finish.over


def _over(at: View) -> Any:
    return at.later(at.accepted, at.unit.TOTAL_STAGE) & at.finish.over


def _set(at: View) -> Any:
    return at.unit.i_setting.valid & at.unit.i_setting.ready


def _activation(name: str, condition: Any) -> Point:
    return Point("activation", name, Activation, condition)


def _segment(at: View) -> Any:
    return at.later(at.accepted, 1)


def _summed(at: View) -> Any:
    return at.later(at.accepted, at.unit.SUM_STAGE)


def _depthwise(name: str, condition: Any) -> Point:
    return Point("depthwise", name, DepthwiseConvolution, condition)


def _shifted(at: View) -> Any:
    return at.later(at.raster.o_emit, at.unit.finished_stage - Finish.LATENCY)


def _indexed(at: View) -> Any:
    return at.later(at.accepted, at.unit.INDEX_STAGE)


def _raster(name: str, condition: Any) -> Point:
    return Point("raster", name, Raster, condition)


def _shift(name: str, condition: Any) -> Point:
    return Point("right shift", name, RightShift, condition, alone=True)


def _fits(at: View) -> Any:
    return at.moving[0] & ~at.over


def _fifo(name: str, condition: Any) -> Point:
    return Point("credit fifo", name, CreditFifo, condition)


POINTS: Final = (
    _encoder("table start clipped", lambda at: _index(at) & at.shifter.negative),
    _encoder("table end clipped", lambda at: _index(at) & ~at.shifter.negative & at.shifter.over),
    _encoder("first index", lambda at: _index(at) & ~at.shifter.negative & ~at.shifter.over & (at.clamped == 0)),
    _encoder(
        "last index",
        lambda at: _index(at) & ~at.shifter.negative & ~at.shifter.over & (at.clamped == (1 << INDEX_BITS) - 1),
    ),
    _encoder("token of one beat", lambda at: at.accepted & at.unit.i.payload.last & (at.beat == 0)),
    _encoder("longest token", lambda at: at.accepted & at.unit.i.payload.last & (at.beat == at.unit._beats - 1)),
    _encoder("largest shift", lambda at: at.later(at.accepted, at.unit._shift_stage) & (at.shift == 30)),
    _encoder("no shift", lambda at: at.later(at.accepted, at.unit._shift_stage) & (at.shift == 0)),
    _encoder("a table of its own for a later tile", lambda at: _index(at) & (at.table != 0)),
    _encoder("a table in a second block RAM", lambda at: _index(at) & (at.table >= 4)),
    _encoder("a table waits for codes", lambda at: at.unit.i_table.valid & ~at.unit.i_table.ready),
    _encoder("values wait for room", lambda at: at.unit.i.valid & ~at.fifo.o_room),
    _encoder("codes wait for the reader", lambda at: at.unit.o.valid & ~at.unit.o.ready),
    _residual("tie rounds down to even", lambda at: _total(at) & at.half & ~at.below.any() & ~at.floor[0]),
    _residual("tie rounds up to even", lambda at: _total(at) & at.half & ~at.below.any() & at.floor[0]),
    _residual("just above a tie", lambda at: _total(at) & at.half & at.below.any() & ~at.floor[0]),
    _residual("saturates high", lambda at: _over(at) & ~at.total[-1]),
    _residual("saturates low", lambda at: _over(at) & at.total[-1]),
    _residual("rounds at the limit", lambda at: _total(at) & at.finish.up & (at.floor == (1 << 15) - 1)),
    _residual("an exponent 16 above", lambda at: _set(at) & (at.unit.i_setting.payload.first == 2 * DISTANCE_MAX)),
    _residual("an exponent 16 below", lambda at: _set(at) & (at.unit.i_setting.payload.second == 0)),
    _residual(
        "both exponents the result's",
        lambda at: _set(at) & (at.unit.i_setting.payload.first == 16) & (at.unit.i_setting.payload.second == 16),
    ),
    _residual("the first operand waits", lambda at: at.unit.i_first.valid & ~at.unit.i_second.valid),
    _residual("the second operand waits", lambda at: at.unit.i_second.valid & ~at.unit.i_first.valid),
    _residual("a setting waits for results", lambda at: at.unit.i_setting.valid & ~at.unit.i_setting.ready),
    _residual(
        "values wait for a setting", lambda at: at.unit.i_setting.valid & at.unit.i_first.valid & at.unit.i_second.valid
    ),
    _residual("values wait for room", lambda at: at.unit.i_first.valid & at.unit.i_second.valid & ~at.fifo.o_room),
    _activation("beyond the first sample", lambda at: _segment(at) & at("_segment").beyond & at("_segment").held[-1]),
    _activation("beyond the last sample", lambda at: _segment(at) & at("_segment").beyond & ~at("_segment").held[-1]),
    _activation("first segment", lambda at: _indexed(at) & (at("_segment").index == 0)),
    _activation("last segment", lambda at: _indexed(at) & (at("_segment").index == SEGMENTS - 1)),
    _activation("a rise beyond the range, up", lambda at: _summed(at) & at.over & ~at.negative),
    _activation("a rise beyond the range, down", lambda at: _summed(at) & at.over & at.negative),
    _activation("a sum saturates high", lambda at: _summed(at) & ~at.over & at.finish.over & ~at.total[-1]),
    _activation("a sum saturates low", lambda at: _summed(at) & ~at.over & at.finish.over & at.total[-1]),
    _activation("a rise rounds up", lambda at: at.later(at.accepted, at.unit.SUM_STAGE - 1) & at.shift.up),
    _activation("segments of one step", lambda at: _set(at) & (at.unit.i_setting.payload == 0)),
    _activation("largest segments", lambda at: _set(at) & (at.unit.i_setting.payload == LARGEST_SEGMENT_BITS)),
    _activation(
        "the last sample is written",
        lambda at: at.unit.i_table.valid & (at.unit.i_table.payload.address == TABLE_ENTRIES - 1),
    ),
    _activation("a setting waits for results", lambda at: at.unit.i_setting.valid & ~at.unit.i_setting.ready),
    _activation("values wait for a setting", lambda at: at.unit.i_setting.valid & at.unit.i.valid),
    _activation("values wait for room", lambda at: at.unit.i.valid & ~at.fifo.o_room),
    _depthwise("saturates high", lambda at: _shifted(at) & at.shifter.over & ~at.shifter.negative),
    _depthwise("saturates low", lambda at: _shifted(at) & at.shifter.over & at.shifter.negative),
    _depthwise("rounds up", lambda at: _shifted(at) & ~at.shifter.over & at.shifter.up),
    _depthwise("rounds down", lambda at: _shifted(at) & ~at.shifter.over & ~at.shifter.up),
    _depthwise("no shift", lambda at: _shifted(at) & (at.shift == 0)),
    _depthwise("largest shift", lambda at: _shifted(at) & (at.shift == SHIFT_MAX)),
    _depthwise("a map waits for results", lambda at: at.unit.i_map.valid & ~at.unit.i_map.ready),
    _depthwise("channels wait for the pass before", lambda at: at.unit.i_channels.valid & ~at.unit.i_channels.ready),
    _depthwise(
        "channels come ahead", lambda at: at.unit.i_channels.valid & at.unit.i_channels.ready & at.raster.o_step
    ),
    _raster("a pass waits for its channels", lambda at: ~at.active & ~at.unit.loaded & at.unit.pixel_valid),
    _raster("a pass waits for a setting", lambda at: ~at.active & at.unit.loaded & at.unit.hold),
    _raster("a step waits for a pixel", lambda at: at.active & at.unit.room & ~at.flushing & ~at.unit.pixel_valid),
    _raster("a step waits for room", lambda at: at.active & ~at.unit.room),
    _raster("top left corner", lambda at: at.unit.o_emit & at.left & at.top),
    _raster("bottom right corner", lambda at: at.unit.o_emit & at.at_right & at.at_bottom),
    _raster("top right corner", lambda at: at.unit.o_emit & at.at_right & at.top),
    _raster("bottom left corner", lambda at: at.unit.o_emit & at.left & at.at_bottom),
    _raster("map of one row", lambda at: at.unit.o_emit & at.top & at.at_bottom),
    _raster("inside", lambda at: at.unit.o_emit & ~at.unit.o_masked.any()),
    _raster("narrowest map", lambda at: at.step & (at.size.last_column == 2)),
    _raster("widest map", lambda at: at.step & (at.size.last_column == at.unit._columns - 1)),
    _raster(
        "stride 2 leaves a column out", lambda at: at.step & at.following & at.size.stride_two & at.centre_column[0]
    ),
    _raster("stride 2 leaves a row out", lambda at: at.step & at.following & at.size.stride_two & at.centre_row[0]),
    _raster("last windows without pixels", lambda at: at.step & at.flushing),
    _shift("tie rounds down to even", lambda at: _fits(at) & ~at.sticky & ~at.moving[1]),
    _shift("tie rounds up to even", lambda at: _fits(at) & ~at.sticky & at.moving[1]),
    _shift("a bit far below a tie", lambda at: _fits(at) & at.sticky & ~at.moving[1]),
    _shift("too large", lambda at: at.over & ~at.negative),
    _shift("too small", lambda at: at.over & at.negative),
    _shift("no shift", lambda at: at.unit.shift == 0),
    _shift("largest shift", lambda at: at.unit.shift == at.unit._max_shift),
    _fifo("full", lambda at: at.level == at.unit._depth),
    _fifo("every place promised", lambda at: at.credits == 0),
    _fifo("the last place is promised", lambda at: at.unit.spend & (at.credits == 1)),
    _fifo("promised as one comes back", lambda at: at.unit.spend & at.returned),
    _fifo("in and out at once", lambda at: at.unit.store & at.taken),
    _fifo("in and out at once with one word", lambda at: at.unit.store & at.taken & (at.level == 1)),
    _fifo("emptied", lambda at: at.taken & (at.level == 1) & ~at.unit.store),
    _fifo("the write pointer wraps", lambda at: at.unit.store & at.write_pointer.all()),
    _fifo("the read pointer wraps", lambda at: at.taken & at.read_pointer.all()),
)

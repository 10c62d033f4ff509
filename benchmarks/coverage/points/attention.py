"""Points of the attention unit."""

from typing import Any, Final

from benchmarks.coverage.point import Point, View
from hdl.attention.attention import Attention
from hdl.attention.code_buffer import CodeBuffer
from hdl.attention.code_gather import HALVES, CodeGather
from hdl.attention.code_reads import CodeReads
from hdl.attention.loops import Loops
from hdl.attention.reorder_buffer import ReorderBuffer
from hdl.attention.sequencer import AttentionSequencer
from hdl.matmul import OUTPUT_DEPTH
from sim.machine.settings import Phase


def _loops(name: str, condition: Any) -> Point:
    return Point("attention loops", name, Loops, condition)


def _reorder(name: str, condition: Any) -> Point:
    return Point("reorder buffer", name, ReorderBuffer, condition)


def _gather(name: str, condition: Any) -> Point:
    return Point("code gather", name, CodeGather, condition)


def _buffer(name: str, condition: Any) -> Point:
    return Point("code buffer", name, CodeBuffer, condition)


def _reads(name: str, condition: Any) -> Point:
    return Point("code reads", name, CodeReads, condition)


def _sequencer(name: str, condition: Any) -> Point:
    return Point("attention sequencer", name, AttentionSequencer, condition)


def _unit(name: str, condition: Any) -> Point:
    return Point("attention", name, Attention, condition)


def _row_ends(at: View) -> Any:
    return at.issue & at.rows.ends[0]


def _other_half(at: View, second_is_written: bool) -> Any:
    """A word is written to one half in the cycle that reads one of the other."""
    second = at.unit._geometry.code_words
    written, read = at("_writer"), at("_reader")
    halves = (written.address >= second, read.address >= second)
    writes, reads = (halves[0], ~halves[1]) if second_is_written else (~halves[0], halves[1])
    return written.accepted & read.issue & writes & reads


def _given_early(at: View) -> Any:
    return at.gives & ~at.complete.bit_select(at.given_half, 1)


def _read_behind_read(at: View) -> Any:
    """A read begins in the cycle in which the last token of the one before it becomes due."""
    return at("_reader").take & at("_reader").advance


def _load(at: View) -> Any:
    return at.taken & ~at.running


def _run(at: View) -> Any:
    return at.taken & at.running


def _offered(at: View, phase: Phase) -> Any:
    """A command that the loops would take."""
    return at.unit.i_command.valid & at.loops.i_command.ready & (at.unit.i_command.payload.phase == phase)


def _waiting(at: View, outward: int) -> Any:
    """A result has not left the output FIFO: logits (0), or one that leaves the unit (1)."""
    return at.results.o.valid & (at.outward == outward)


POINTS: Final = (
    _loops("an innermost loop of one step", lambda at: at.unit.step & at.unit.first[0] & at.unit.last[0]),
    _loops("a round of the innermost loop goes on", lambda at: at.unit.step & ~at.unit.ends[0]),
    _loops("an outermost loop of one round", lambda at: at.unit.step & at.first & at.last),
    _loops("a round in the middle of the outermost loop", lambda at: at.unit.step & ~at.first & ~at.last),
    _loops("the last step of all", lambda at: at.unit.step & at.unit.ends[-1]),
    _reorder(
        "a write back waits for the row that lies there",
        lambda at: at.unit.i.valid & ~at.done & at.reading & at.behind & at.lead[-1],
    ),
    _reorder("a word of the next set enters while rows go out", lambda at: at.write & at.reading & at.behind),
    _reorder("the last row goes out behind the next set's words", lambda at: at.issue & at.rows.ends[1] & at.behind),
    _reorder(
        "a set waits for the one before to be handed over", lambda at: at.unit.i_shape.valid & at.done & ~at.handed
    ),
    _reorder("a set waits for the one before to be written", lambda at: at.unit.i_shape.valid & ~at.done),
    _reorder("handed over in its last tile", lambda at: at.hand_over & at.last_tile & ~at.done),
    _reorder("handed over when it is written", lambda at: at.hand_over & at.done),
    _reorder("handed over as a row completes", lambda at: at.hand_over & at.written),
    _reorder(
        "the reader waits for a row to complete", lambda at: at.reading & at.rows.first[0] & ~at.waiting & ~at.done
    ),
    _reorder("a row completes as another becomes next", lambda at: at.written & at.handed & at.fill),
    _reorder("a row goes on in the next tile", lambda at: at.issue & ~at.rows.ends[0] & at("_reader").bank[-1]),
    _reorder("a partial last tile of keys", lambda at: _row_ends(at) & ~at("_reader").bank[-1]),
    _reorder("a full last tile of keys", lambda at: _row_ends(at) & at("_reader").bank[-1]),
    _reorder("lanes without a key", lambda at: _row_ends(at) & ~at("_reader").tail.all()),
    _reorder("a row of a single word", lambda at: _row_ends(at) & at.rows.first[0]),
    _reorder(
        "a set of one word",
        lambda at: at.taken & (at.unit.i_shape.payload.queries == 1) & (at.unit.i_shape.payload.tiles == 1),
    ),
    _reorder("most queries", lambda at: at.taken & (at.unit.i_shape.payload.queries == at.token_depth)),
    _reorder("most keys", lambda at: at.taken & (at.unit.i_shape.payload.keys == at.geometry.keys)),
    _reorder("the last word of the memory", lambda at: at.write & (at.write_address == at.geometry.logit_words - 1)),
    _reorder("reading waits for a place in the output", lambda at: at.reading & at.waiting & ~at.fifo.o_room),
    _reorder("rows wait for the reader", lambda at: at.unit.o.valid & ~at.unit.o.ready),
    _gather("the second half is written while the first is read", lambda at: _other_half(at, True)),
    _gather("the first half is written while the second is read", lambda at: _other_half(at, False)),
    _gather("a half is filled as the other is emptied", lambda at: at.filled & at.emptied),
    _gather("a set waits for a free half", lambda at: at.unit.i_shape.valid & ~at.writing & (at.full == HALVES)),
    _gather("a set waits for the one before to be written", lambda at: at.unit.i_shape.valid & at.writing),
    _gather("codes wait for their set", lambda at: at.unit.i.valid & ~at.writing),
    _gather("a read waits for the codes", lambda at: at.reading & (at.full == 0)),
    _gather("codes wait for a read", lambda at: ~at.reading & (at.full != 0)),
    _gather(
        "a partial last tile of keys",
        lambda at: at("_writer").accepted & at.unit.i.payload.last & ~at("_writer").bank[-1],
    ),
    _gather(
        "a full last tile of keys",
        lambda at: at("_writer").accepted & at.unit.i.payload.last & at("_writer").bank[-1],
    ),
    _gather(
        "a row goes on in the next tile",
        lambda at: at("_writer").accepted & ~at.unit.i.payload.last & at("_writer").bank[-1],
    ),
    _gather(
        "a row tile is read again for the next nibble",
        lambda at: at.issue & at("_reader").queries_end & ~at("_reader").runs_end,
    ),
    _gather(
        "a row tile is read again for the next plane",
        lambda at: at.issue & at("_reader").runs_end & ~at("_reader").planes_end,
    ),
    _gather("the next row tile", lambda at: at.issue & at("_reader").planes_end & ~at("_reader").groups_end),
    _gather("a set is read again for the next tile", lambda at: at.issue & at("_reader").groups_end & ~at.emptied),
    _gather("a set read in one word", lambda at: at.emptied & at("_reader").passes.first.all()),
    _gather("the third nibble", lambda at: at.issue & (at.run == 2)),
    _gather(
        "the last word of a half",
        lambda at: at("_writer").accepted & (at("_writer").address == at.geometry.code_words - 1),
    ),
    _gather("reading waits for a place in the output", lambda at: at.reading & (at.full != 0) & ~at.fifo.o_room),
    _gather("nibbles wait for the reader", lambda at: at.unit.o.valid & ~at.unit.o.ready),
    _buffer("a block waits for a free half", lambda at: at.unit.i_block.valid & at.complete.all()),
    _buffer("a block waits for the one before it", lambda at: at.unit.i_block.valid & at("_writer").filling),
    _buffer("codes wait for their block", lambda at: at.unit.i_codes.valid & ~at("_writer").filling),
    _buffer("a block of one word", lambda at: at.filled & (at.fill == 0)),
    _buffer("a block of a whole half", lambda at: at.filled & (at.fill == at.unit._block_words - 1)),
    _buffer("a word of a single beat", lambda at: at("_writer").accepted & bool(at.count == 1)),
    _buffer("the second of four beats", lambda at: at.enables[1 % at.count] & bool(at.count == 4)),
    _buffer(
        "one half is written while the other is read",
        lambda at: at("_writer").accepted & at.issue & (at.write_half != at.given_half),
    ),
    _buffer(
        "a half is read while it is written",
        lambda at: at("_writer").accepted & at.issue & (at.write_half == at.given_half),
    ),
    _buffer("a token waits for its word", lambda at: at("_reader").due & ~at("_reader").found),
    _buffer("a token waits for its block", lambda at: at("_reader").due & ~at.complete.any() & ~at("_writer").filling),
    _buffer("a block is given back before it is complete", lambda at: _given_early(at) & ~at.filled),
    _buffer("a block is given back as it becomes complete", lambda at: _given_early(at) & at.filled),
    _buffer("a block becomes complete that was given back", lambda at: at.filled & at.given),
    _buffer("a half is given back as the other becomes complete", lambda at: at.gives & at.filled & at.complete.any()),
    _buffer(
        "a read behind one of the same block",
        lambda at: _read_behind_read(at) & ~at("_reader").current.release,
    ),
    _buffer("a read behind one of the block before", lambda at: _read_behind_read(at) & at("_reader").current.release),
    _buffer("a read of one token", lambda at: at("_reader").take & (at("_reader").waiting.queries == 1)),
    _buffer("a word for every token", lambda at: at.issue & at.later(at.issue, 1) & (at("_reader").current.pitch == 0)),
    _buffer("reading waits for a place in the output", lambda at: at("_reader").due & ~at.fifo.o_room),
    _buffer("words wait for the reader", lambda at: at.unit.o.valid & ~at.unit.o.ready),
    _reads("the next run", lambda at: at.loops.step & ~at.runs_end),
    _reads("words are read again for the next plane", lambda at: at.loops.step & at.runs_end & ~at.planes_end),
    _reads("the next group", lambda at: at.loops.step & at.planes_end & ~at.groups_end),
    _reads("a block is read again for the next tile", lambda at: at.loops.step & at.groups_end & ~at.tiles_end),
    _reads("a command of one read", lambda at: at.loops.step & at.tiles_end & at.loops.first.all()),
    _reads("a block is given back", lambda at: at.loops.step & at.output.release),
    _reads("a command leaves its block", lambda at: at.loops.step & at.tiles_end & ~at.release),
    _reads("a read waits", lambda at: at.unit.o.valid & ~at.unit.o.ready),
    _sequencer("a LOAD of scales alone between two RUNs", lambda at: _load(at) & at.unit.o_keep),
    _sequencer("a LOAD of tables between two RUNs", lambda at: _load(at) & ~at.loops.first[0] & at.split),
    _sequencer("a LOAD of tables with a bias", lambda at: _load(at) & ~at.unit.o_keep & at.first),
    _sequencer("a LOAD of tables without a bias", lambda at: _load(at) & ~at.unit.o_keep & ~at.first),
    _sequencer("one RUN is a whole tile", lambda at: _run(at) & at.first & at.last),
    _sequencer("the first of several RUNs", lambda at: _run(at) & at.first & ~at.last),
    _sequencer("a RUN in the middle", lambda at: _run(at) & ~at.first & ~at.last),
    _sequencer("the last of several RUNs", lambda at: _run(at) & ~at.first & at.last),
    _sequencer("a second plane", lambda at: _load(at) & ~at.loops.first[1]),
    _sequencer("a second group", lambda at: _load(at) & ~at.loops.first[2]),
    _sequencer("a second tile", lambda at: _load(at) & ~at.loops.first[3]),
    _sequencer("a codebook other than the first", lambda at: _load(at) & (at.codebook != 0)),
    _sequencer("the phase turns to MIX", lambda at: _run(at) & at.mix & ~at.unit.o_mix),
    _sequencer("the phase turns back to SCORES", lambda at: _run(at) & ~at.outward & at.unit.o_mix),
    _sequencer("the phase turns to DENSE", lambda at: _run(at) & at.outward & ~at.mix & ~at.unit.o_outward),
    _sequencer("a command goes on with the sums before it", lambda at: _run(at) & at.begins & ~at.starts),
    _sequencer("a command leaves its sums to the next", lambda at: _run(at) & at.ends & ~at.emits),
    _sequencer(
        "MIX behind SCORES in the cycle after its last step",
        lambda at: at.loops.start & at.later(_run(at) & ~at.mix, 1) & (at.unit.i_command.payload.phase == Phase.MIX),
    ),
    _sequencer(
        "SCORES behind MIX in the cycle after its last step",
        lambda at: at.loops.start & at.later(_run(at) & at.mix, 1) & (at.unit.i_command.payload.phase == Phase.SCORES),
    ),
    _unit("SCORES waits for the reorder buffer", lambda at: _offered(at, Phase.SCORES) & ~at.reorder.i_shape.ready),
    _unit(
        "the set of a SCORES waits for the code gather", lambda at: at.gather.i_shape.valid & ~at.gather.i_shape.ready
    ),
    _unit("MIX waits for the MIX before it", lambda at: _offered(at, Phase.MIX) & ~at.gather.i_read.ready),
    _unit("MIX behind SCORES waits for its codes", lambda at: at.gather.o.ready & ~at.gather.o.valid),
    _unit("a RUN waits for streamed codes", lambda at: at.buffer.o.ready & ~at.buffer.o.valid),
    _unit("streamed codes wait behind a MIX", lambda at: at.buffer.o.valid & at.loops.o_mix),
    _unit(
        "codes leave the softmax while a MIX reads others",
        lambda at: at.softmax.o.valid & at.softmax.o.ready & at.gather.o.valid & at.gather.o.ready,
    ),
    _unit(
        "rows enter the softmax while a MIX runs",
        lambda at: at.softmax.i_logits.valid & at.softmax.i_logits.ready & at.gather.o.valid & at.gather.o.ready,
    ),
    _unit("rows wait for the softmax", lambda at: at.softmax.i_logits.valid & ~at.softmax.i_logits.ready),
    _unit(
        "a result of MIX is noted while logits wait",
        lambda at: at("_way_of_result").promised & at.loops.o_mix & _waiting(at, 0),
    ),
    _unit(
        "logits are noted while a result of MIX waits",
        lambda at: at("_way_of_result").promised & ~at.loops.o_outward & _waiting(at, 1),
    ),
    _unit(
        "the ring of notes wraps",
        lambda at: at("_way_of_result").promised & (at("_way_of_result").noted == OUTPUT_DEPTH - 1),
    ),
    _unit("logits wait for the reorder buffer", lambda at: at.reorder.i.valid & ~at.reorder.i.ready),
    _unit("results wait for the reader", lambda at: at.unit.o.valid & ~at.unit.o.ready),
    _unit("scales alone pass by the loader", lambda at: at.sequencer.o_load.valid & at.loops.o_keep),
    _unit("a SCORES without position biases", lambda at: bool(at.geometry.bias == 0) & _offered(at, Phase.SCORES)),
)

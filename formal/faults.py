"""Shows that a proof can fail: puts a fault into the source of a unit and has the proof find it.

One fault per kind of statement, each a single edit of the RTL. A fault counts as found only when a run from the initial
state breaks an assertion: an induction that merely does not close would prove nothing about the fault.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Final

from formal.catalogue import all_proofs
from formal.proof import Mode, Proof
from sim.contract.errors import UserError


@dataclass(frozen=True)
class Fault:
    """proof: that must fail. unit: module of the hardware. right, wrong: its text, found once, and what replaces it."""

    proof: str
    unit: str
    right: str
    wrong: str


FAULTS: Final = (
    Fault("stream_register", "hdl.link.token", "valid.eq(~self.o.ready)", "valid.eq(0)"),
    Fault("credit_fifo_2", "hdl.vector.credit_fifo", "credits > 1, credits != 0", "credits != 0, credits != 0"),
    Fault("credit_queue_2", "hdl.softmax.queue", "fetch.eq(~self.o.valid | self.o.ready)", "fetch.eq(1)"),
    Fault("output_fifo_2", "hdl.output_fifo", "write.addr.eq(pointers[group])", "write.addr.eq(pointers[0])"),
    Fault("receive_buffer_16", "hdl.link.receive_buffer", "fifo.w_en.eq(self.i.valid)", "fifo.w_en.eq(1)"),
    Fault("sequencer", "hdl.sequencer", " & ~scale_pending", ""),
    Fault(
        "code_buffer_1",
        "hdl.attention.code_buffer",
        "self.i_block.ready.eq(~filling & ~occupied)",
        "self.i_block.ready.eq(~filling)",
    ),
    Fault("unmerged_register", "hdl.ecp5.unmerged_register", "i_DI=self.i[bit]", "i_DI=self.i[0]"),
    Fault("finish", "hdl.finish", " & ~at_limit", ""),
    Fault("finish_ecp5", "hdl.finish", "self.up & ~self.over", "self.up"),
    Fault("rescale_round", "hdl.rescale", "half & (floor[0] | below.any())", "half"),
    Fault(
        "right_shift_activation", "hdl.vector.right_shift", "sticky | moving[:amount].any()", "moving[:amount].any()"
    ),
    Fault("shift_round_affine", "hdl.layer_norm.shift_round", "(floor[-2] == sign)", "1"),
    Fault("adder_tree_depthwise", "hdl.array.adder_tree", "m.d.sync += node.eq(level[index])", "pass"),
    Fault("accumulator", "hdl.rescale", "SelectAdd(width=ACCUMULATOR_BITS)", "SelectAdd(width=ACCUMULATOR_BITS - 1)"),
    Fault("token_sums", "hdl.layer_norm.token_sums", "DEPTH_MAX.bit_length() - 1", "1"),
    Fault("row_sum", "hdl.softmax.terms", "width=self._geometry.sum_bits)", "width=TERM_BITS + 2)"),
    Fault("select_add_36", "hdl.ecp5.carry", "b ^ (a if d else c)", "b ^ (a if d else b)"),
    Fault("signed_adder_8", "hdl.ecp5.carry", "return a ^ b if d else a", "return a | b if d else a"),
    Fault("product_sweep", "hdl.array.loader", "m.Elif(control.advance)", "m.If(control.advance)"),
    Fault("product_program_low_plane", "sim.machine.sweep", "codes_of.get(level, [])", "codes_of.get(level % 15, [])"),
)


@contextmanager
def planted(fault: Fault) -> Iterator[Proof]:
    """The proof of the faulty unit, as a search for a run that breaks it; to be used while the context lasts.

    Raises UserError when the unit does not have the text that the fault replaces exactly once.
    """
    unit = importlib.import_module(fault.unit)
    source = Path(str(unit.__file__)).read_text()
    if source.count(fault.right) != 1:
        raise UserError(
            f"{fault.unit} has {fault.right!r} {source.count(fault.right)} times, not once; "
            f"mend the fault of proof {fault.proof} in formal/faults.py"
        )
    faulty = ModuleType(fault.unit)
    faulty.__dict__.update(__file__=unit.__file__, __package__=unit.__package__)
    exec(compile(source.replace(fault.right, fault.wrong), str(unit.__file__), "exec"), faulty.__dict__)
    proof = all_proofs()[fault.proof]
    statement = importlib.import_module(proof.module)
    changed = {
        name: value
        for name, value in vars(statement).items()
        if getattr(value, "__module__", None) == fault.unit and hasattr(faulty, name)
    }
    try:
        for name in changed:
            setattr(statement, name, getattr(faulty, name))
        yield replace(proof, mode=Mode.BOUNDED, depth=max(proof.depth, proof.reach_depth))
    finally:
        for name, value in changed.items():
            setattr(statement, name, value)

"""All proofs by name, in the order in which they are run: short ones of small units first."""

import importlib
from typing import Final

from formal.proof import Proof
from sim.contract.errors import UserError

MODULES: Final = (
    "stream_register",
    "credit_fifo",
    "credit_queue",
    "output_fifo",
    "receive_buffer",
    "sequencer",
    "code_buffer",
    "finish",
    "rescale_round",
    "right_shift",
    "shift_round",
    "carry",
    "unmerged_register",
    "adder_tree",
    "accumulator",
    "token_sums",
    "row_sum",
    "product_sweep",
    "product_program",
)
"""Modules of this package that hold proofs."""


def all_proofs() -> dict[str, Proof]:
    """Every proof by its name."""
    found = [proof for module in MODULES for proof in importlib.import_module(f"formal.{module}").PROOFS]
    proofs = {proof.name: proof for proof in found}
    assert len(proofs) == len(found), "two proofs have one name"
    return proofs


def chosen_proofs(names: list[str]) -> list[Proof]:
    """The proofs of these names, all without any. Raises UserError for a name that is none."""
    proofs = all_proofs()
    for name in names:
        if name not in proofs:
            raise UserError(f"there is no proof {name!r}; `python -m formal list` shows their names")
    return [proofs[name] for name in names] if names else list(proofs.values())

"""Proofs can fail: faulty units, false claims, unreachable situations and contradicting assumptions are all told."""

import re
from pathlib import Path

import pytest

from formal.catalogue import MODULES, all_proofs
from formal.faults import FAULTS, Fault, planted
from formal.proof import Mode, Proof
from formal.sby import prove
from formal.statement import Statement
from sim.contract.errors import UserError

QUICK = ("credit_fifo_2", "sequencer")
"""A queue and a machine; `python -m formal faults` tries them all."""


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.proof in QUICK], ids=lambda fault: fault.proof)
def test_a_fault_breaks_its_proof(fault: Fault, tmp_path: Path) -> None:
    with planted(fault) as proof:
        outcome = prove(proof, tmp_path, claim_only=True)
    assert not outcome.passed
    assert re.fullmatch(r"the assertion at \S+formal/\w+\.py:\d+ can fail", outcome.reason)
    assert Path(outcome.trace).suffix == ".vcd" and Path(outcome.trace).stat().st_size > 0


def test_every_kind_of_statement_has_a_fault() -> None:
    proofs = all_proofs()
    assert {proofs[fault.proof].module for fault in FAULTS} == {f"formal.{module}" for module in MODULES}


def test_a_fault_that_fits_nowhere_is_refused() -> None:
    with (
        pytest.raises(UserError, match=r"hdl\.finish has 'no such text' 0 times"),
        planted(Fault("finish", "hdl.finish", "no such text", "")),
    ):
        pass


@pytest.mark.parametrize(
    ("assumption", "reason"),
    [
        (1, "the situation at .* cannot be reached"),
        (-1, "the assumptions contradict each other"),
    ],
    ids=["unreachable", "contradicting"],
)
def test_a_vacuous_proof_is_told(assumption: int, reason: str, tmp_path: Path) -> None:
    def write(statement: Statement) -> None:
        value = statement.chosen("value", 2)
        statement.always(value < 2)
        statement.assume(value <= assumption)
        statement.reach(value == 2)

    proof = Proof(name="t", says="", assumes="", write=write, mode=Mode.INDUCTION, depth=1, reach_depth=2)
    outcome = prove(proof, tmp_path, claim_only=assumption < 0)
    assert not outcome.passed
    assert re.fullmatch(reason, outcome.reason)


def test_names_are_unique_and_texts_are_whole() -> None:
    for proof in all_proofs().values():
        assert proof.says.endswith(".") and proof.assumes.endswith(".")
        assert proof.module.startswith("formal.")

"""The command line of the proofs."""

import json
from pathlib import Path

import pytest

from formal.__main__ import main, markdown
from sim.contract.errors import UserError

PAGE = Path(__file__).resolve().parents[2] / "docs/formal.md"


def test_it_lists_every_proof(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    assert "sequencer: k-induction, depth 4\n" in text
    assert "product_program_uniform: bounded, depth 21\n" in text


def test_the_page_has_the_table_of_proofs() -> None:
    table = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    assert table == markdown(), "write the output of `python -m formal list --markdown` into docs/formal.md"


@pytest.mark.parametrize("command", ["run", "faults"])
def test_a_name_that_is_none_is_one_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "fifo"]) == 1
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    assert "there is no " in output.err and "'fifo'" in output.err


def test_it_proves_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "results.json"
    assert main(["run", "stream_register", "--json", str(file), "--folder", str(tmp_path / "work")]) == 0
    output = capsys.readouterr()
    assert "[1/1] stream_register" in output.err
    assert "stream_register  k-induction      3           9        2" in output.out
    (result,) = json.loads(file.read_text())["proofs"]
    assert result["passed"] and result["mode"] == "k-induction" and result["seconds"] > 0


def test_a_missing_solver_is_named_with_its_package(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(name: str) -> Path:
        if name == "z3":
            raise UserError("gone")
        return Path(name)

    monkeypatch.setattr("formal.sby.find_tool", find)
    assert main(["run", "stream_register", "--folder", str(tmp_path)]) == 1
    assert capsys.readouterr().err.endswith("error: z3 is missing; install it with `pip install z3-solver`\n")


def test_a_failed_proof_is_one_line_with_its_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("formal.finish.HIGH", 32766)
    assert main(["run", "finish", "--folder", str(tmp_path)]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: proof finish failed: the assertion at ")
    assert Path(line.rsplit("look at ", 1)[1]).suffix == ".vcd"

"""The list of edits of the hardware: up to date with its sources and tests; and what counts as caught."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.mutations.__main__ import main, run_all
from benchmarks.mutations.catalogue import ROOT, Edit, fingerprint, mutated, read_edits
from benchmarks.mutations.runner import run_tests
from sim.contract.errors import UserError

EDITS = read_edits()


def test_every_edit_still_fits_its_file_and_leaves_python() -> None:
    assert len(EDITS) >= 36
    for edit in EDITS:
        assert edit.file.startswith(("hdl/", "sim/machine/"))
        assert edit.old != edit.new
        ast.parse(mutated(edit))


def test_every_test_that_is_to_catch_an_edit_exists() -> None:
    tests = sorted({test for edit in EDITS for test in edit.tests})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider", *tests]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]


def test_an_edit_whose_text_has_gone_or_is_ambiguous_is_refused(tmp_path: Path) -> None:
    (tmp_path / "unit.py").write_text("a = 1\nb = 1\n")
    for old, count in (("c", 0), ("1", 2)):
        edit = Edit("unit", "name", "nothing", "unit.py", old, "2", ())
        with pytest.raises(UserError, match=f"the old text occurs {count} times in unit.py"):
            mutated(edit, tmp_path)


def test_a_result_is_kept_until_the_file_a_test_or_a_bench_changes(tmp_path: Path) -> None:
    (tmp_path / "tests" / "unit").mkdir(parents=True)
    files = [
        tmp_path / name for name in ("unit.py", "tests/unit/test_one.py", "tests/unit/bench.py", "tests/streams.py")
    ]
    for file in files:
        file.write_text("a = 1\n")
    edit = Edit("unit", "name", "nothing", "unit.py", "1", "2", ("tests/unit/test_one.py::test_it",))
    seen = {fingerprint(edit, tmp_path)}
    for file in files:
        file.write_text(file.read_text() + "# changed\n")
        seen.add(fingerprint(edit, tmp_path))
    assert len(seen) == 1 + len(files)
    (tmp_path / "tests/unit/test_other.py").write_text("")
    assert fingerprint(edit, tmp_path) in seen


def test_only_a_comparison_or_a_benchs_own_patience_catches_an_edit(tmp_path: Path) -> None:
    (tmp_path / "test_ends.py").write_text(
        "import time\n"
        "def test_green(): pass\n"
        "def test_differs(): assert [1] == [2]\n"
        "def test_gives_up(): assert False, 'no transfer in 5000 cycles'\n"
        "def test_does_not_build(): raise ValueError('width')\n"
        "def test_sleeps(): time.sleep(60)\n"
    )
    ends = {
        name: run_tests(tmp_path, [f"test_ends.py::test_{name}"], limit_s)
        for name, limit_s in [("green", 60), ("differs", 60), ("gives_up", 60), ("does_not_build", 60), ("sleeps", 3)]
    }
    assert {name: (end.verdict, end.caught) for name, end in ends.items()} == {
        "green": ("green", False),
        "differs": ("assertion", True),
        "gives_up": ("patience", True),
        "does_not_build": ("broken", False),
        "sleeps": ("hung", False),
    }
    assert run_tests(tmp_path, ["test_ends.py::test_missing"]).verdict == "broken"


def test_what_is_known_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    edit = EDITS[0]
    result = {"verdict": "assertion", "test": "test", "message": "", "seconds": 1.0}
    record = {edit.title: {"fingerprint": fingerprint(edit), "unit": edit.unit, **result}}
    monkeypatch.setattr("benchmarks.mutations.__main__.run_tests", lambda *_: pytest.fail("ran"))
    monkeypatch.setattr("benchmarks.mutations.__main__.unchanged_fingerprint", lambda _: "same")
    record["unchanged"] = {"fingerprint": "same", **result}
    assert run_all([edit], record, 1.0, lambda _: None, lambda _: None) == {edit.title: record[edit.title]}


def test_a_title_that_no_edit_has_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "no such unit", "--json", str(tmp_path / "record.json")]) == 1
    assert "--only no such unit: no edit has that in its title" in capsys.readouterr().err

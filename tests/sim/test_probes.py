"""Options of timeline and waveform: what is refused, in one line, before anything runs."""

import argparse
from pathlib import Path

import pytest

from sim.contract.errors import UserError
from sim.probes import Probes, add_probes, check_writable, given_probes, probes_of


def parsed(*options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_probes(parser)
    return parser.parse_args(options)


def test_nothing_is_probed_unasked() -> None:
    assert given_probes(parsed()) == []
    assert probes_of(parsed()) == Probes()


def test_options_become_probes(tmp_path: Path) -> None:
    trace, wave = tmp_path / "new" / "trace.json", tmp_path / "wave.fst"
    arguments = parsed("--trace", str(trace), "--trace-cycles", "64", "--wave", str(wave), "--wave-cycles", "10:")
    assert given_probes(arguments) == ["--trace", "--trace-cycles", "--wave", "--wave-cycles"]
    assert probes_of(arguments) == Probes(trace, 64, wave, (10, None))
    assert not trace.exists() and not wave.exists()
    assert probes_of(parsed("--wave", str(wave), "--wave-cycles", ":7")).wave_cycles == (0, 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trace-cycles", "4"], "--trace-cycles needs --trace FILE"),
        (["--wave-cycles", "4:8"], "--wave-cycles needs --wave FILE"),
        (["--trace", "t", "--trace-cycles", "0"], "--trace-cycles 0: give 1 to"),
        (["--wave", "w", "--wave-cycles", "8:8"], "--wave-cycles 8:8: give A:B with 0 <= A < B"),
        (["--wave", "w", "--wave-cycles=-1:8"], "give A:B with 0 <= A < B"),
        (["--wave", "w", "--wave-cycles", "7"], "--wave-cycles 7: give A:B"),
        (["--wave", "w", "--wave-cycles", "a:b"], "--wave-cycles a:b: give A:B"),
        (["--trace", "one", "--wave", "one"], "both write one"),
    ],
)
def test_what_cannot_be_is_refused(
    options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        probes_of(parsed(*options))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    check_writable(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept"
    for path in (tmp_path / "file" / "trace.json", tmp_path):
        with pytest.raises(UserError, match=f"cannot write {path}: .*choose a writable place"):
            check_writable(path)

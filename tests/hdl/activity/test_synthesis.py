# amaranth: UnusedElaboratable=no

"""`python -m hdl synth UNIT --observed` puts the counters beside the unit, and nothing does without it."""

from pathlib import Path
from typing import Any

import pytest

from hdl import __main__ as command_line
from hdl.synth import elaborated
from sim.contract.errors import UserError

UNIT = ("adder_tree", {"inputs": "4"})


def test_only_an_observed_unit_has_counters() -> None:
    plain, _ = elaborated(*UNIT)
    observed, _ = elaborated(*UNIT, observed=True)
    assert "activity" not in plain.rtlil()
    assert "activity_o_cycles" in observed.rtlil()
    # Four counters of states, one of dropped events, and the event: outputs that the harness keeps.
    assert observed.flip_flops - plain.flip_flops == 2 + 5 * 32 + (32 + 2) + 1 + 1


@pytest.mark.parametrize("options", [[], ["--observed"]])
def test_the_option_reaches_the_synthesis(
    monkeypatch: pytest.MonkeyPatch, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []

    def synthesize(unit: str, parameters: dict[str, str], *, observed: bool, folder: Path, **rest: Any) -> None:
        seen.append(observed)
        raise UserError("far enough")

    monkeypatch.setattr(command_line, "synthesize", synthesize)
    assert command_line.main(["synth", "adder_tree", *options]) == 1
    assert seen == [bool(options)]
    assert "far enough" in capsys.readouterr().err

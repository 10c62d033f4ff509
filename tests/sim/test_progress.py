"""The bar counts, and names what was done last."""

from typing import Any

from sim.progress import progress_bar


def test_each_call_moves_the_bar_on_by_one(capsys: Any) -> None:
    with progress_bar(3, "layer") as advance:
        for name in ("first", "second", "third"):
            advance(name)
    captured = capsys.readouterr()
    assert captured.out == "" and "3/3" in captured.err and "third" in captured.err


def test_a_total_need_not_be_known(capsys: Any) -> None:
    with progress_bar(None, "cell") as advance:
        advance("only")
    assert "1cell" in capsys.readouterr().err

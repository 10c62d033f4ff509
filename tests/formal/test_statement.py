"""What statements are made of."""

import pytest
from amaranth.hdl import Signal

from formal.statement import Opened, Statement
from hdl.softmax.queue import CreditQueue


def test_inner_signals_are_known_by_the_names_of_their_source() -> None:
    opened = Opened(CreditQueue(4, depth=4))
    assert len(opened.variable("written")) == 3
    with pytest.raises(LookupError, match=r"CreditQueue\.elaborate has no variable 'wrote'"):
        opened.variable("wrote")
    statement = Statement()
    statement.unit(opened.unit)
    assert "module" in statement.rtlil()


def test_a_statement_counts_what_it_claims() -> None:
    statement = Statement()
    x = statement.free("x", 4)
    statement.always(x <= 15)
    statement.reach(x == 3)
    statement.reach(statement.chosen("y", 2) == 1)
    assert (statement.assertions, statement.covers) == (1, 2)
    text = statement.rtlil()
    assert text.count("cell $check") == 3
    assert r"wire width 1 input 0  \clk" in text


def test_before_the_first_cycle_there_is_nothing() -> None:
    statement = Statement()
    with pytest.raises(ValueError, match="from cycle 1"):
        statement.after(0)
    assert statement.after(3) is statement.after(3)
    assert isinstance(statement.past(Signal(3), 2), Signal)
    assert statement.rtlil().count("cell $dff") == 5

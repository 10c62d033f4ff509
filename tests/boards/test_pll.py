import pytest

from boards.ulx3s.pll import PllSettings, find_pll
from sim.contract.errors import UserError


@pytest.mark.parametrize("wanted", [12.5, 25, 48, 50, 80, 90, 100, 110, 112.5, 120, 125, 150, 200, 400])
def test_found_settings_make_the_clock_within_the_limits(wanted: float) -> None:
    settings = find_pll(25.0, wanted)
    # The arithmetic of the data sheet, spelled out.
    detector = 25.0 / settings.reference
    oscillator = detector * settings.feedback * settings.loop
    assert 10 <= detector <= 400
    assert 400 <= oscillator <= 800
    assert oscillator / settings.loop <= 400
    assert abs(oscillator / settings.output - wanted) <= 0.005 * wanted
    assert settings.output_mhz == oscillator / settings.output


@pytest.mark.parametrize("wanted", [50, 80, 100, 112.5, 125])
def test_round_clocks_are_exact(wanted: float) -> None:
    assert find_pll(25.0, wanted).output_mhz == wanted


@pytest.mark.parametrize("wanted", [-5, 0, 1, 401, 5000, float("nan"), float("inf")])
def test_an_absurd_clock_is_one_line(wanted: float) -> None:
    with pytest.raises(UserError, match=r"impossible; the PLL makes 3\.125 to 400 MHz"):
        find_pll(25.0, wanted)


def test_a_clock_between_the_dividers_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no PLL setting makes 320\.45 MHz .*; nearest: \d+\.\d MHz"):
        find_pll(25.0, 320.45)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((25.0, 3, 12, 2, 6), "phase detector would run at 8.33333 MHz"),
        ((25.0, 1, 12, 3, 6), "oscillator would run at 900 MHz"),
        ((25.0, 1, 12, 1, 6), "oscillator would run at 300 MHz"),
        ((25.0, 1, 24, 1, 1), "loop output would run at 600 MHz"),
        ((25.0, 1, 12, 2, 1), "PLL output would run at 600 MHz"),
        ((25.0, 1, 12, 2, 129), "divider output=129 is outside 1..128"),
        ((25.0, 0, 12, 2, 6), "divider reference=0 is outside 1..128"),
    ],
)
def test_settings_outside_the_data_sheet_are_refused(settings: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PllSettings(*settings)

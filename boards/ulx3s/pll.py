"""Settings of the ECP5's phase-locked loop (EHXPLLL) for a wanted clock.

CLKOP closes the loop, CLKOS is the clock: vco = input / reference * feedback * loop, clock = vco / output.
Limits are those of the ECP5 and ECP5-5G Family Data Sheet, table "sysCLOCK PLL Timing": phase detector 10..400 MHz,
oscillator 400..800 MHz, output 3.125..400 MHz; dividers 1..128.
"""

from dataclasses import dataclass
from typing import Any, Final

from amaranth.hdl import Const, Instance, Signal

from sim.contract.errors import UserError

__all__ = ["PllSettings", "find_pll", "pll_instance"]

DETECTOR_MHZ: Final = (10.0, 400.0)
OSCILLATOR_MHZ: Final = (400.0, 800.0)
OUTPUT_MHZ: Final = (3.125, 400.0)
DIVIDER_MAX: Final = 128
TOLERANCE: Final = 0.005
"""Largest accepted error of the clock, as a fraction."""


@dataclass(frozen=True)
class PllSettings:
    """Dividers of one PLL; ValueError when a frequency inside it is outside the data sheet's limits."""

    input_mhz: float
    reference: int
    feedback: int
    loop: int
    output: int

    def __post_init__(self) -> None:
        for name in ("reference", "feedback", "loop", "output"):
            if not 1 <= getattr(self, name) <= DIVIDER_MAX:
                raise ValueError(f"PLL divider {name}={getattr(self, name)} is outside 1..{DIVIDER_MAX}")
        for name, value, (low, high) in (
            ("phase detector", self.detector_mhz, DETECTOR_MHZ),
            ("oscillator", self.oscillator_mhz, OSCILLATOR_MHZ),
            ("loop output", self.detector_mhz * self.feedback, OUTPUT_MHZ),
            ("output", self.output_mhz, OUTPUT_MHZ),
        ):
            if not low <= value <= high:
                raise ValueError(f"PLL {name} would run at {value:g} MHz, outside {low:g}..{high:g} MHz")

    @property
    def detector_mhz(self) -> float:
        """Frequency at the phase detector."""
        return self.input_mhz / self.reference

    @property
    def oscillator_mhz(self) -> float:
        """Frequency of the oscillator (VCO)."""
        return self.detector_mhz * self.feedback * self.loop

    @property
    def output_mhz(self) -> float:
        """The clock."""
        return self.oscillator_mhz / self.output


def find_pll(input_mhz: float, wanted_mhz: float) -> PllSettings:
    """Dividers whose clock is nearest to ``wanted_mhz``; among equals the fastest phase detector (least jitter).

    Raises UserError when nothing within the limits comes within 0.5 %.
    """
    low, high = OUTPUT_MHZ
    if not low <= wanted_mhz <= high:
        raise UserError(f"a clock of {wanted_mhz:g} MHz is impossible; the PLL makes {low:g} to {high:g} MHz")
    best: tuple[float, int, float] | None = None
    found: PllSettings | None = None
    for reference in range(1, int(input_mhz / DETECTOR_MHZ[0]) + 1):
        step = input_mhz / reference
        for product in range(round(OSCILLATOR_MHZ[0] // step), round(OSCILLATOR_MHZ[1] // step) + 1):
            loop = next((n for n in range(2, 9) if product % n == 0 and step * product / n <= OUTPUT_MHZ[1]), None)
            output = round(step * product / wanted_mhz)
            if loop is None or not 1 <= output <= DIVIDER_MAX:
                continue
            try:
                settings = PllSettings(input_mhz, reference, product // loop, loop, output)
            except ValueError:
                continue
            rank = (abs(settings.output_mhz - wanted_mhz), reference, abs(settings.oscillator_mhz - 600))
            if best is None or rank < best:
                best, found = rank, settings
    if found is None or best is None or best[0] > TOLERANCE * wanted_mhz:
        nearest = f"; nearest: {found.output_mhz:.4g} MHz" if found else ""
        raise UserError(
            f"no PLL setting makes {wanted_mhz:g} MHz from {input_mhz:g} MHz within {TOLERANCE:.1%}{nearest}"
        )
    return found


def pll_instance(settings: PllSettings, *, clock_in: Signal, clock: Signal, locked: Signal) -> Instance:
    """The EHXPLLL primitive with these settings, driving ``clock`` and ``locked``."""
    loop = Signal(name="pll_loop")
    parameters: dict[str, Any] = {
        "p_PLLRST_ENA": "DISABLED",
        "p_INTFB_WAKE": "DISABLED",
        "p_STDBY_ENABLE": "DISABLED",
        "p_DPHASE_SOURCE": "DISABLED",
        "p_OUTDIVIDER_MUXA": "DIVA",
        "p_OUTDIVIDER_MUXB": "DIVB",
        "p_OUTDIVIDER_MUXC": "DIVC",
        "p_OUTDIVIDER_MUXD": "DIVD",
        "p_FEEDBK_PATH": "CLKOP",
        "p_CLKI_DIV": settings.reference,
        "p_CLKFB_DIV": settings.feedback,
        "p_CLKOP_ENABLE": "ENABLED",
        "p_CLKOP_DIV": settings.loop,
        "p_CLKOP_CPHASE": settings.loop - 1,
        "p_CLKOP_FPHASE": 0,
        "p_CLKOS_ENABLE": "ENABLED",
        "p_CLKOS_DIV": settings.output,
        "p_CLKOS_CPHASE": settings.output - 1,
        "p_CLKOS_FPHASE": 0,
        # Loop filter: the values that the vendor's tool chooses for low-bandwidth clock multiplication.
        "a_ICP_CURRENT": "12",
        "a_LPF_RESISTOR": "8",
        "a_MFG_ENABLE_FILTEROPAMP": "1",
        "a_MFG_GMCREF_SEL": "2",
    }
    inputs = {
        "i_CLKI": clock_in,
        "i_CLKFB": loop,
        "i_RST": Const(0),
        "i_STDBY": Const(0),
        "i_PHASESEL0": Const(0),
        "i_PHASESEL1": Const(0),
        "i_PHASEDIR": Const(1),
        "i_PHASESTEP": Const(1),
        "i_PHASELOADREG": Const(1),
        "i_PLLWAKESYNC": Const(0),
        "i_ENCLKOP": Const(0),
    }
    return Instance("EHXPLLL", **parameters, **inputs, o_CLKOP=loop, o_CLKOS=clock, o_LOCK=locked)

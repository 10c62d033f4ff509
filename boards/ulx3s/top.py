"""The design on the board: clock, serial line, host link, array, LEDs."""

from typing import Any

from amaranth.hdl import ClockDomain, ClockSignal, Elaboratable, Instance, Module, Signal
from amaranth.lib import io
from amaranth.lib.wiring import connect

from hdl.array.sweep import STEPS_PER_CODEBOOK
from hdl.link.host_link import HostLink, connect_array
from hdl.link.uart import UartReceiver, UartTransmitter
from hdl.matmul import OUTPUT_DEPTH, Matmul

from .pll import PllSettings, pll_instance
from .presets import BuildPreset

__all__ = ["Top"]

BOARD_CLOCK_MHZ = 25.0


class Top(Elaboratable):
    """Everything between the pins.

    LED 0: idle. LED 1: the last reply was an error. LED 2: a received byte was lost since configuration.

    Parameters
    ----------
    preset : BuildPreset
        Array and baud rate.
    pll : PllSettings
        From the board's 25 MHz to the clock of everything else.
    divisor : int
        Clock cycles per bit of the serial line.
    """

    def __init__(self, preset: BuildPreset, pll: PllSettings, *, divisor: int) -> None:
        self.preset = preset
        self.pll = pll
        self.divisor = divisor

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        self._clock(m, platform)

        m.submodules.array = array = Matmul(self.preset.geometry)
        m.submodules.link = link = HostLink(
            array,
            codebook_steps=STEPS_PER_CODEBOOK,
            output_depth=OUTPUT_DEPTH,
            clock_khz=round(self.pll.output_mhz * 1000),
        )
        m.submodules.receiver = receiver = UartReceiver(divisor=self.divisor)
        m.submodules.transmitter = transmitter = UartTransmitter(divisor=self.divisor)
        connect_array(m, link, array)
        connect(m, receiver.o, link.i)
        connect(m, link.o, transmitter.i)

        uart = platform.request("uart", 0, dir={"rx": "-", "tx": "-", "rts": "-", "dtr": "-"})
        m.submodules.rx_pin = rx_pin = io.Buffer("i", uart.rx)
        m.submodules.tx_pin = tx_pin = io.Buffer("o", uart.tx)
        m.d.comb += [receiver.rx.eq(rx_pin.i), tx_pin.o.eq(transmitter.tx)]

        lost = Signal()
        with m.If(receiver.overrun):
            m.d.sync += lost.eq(1)
        for number, state in enumerate((array.o_idle, link.failed, lost)):
            led = io.Buffer("o", platform.request("led", number, dir="-"))
            m.submodules[f"led{number}_pin"] = led
            # A register of its own keeps the way to the pin out of the timing of the logic.
            shown = Signal(name=f"led{number}")
            m.d.sync += shown.eq(state)
            m.d.comb += led.o.eq(shown)
        return m

    def _clock(self, m: Module, platform: Any) -> None:
        """Domain ``sync`` from the PLL, held in global reset until the PLL has locked.

        The global set/reset net reaches every flip-flop without routing or timing of its own, so the domain
        itself needs no reset.
        """
        m.submodules.clock_pin = clock_pin = io.Buffer("i", platform.request("clk25", 0, dir="-"))
        clock, locked, release, released = Signal(), Signal(), Signal(), Signal()
        m.submodules.pll = pll_instance(self.pll, clock_in=clock_pin.i, clock=clock, locked=locked)
        m.domains.sync = ClockDomain("sync", reset_less=True)
        m.d.comb += ClockSignal("sync").eq(clock)
        m.submodules.release0 = Instance("FD1S3AX", p_GSR="DISABLED", i_CK=clock, i_D=locked, o_Q=release)
        m.submodules.release1 = Instance("FD1S3AX", p_GSR="DISABLED", i_CK=clock, i_D=release, o_Q=released)
        m.submodules.global_reset = Instance("SGSR", i_CLK=clock, i_GSR=released)

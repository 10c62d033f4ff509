"""The SDRAM controller: memory port on one side, pins on the other."""

from typing import Any

from amaranth.hdl import Cat, Const, Elaboratable, Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from hdl.memory.port import MemoryPort
from hdl.memory.sdram.address import AddressMap
from hdl.memory.sdram.columns import ColumnControl
from hdl.memory.sdram.interface import QUEUE_DEPTH
from hdl.memory.sdram.limits import check_times
from hdl.memory.sdram.pins import ADDRESS_PINS, Command, SdramPins
from hdl.memory.sdram.rows import RowControl
from hdl.memory.sdram.timing import WORD_BITS, SdramCycles, SdramPart
from hdl.parameters import require
from hdl.pipeline import delay

INPUT_DELAY_MAX = 4
WRITES = 2 * QUEUE_DEPTH
"""Words of the memory of data to write: more than there are places for requests between port and pins."""


class SdramController(wiring.Component):
    """An SDR SDRAM behind a memory port (hdl.memory.port); beats from the part's capacity on answer with an error.

    Throughput: 2 bytes per cycle of sequential reads or writes, less refresh: about rfc + rp + rcd + 20 cycles of every
    refresh_interval. A WRITE behind a READ costs cas_latency + 1 cycles; a row that must be closed first, and was not
    seen in time because the same bank is in use, about rp + rcd + 8. Latency of a read whose row is open, from the
    request to its response: REQUEST_CYCLES + 3 + cas_latency + beat words + input_delay cycles, port idle before.

    port: signature of the port, beats of 64 to 512 bits. part: geometry. cycles: its times at the clock (part.at).
    input_delay: cycles by which words come later than hdl.memory.sdram.pins says, 0..4.
    Raises ValueError naming the parameter, its limit and the nearest valid value.
    """

    def __init__(self, port: MemoryPort, part: SdramPart, cycles: SdramCycles, *, input_delay: int = 0) -> None:
        self.address = AddressMap(part, port.beat_bits)
        self.input_delay = require("input_delay", input_delay, range(INPUT_DELAY_MAX + 1), f"in 0..{INPUT_DELAY_MAX}")
        self.cycles = cycles
        check_times(self.address, cycles)
        self._address_bits = port.address_bits
        super().__init__({"port": In(port), "pins": Out(SdramPins())})

    def model(self, content: dict[int, int], requests: list[tuple[int, int | None]]) -> list[tuple[int, bool]]:
        """Responses (data, error) to requests (address, data to write or None to read); changes `content`, by beat."""
        responses: list[tuple[int, bool]] = []
        for address, written in requests:
            outside = address >> self.address.bits != 0
            if written is None:
                responses.append((0, True) if outside else (content.get(address, 0), False))
            elif not outside:
                content[address] = written
        return responses

    def elaborate(self, platform: Any) -> Elaboratable:
        """Rows and columns, the register of the pins, and the data beside them."""
        m = Module()
        m.submodules.rows = rows = RowControl(self.address, self.cycles, address_bits=self._address_bits)
        m.submodules.columns = columns = ColumnControl(self.address, self.cycles)
        request = self.port.request
        m.d.comb += [
            rows.i.valid.eq(request.valid),
            rows.i.payload.address.eq(request.payload.address),
            rows.i.payload.write.eq(request.payload.write),
            request.ready.eq(rows.i.ready),
            columns.i_valid.eq(rows.prepared_valid),
            columns.i.eq(rows.prepared),
            rows.room.eq(columns.room),
            rows.closable.eq(columns.closable),
        ]
        self._commands(m, rows, columns)
        self._write_data(m, columns)
        self._read_data(m, columns)
        return m

    def _commands(self, m: Module, rows: RowControl, columns: ColumnControl) -> None:
        """One command a cycle: READ and WRITE first, others when there is none of these."""
        pins, burst_bits = self.pins, self.address.burst.bit_length() - 1
        column = Signal(ADDRESS_PINS)
        burst = columns.burst[: self.address.bursts.bit_length() - 1]
        m.d.comb += [
            column.eq(Cat(Const(0, burst_bits), burst, columns.request.place)),
            rows.sent.eq(rows.row_valid & ~columns.valid),
        ]
        awake = Signal()
        m.d.sync += [awake.eq(1), pins.cke.eq(awake), pins.dqm.eq(0)]
        m.d.sync += [
            pins.command.eq(Mux(columns.valid, columns.command, Mux(rows.row_valid, rows.row_command.command, 0))),
            pins.ba.eq(Mux(columns.valid, columns.request.bank, rows.row_command.ba)),
            pins.a.eq(Mux(columns.valid, column, rows.row_command.a)),
        ]

    def _write_data(self, m: Module, columns: ColumnControl) -> None:
        """Data to write waits in a memory, in the order of the requests, and leaves through a shift register."""
        request, bits = self.port.request, self.address.beat_bits
        m.submodules.data = data = memory.Memory(shape=bits, depth=WRITES, init=[])
        write, read = data.write_port(), data.read_port(domain="comb")
        come, gone = Signal(range(WRITES)), Signal(range(WRITES))
        shift, left = Signal(bits, reset_less=True), Signal(range(self.address.burst))
        used = columns.valid & columns.request.write
        m.d.comb += [
            write.en.eq(request.valid & request.ready & request.payload.write),
            write.addr.eq(come),
            write.data.eq(request.payload.data),
            read.addr.eq(gone),
            self.pins.dq_o.eq(shift[:WORD_BITS]),
        ]
        m.d.sync += [
            come.eq(come + write.en),
            gone.eq(gone + (used & columns.last)),
            shift.eq(Mux(used & columns.first, read.data, shift >> WORD_BITS)),
        ]
        with m.If(columns.valid & (columns.command == Command.WRITE)):
            m.d.sync += [self.pins.dq_oe.eq(1), left.eq(self.address.burst - 1)]
        with m.Elif(left == 0):
            m.d.sync += self.pins.dq_oe.eq(0)
        with m.Else():
            m.d.sync += left.eq(left - 1)
        with m.If(used & columns.request.error):
            m.d.sync += self.port.error.eq(1)

    def _read_data(self, m: Module, columns: ColumnControl) -> None:
        """Every word is shifted in, wanted or not; the beat is whole when the last word of its last burst has come."""
        gather = Signal(self.address.beat_bits, reset_less=True)
        ends = Signal()
        latency = self.cycles.cas_latency + self.address.burst + 1 + self.input_delay
        m.d.comb += ends.eq(columns.valid & columns.last & ~columns.request.write)
        m.d.sync += gather.eq(Cat(gather[WORD_BITS:], self.pins.dq_i))
        response = self.port.response
        m.d.comb += [
            response.valid.eq(delay(m, ends, latency, "ends", reset_less=False)),
            response.payload.error.eq(delay(m, columns.request.error, latency, "error")),
            response.payload.data.eq(gather),
        ]

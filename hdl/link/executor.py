"""Requests carried out: packet in a buffer -> transfers of the array -> reply."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.ecp5.block_ram import BlockRam

from .frame import BUFFER_BYTES, FrameEnd
from .protocol import BODY_BYTES, HEADER_BYTES, LINK_SEQUENCE, Counters, Identity, Opcode, Status
from .token import Token
from .transfers import TransferLayout

__all__ = ["CommandExecutor", "check_watchdog"]

#: Cycles from a new address to its byte.
FETCH_CYCLES = BlockRam.LATENCY
#: Limits of the watchdog count, in cycles.
WATCHDOG_MIN, WATCHDOG_MAX = 16, 1 << 30


def check_watchdog(cycles: int) -> int:
    """``cycles`` itself; ``ValueError`` unless it is from 16 to 2^30."""
    if not WATCHDOG_MIN <= cycles <= WATCHDOG_MAX:
        nearest = min(max(cycles, WATCHDOG_MIN), WATCHDOG_MAX)
        raise ValueError(
            f"watchdog must be from {WATCHDOG_MIN} to {WATCHDOG_MAX} cycles, not {cycles}; "
            f"nearest valid value: {nearest}"
        )
    return cycles


class CommandExecutor(wiring.Component):
    """Carries out one checked packet at a time and replies to each, good or bad, exactly once.

    Ports: ``i`` and ``address``/``data`` belong to a :class:`~hdl.link.frame.FrameReceiver`; ``o``
    gives reply packets; ``o_command`` ... ``o_codes`` and ``i_results`` face the array;
    ``array_idle`` comes from it. ``failed`` is high while the last reply was an error.

    A transfer is offered to the array for at most ``watchdog`` cycles and then withdrawn (BUSY);
    the array acts on complete handshakes only, so a withdrawn offer leaves no trace in it. That asks for a
    ``watchdog`` above the time that the array needs by itself between two transfers (a sweep, or the drain
    of its pipeline: some hundred cycles), so that no offer is withdrawn while the array is answering it.

    Latency of a request with n body bytes and k transfers: ``3 * n + 6 * k + (cycles the array
    makes each offer wait) + 14`` cycles at most before its reply starts.

    Parameters
    ----------
    layout : TransferLayout
        Widths and limits of the array.
    identity : Identity
        What IDENTIFY answers (its ``idle`` is live).
    watchdog : int
        Cycles, from 16 to 2^30.
    """

    def __init__(self, layout: TransferLayout, identity: Identity, *, watchdog: int):
        self.layout = layout
        self.identity = identity
        self.watchdog = check_watchdog(watchdog)
        super().__init__(
            {
                "i": In(stream.Signature(FrameEnd)),
                "address": Out(range(BUFFER_BYTES)),
                "data": In(8),
                "o": Out(stream.Signature(Token)),
                **{name: Out(stream.Signature(shape)) for name, shape in layout.write_shapes.items()},
                "i_results": In(stream.Signature(layout.result_shape)),
                "array_idle": In(1),
                "failed": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        layout = self.layout

        # One shift register gathers transfers (bytes enter at the top) and scatters replies
        # (bytes leave at the bottom): a wide array pays for its width once.
        reply_bytes = max(layout.result_bytes, Identity.size(), Counters.size())
        shift = Signal(8 * max(reply_bytes, *layout.transfer_bytes.values()))

        sequence = Signal(8)
        opcode = Signal(8)
        status = Signal(Status)
        position = Signal(range(BUFFER_BYTES))  # next byte of the packet
        age = Signal(range(FETCH_CYCLES + 1))  # cycles since position changed
        body = Signal(range(BODY_BYTES + 1))  # bytes of transfers not yet counted
        size = Signal(range(max(layout.transfer_bytes.values()) + 1))  # bytes of one transfer
        left = Signal(range(BODY_BYTES + 1))  # transfers not yet made, or tokens not yet read
        done = Signal(16)  # transfers made
        count = Signal(range(len(shift) // 8 + 1))  # bytes to gather or scatter
        argument = Signal(16)
        timer = Signal(range(self.watchdog + 1))
        expired = Signal()  # timer has reached the watchdog count
        command_valid, steps_exceed, tokens_exceed = Signal(), Signal(), Signal()
        unnamed, body_empty, body_word, body_tiny, fits, single, none_left = (Signal() for _ in range(7))
        answers = Signal()  # this status comes with a body
        chosen = {code: Signal(name=f"chosen_{code.name.lower()}") for code in Opcode}

        ready = age == FETCH_CYCLES
        take = Signal()
        m.d.comb += self.address.eq(position)
        # Comparisons of wide operands get a cycle of their own: the state machine sees one bit each.
        m.d.sync += [
            expired.eq(timer == self.watchdog),
            command_valid.eq(layout.command_valid(shift)),
            unnamed.eq(sequence == LINK_SEQUENCE),
            body_empty.eq(body == 0),
            body_word.eq(body == 2),
            body_tiny.eq(body <= 2),
            fits.eq(body >= size),
            single.eq(left == 1),
            none_left.eq(left == 0),
            answers.eq((status == Status.OK) | (status == Status.BUSY)),
            *(chosen[code].eq(opcode == code) for code in Opcode),
            steps_exceed.eq(argument + left > layout.codebook_depth),
            tokens_exceed.eq((argument == 0) | (argument > layout.read_tokens)),
        ]
        with m.If(take):
            m.d.sync += [position.eq(position + 1), age.eq(0)]
        with m.Elif(~ready):
            m.d.sync += age.eq(age + 1)
        advance = Cat(shift[8:], self.data)

        # A port whose payload has gone keeps that in mind, and only this is looked at: the way from the
        # array's ready ends in one flip-flop per port.
        offer = Signal()
        accepted = Signal()  # every port of this opcode has taken its payload
        taken = {name: Signal(name=f"taken_{name}") for name in layout.write_shapes}
        for name in layout.write_shapes:
            port = getattr(self, name)
            wanted = Cat(chosen[code] for code, names in layout.ports.items() if name in names).any()
            m.d.comb += port.valid.eq(offer & wanted & ~taken[name] & ~expired)
            m.d.sync += taken[name].eq(offer & ~accepted & (taken[name] | (port.valid & port.ready)))
            layout.assign(m, name, port.payload, shift, address=argument)
        for code, names in layout.ports.items():
            with m.If(chosen[code]):
                m.d.comb += accepted.eq(Cat(taken[name] for name in names).all())

        counters = {
            name: Signal(32, name=name) for name in ("good_frames", "bad_frames", "busy_replies", "busy_cycles")
        }
        m.d.sync += counters["busy_cycles"].eq(counters["busy_cycles"] + ~self.array_idle)

        identity = int.from_bytes(self.identity.pack(), "little")
        identity_bits = 8 * (Identity.size() - 1)

        def finish(outcome):
            m.d.sync += status.eq(outcome)
            m.next = "SEQUENCE-OUT"

        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [position.eq(0), age.eq(0), done.eq(0), count.eq(0), left.eq(0), timer.eq(0)]
                with m.If(self.i.valid):
                    m.d.sync += [sequence.eq(LINK_SEQUENCE), opcode.eq(0)]
                    with m.If(self.i.p.status == Status.OK):
                        m.d.sync += [counters["good_frames"].eq(counters["good_frames"] + 1)]
                        m.next = "SEQUENCE-IN"
                    with m.Else():
                        m.d.sync += counters["bad_frames"].eq(counters["bad_frames"] + 1)
                        finish(self.i.p.status)
            with m.State("SEQUENCE-IN"):
                m.d.sync += body.eq(self.i.p.length - HEADER_BYTES)
                m.d.comb += take.eq(ready)
                with m.If(ready):
                    m.d.sync += sequence.eq(self.data)
                    m.next = "OPCODE"
            with m.State("OPCODE"):
                m.d.comb += take.eq(ready)
                with m.If(ready):
                    m.d.sync += opcode.eq(self.data)
                    m.next = "DECODE"
            with m.State("DECODE"):
                m.next = "DISPATCH"
            with m.State("DISPATCH"):
                with m.If(unnamed):
                    finish(Status.OUT_OF_RANGE)
                with m.Elif(chosen[Opcode.IDENTIFY] | chosen[Opcode.COUNTERS]):
                    finish(Mux(body_empty, Status.OK, Status.BAD_LENGTH))
                with m.Elif(chosen[Opcode.READ]):
                    with m.If(body_word):
                        m.next = "ARGUMENT"
                    with m.Else():
                        finish(Status.BAD_LENGTH)
                for code, transfer_bytes in layout.transfer_bytes.items():
                    with m.Elif(chosen[code]):
                        header = layout.header_bytes(code)
                        m.d.sync += [size.eq(transfer_bytes), body.eq(body - header)]
                        with m.If(body_tiny if header else body_empty):
                            finish(Status.BAD_LENGTH)
                        with m.Else():
                            m.next = "COUNT"
                with m.Else():
                    finish(Status.UNKNOWN_OPCODE)
            with m.State("COUNT"):
                # Whole transfers only: found by subtracting, which costs two cycles for each.
                m.next = "COUNTED"
            with m.State("COUNTED"):
                with m.If(body_empty):
                    with m.If(chosen[Opcode.COMMAND] & ~single):
                        finish(Status.BAD_LENGTH)
                    with m.Elif(chosen[Opcode.CODEBOOK]):
                        m.next = "ARGUMENT"
                    with m.Else():
                        m.next = "GATHER"
                with m.Elif(~fits):
                    finish(Status.BAD_LENGTH)
                with m.Else():
                    m.d.sync += [body.eq(body - size), left.eq(left + 1)]
                    m.next = "COUNT"
                m.d.sync += count.eq(size)
            with m.State("ARGUMENT"):
                m.d.comb += take.eq(ready)
                with m.If(ready):
                    m.d.sync += [argument.eq(Cat(argument[8:], self.data)), done.eq(done + 1)]
                    with m.If(done == 1):
                        m.next = "RANGE-SETTLE"
            with m.State("RANGE-SETTLE"):
                m.next = "RANGE"
            with m.State("RANGE"):
                m.d.sync += done.eq(0)
                with m.If(chosen[Opcode.CODEBOOK]):
                    with m.If(steps_exceed):
                        finish(Status.OUT_OF_RANGE)
                    with m.Else():
                        m.next = "GATHER"
                with m.Else():
                    with m.If(tokens_exceed):
                        finish(Status.OUT_OF_RANGE)
                    with m.Else():
                        m.d.sync += left.eq(argument)
                        finish(Status.OK)
            with m.State("GATHER"):
                m.d.comb += take.eq(ready)
                with m.If(ready):
                    m.d.sync += [shift.eq(advance), count.eq(count - 1)]
                    with m.If(count == 1):
                        m.d.sync += timer.eq(0)
                        m.next = "SETTLE"
            with m.State("SETTLE"):
                m.next = "JUDGE"
            with m.State("JUDGE"):
                with m.If(chosen[Opcode.COMMAND] & ~command_valid):
                    finish(Status.OUT_OF_RANGE)
                with m.Else():
                    m.next = "OFFER"
            with m.State("OFFER"):
                m.d.comb += offer.eq(1)
                m.d.sync += [timer.eq(timer + 1), count.eq(size)]
                with m.If(accepted):
                    m.d.sync += [done.eq(done + 1), left.eq(left - 1), argument.eq(argument + 1)]
                    with m.If(single):
                        finish(Status.OK)
                    with m.Else():
                        m.next = "GATHER"
                with m.Elif(expired):
                    m.d.sync += [counters["busy_replies"].eq(counters["busy_replies"] + 1), left.eq(0)]
                    finish(Status.BUSY)

            with m.State("SEQUENCE-OUT"):
                m.d.comb += [self.o.p.data.eq(sequence), self.o.valid.eq(1)]
                m.d.sync += [timer.eq(0), count.eq(0)]
                with m.If(self.o.ready):
                    m.next = "STATUS-OUT"
            with m.State("STATUS-OUT"):
                m.d.comb += [self.o.p.data.eq(status), self.o.valid.eq(1)]
                m.d.sync += self.failed.eq(status != Status.OK)
                with m.If(answers):
                    with m.If(chosen[Opcode.IDENTIFY]):
                        m.d.sync += [
                            shift.eq(Cat(Const(identity, identity_bits), self.array_idle)),
                            count.eq(Identity.size()),
                        ]
                    with m.Elif(chosen[Opcode.COUNTERS]):
                        m.d.sync += [shift.eq(Cat(*counters.values())), count.eq(Counters.size())]
                    with m.Elif(~chosen[Opcode.READ]):
                        m.d.sync += [shift.eq(done), count.eq(2)]
                with m.If(self.o.ready):
                    m.next = "BODY-OUT"
            with m.State("BODY-OUT"):
                with m.If(count != 0):
                    m.d.comb += [self.o.p.data.eq(shift[:8]), self.o.valid.eq(1)]
                    with m.If(self.o.ready):
                        m.d.sync += [shift.eq(advance), count.eq(count - 1), timer.eq(0)]
                with m.Else():
                    m.next = "RESULT"
            with m.State("RESULT"):
                with m.If(chosen[Opcode.READ] & ~none_left & ~expired):
                    m.d.comb += self.i_results.ready.eq(1)
                    m.d.sync += timer.eq(timer + 1)
                    with m.If(self.i_results.valid):
                        m.d.sync += [
                            shift.eq(Value.cast(self.i_results.payload)),
                            count.eq(layout.result_bytes),
                            left.eq(left - 1),
                        ]
                        m.next = "BODY-OUT"
                with m.Else():
                    m.next = "END-OUT"
            with m.State("END-OUT"):
                m.d.comb += [self.o.p.end.eq(1), self.o.valid.eq(1)]
                with m.If(self.o.ready):
                    m.next = "RELEASE"
            with m.State("RELEASE"):
                m.d.comb += self.i.ready.eq(1)
                m.next = "IDLE"
        return m

"""hdl.sequencer: credits, takes, tokens, and the distance between visits to a token."""

from amaranth.hdl import Mux, Signal

from formal.proof import Mode, Proof
from formal.statement import Opened, Statement
from hdl.array.geometry import ArrayGeometry
from hdl.rescale import REVISIT_DISTANCE
from hdl.sequencer import SHORTEST_RUN, CommandSequencer, Opcode

GEOMETRY = ArrayGeometry(rows=16, columns=4, loader_rows=8, token_depth=8, codebooks=2)
CREDITS = 5
DRAIN = 6


def write(s: Statement) -> None:
    """Everything around the sequencer is free but for what the neighbours' own statements rule out."""
    sequencer = CommandSequencer(GEOMETRY, credits=CREDITS, drain=DRAIN)
    opened = Opened(sequencer)
    s.unit(sequencer)
    command, control = sequencer.i_command.payload, sequencer.o_control
    s.drive(sequencer.i_command.valid, "command_valid")
    s.drive(command, "command")
    s.drive(sequencer.o_load.ready, "load_ready")
    for port in (
        "loader_busy",
        "scale_valid",
        "scale_taken",
        "bias_valid",
        "bias_taken",
        "codes_valid",
        "output_taken",
    ):
        s.drive(getattr(sequencer, port), port)
    s.assume(command.tokens <= GEOMETRY.token_depth)
    idle = opened.variable("machine").ongoing("IDLE")
    starts = Signal()
    s.m.d.comb += starts.eq(sequencer.i_command.valid & sequencer.i_command.ready)
    s.always(~sequencer.i_command.ready | idle)

    _credits(s, sequencer, opened)
    _takes(s, sequencer, opened, starts)
    _tokens(s, sequencer, opened, starts)

    quiet_for = Signal(range(DRAIN + 1), init=DRAIN)
    active = ~idle | sequencer.loader_busy | control.valid | control.take_scale
    s.m.d.sync += quiet_for.eq(Mux(active, 0, Mux(quiet_for == DRAIN, DRAIN, quiet_for + 1)))
    s.always(~sequencer.o_quiet | (quiet_for == DRAIN))
    s.always(opened.variable("draining") == DRAIN - quiet_for)


def _credits(s: Statement, sequencer: CommandSequencer, opened: Opened) -> None:
    """A credit per result from its promise until it is taken: at most CREDITS at once, never fewer than none."""
    promises = Signal()
    promised = Signal(range(CREDITS + 2))
    s.m.d.comb += promises.eq(sequencer.o_control.valid & sequencer.o_control.last)
    s.m.d.sync += promised.eq(promised + promises - sequencer.output_taken)
    s.assume(~sequencer.output_taken | (promised != 0))
    s.always(promised <= CREDITS)
    s.always(~promises | (promised < CREDITS))
    s.always(opened.variable("credits") == CREDITS - promised)
    s.reach(sequencer.codes_valid & ~sequencer.codes_ready & (promised == CREDITS))
    s.reach(s.after(1) & promises & (s.past(promised) == CREDITS))


def _takes(s: Statement, sequencer: CommandSequencer, opened: Opened, starts: Signal) -> None:
    """One take per LOAD and per transfer."""
    command, control = sequencer.i_command.payload, sequencer.o_control
    loads = starts & (command.opcode == Opcode.LOAD)
    owed, with_bias = Signal(), Signal()
    for name, take, taken in (
        ("scale", control.take_scale, sequencer.scale_taken),
        ("bias", control.take_bias, sequencer.bias_taken),
    ):
        under_way = Signal(name=f"{name}_under_way")
        s.m.d.sync += under_way.eq((under_way & ~taken) | take)
        s.assume(~taken | under_way)
        # Never before the last one was answered, and only for what is offered: so never twice for one transfer.
        s.always(~take | (getattr(sequencer, f"{name}_valid") & ~under_way))
        s.always(opened.variable(f"{name}_pending") == under_way)
    with s.m.If(loads):
        s.m.d.sync += [owed.eq(1), with_bias.eq(command.load_bias)]
    with s.m.Elif(control.take_scale):
        s.m.d.sync += owed.eq(0)
    s.always((sequencer.o_load.valid & sequencer.o_load.ready) == loads)
    s.always(~control.take_scale | owed)
    s.always(control.take_bias == (control.take_scale & with_bias))
    s.always(~(opened.variable("machine").ongoing("IDLE") & owed))
    s.always(opened.variable("take_scale") == owed)
    s.always(~owed | (opened.variable("machine").ongoing("LOAD") & (opened.variable("take_bias") == with_bias)))
    s.reach(control.take_bias)


def _tokens(s: Statement, sequencer: CommandSequencer, opened: Opened, starts: Signal) -> None:
    """A RUN accepts its tokens in order, each once; two visits to a token are REVISIT_DISTANCE cycles apart."""
    command, control = sequencer.i_command.payload, sequencer.o_control
    running, first, last = Signal(), Signal(), Signal()
    wanted, sent = Signal(range(GEOMETRY.token_depth + 1)), Signal(range(GEOMETRY.token_depth + 1))
    with s.m.If(starts):
        s.m.d.sync += [running.eq(command.opcode == Opcode.RUN), wanted.eq(command.tokens), sent.eq(0)]
        s.m.d.sync += [first.eq(command.first), last.eq(command.last)]
    with s.m.Elif(control.valid):
        s.m.d.sync += sent.eq(sent + 1)
    idle = opened.variable("machine").ongoing("IDLE")
    in_run = running & ~idle
    s.always(control.valid == (sequencer.codes_valid & sequencer.codes_ready))
    s.always(~control.valid | (in_run & (sent < wanted) & (control.token == sent)))
    s.always(~control.valid | ((control.first == first) & (control.last == last)))
    s.always(~(idle & running) | (sent == wanted))

    token = s.chosen("visited", GEOMETRY.token_depth.bit_length() - 1)
    since = Signal(range(REVISIT_DISTANCE + 1), init=REVISIT_DISTANCE)
    visited = Signal()
    s.m.d.comb += visited.eq(control.valid & (control.token == token))
    with s.m.If(visited):
        s.m.d.sync += since.eq(1)
    with s.m.Elif(since != REVISIT_DISTANCE):
        s.m.d.sync += since.eq(since + 1)
    s.always(~visited | (since == REVISIT_DISTANCE))
    s.reach(visited & (s.past(since) == REVISIT_DISTANCE - 1))

    more, remaining, padding = (opened.variable(name) for name in ("more", "remaining", "padding"))
    s.always(opened.variable("machine").ongoing("RUN") == in_run)
    s.always(~in_run | (remaining == wanted - sent))
    s.always(~in_run | (sent <= wanted))
    s.always(~in_run | (more == (remaining != 0)))
    s.always(~in_run | (wanted <= GEOMETRY.token_depth))
    s.always(~(in_run & more) | (opened.variable("token") == sent))
    s.always(~(in_run & more) | (padding == Mux(wanted < SHORTEST_RUN, SHORTEST_RUN - wanted, 0)))
    s.always(~(in_run & ~more) | ((padding != 0) & (padding <= SHORTEST_RUN)))
    s.always(in_run | (since + token >= SHORTEST_RUN))
    s.always(~(in_run & more & (token >= sent)) | (since + token - sent >= REVISIT_DISTANCE))
    s.always(~(in_run & more & (token < sent)) | (since == REVISIT_DISTANCE) | (since + token >= sent))
    s.always(~(in_run & ~more) | (since + token + padding >= SHORTEST_RUN))
    s.always(~in_run | ((opened.variable("first") == first) & (opened.variable("last") == last)))


PROOFS = (
    Proof(
        name="sequencer",
        says="Promised results never exceed the credits, and credits never underflow: with an output FIFO of that "
        "depth no result is lost. One take per LOAD, never for what is not offered, never a second one before the "
        "first was answered: so never twice for one transfer. A RUN accepts its tokens in order, each once, with its "
        "own `first` and `last`; two visits to a token are REVISIT_DISTANCE cycles apart. `o_quiet` only when `drain` "
        "cycles have passed.",
        assumes="A result is taken only after its promise (proved of the output FIFO); a take is answered once, in a "
        "later cycle; commands ask for at most token_depth tokens. 5 credits, token_depth 8.",
        write=write,
        mode=Mode.INDUCTION,
        depth=4,
        reach_depth=24,
    ),
)

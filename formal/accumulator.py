"""hdl.rescale: accumulators never wrap for layers that the contract admits."""

from amaranth.hdl import Mux, Signal, signed

from formal.proof import Mode, Proof
from formal.statement import Opened, Statement, plain
from hdl.array.geometry import ArrayGeometry
from hdl.rescale import ACCUMULATE_STAGE, BIAS_SHIFT, REVISIT_DISTANCE, STORE_STAGE, GroupRescale
from sim.contract.constants import ACCUMULATOR_BITS

GEOMETRY = ArrayGeometry(rows=64, columns=4, loader_rows=16, column_group=4, token_depth=8)

EXACT_BITS = 48
LIMIT = (1 << (ACCUMULATOR_BITS - 1)) - 1


def write(s: Statement) -> None:
    """One token of one column, followed through any number of K tiles with a sum that cannot wrap."""
    rescale = GroupRescale(GEOMETRY)
    opened = Opened(rescale)
    tokens = Opened(opened.variable("tokens"))
    token = s.chosen("token", GEOMETRY.token_depth.bit_length() - 1)
    stored = tokens.memory("memory", token).as_signed()
    s.unit(rescale)
    control = rescale.control
    s.drive(control, "control")
    s.drive(rescale.sums, "sums")
    for stream in (rescale.i_scale, rescale.i_bias):
        s.drive(stream.payload, "operand")
    product = opened.variable("multiplier").o
    visits = control.valid & (control.token == token)
    adds, stores = s.past(visits, ACCUMULATE_STAGE), s.past(visits, STORE_STAGE)
    from_bias = s.past(control.first, ACCUMULATE_STAGE)
    for distance in range(1, REVISIT_DISTANCE):
        s.assume(~(visits & s.past(visits, distance)))

    bias = Signal(signed(EXACT_BITS), name="bias_taken")
    with s.m.If(rescale.i_bias.ready):
        s.m.d.sync += bias.eq(rescale.i_bias.payload[GEOMETRY.columns - 1])
    s.always(opened.variable("bias").as_signed() == bias)
    aligned = bias << BIAS_SHIFT
    exact, worst = (Signal(signed(EXACT_BITS), name=name) for name in ("exact", "worst"))
    total, bound = (Signal(signed(EXACT_BITS), name=name) for name in ("total", "bound"))
    s.m.d.comb += [
        total.eq(Mux(from_bias, aligned, exact) + product),
        bound.eq(Mux(from_bias, abs(aligned), worst) + abs(product)),
    ]
    with s.m.If(adds):
        s.m.d.sync += [exact.eq(total), worst.eq(bound)]
    s.assume(~adds | (bound <= LIMIT))

    accumulator = opened.variable("accumulator")
    s.always(~stores | (accumulator == exact))
    s.always(stores | (stored == exact))
    s.always((exact <= worst) & (-exact <= worst) & (worst <= LIMIT))
    s.always((bias < 1 << 31) & (bias >= -(1 << 31)))
    s.reach(stores & (accumulator == LIMIT) & ~s.past(from_bias))
    s.reach(stores & (accumulator == -LIMIT) & ~s.past(from_bias) & (plain(bias) > 0))


PROOFS = (
    Proof(
        name="accumulator",
        says="A token's accumulator is the exact sum of its bias and of all products since, after any number of K "
        "tiles and passes: 36 bits never wrap.",
        assumes="4 * abs(bias) plus the magnitudes of the products since stay within 2**35 - 1: "
        "sim.contract.linear.QuantizedLinear refuses layers whose worst case does not. Visits to a token are at least "
        "REVISIT_DISTANCE cycles apart (proved of the sequencer). Products are whatever the multiplier gives. One "
        "column, token_depth 8.",
        write=write,
        mode=Mode.INDUCTION,
        depth=STORE_STAGE + 3,
        reach_depth=16,
        refine=("hierarchy -top top", "proc", "flatten", "cutpoint t:$mul"),
    ),
)

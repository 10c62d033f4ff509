"""hdl.layer_norm.token_sums: the sums of a token's channels and of their squares never wrap."""

from amaranth.hdl import Mux, Signal, signed

from formal.adder_tree import exact_sum
from formal.proof import Mode, Proof
from formal.statement import Opened, Statement
from hdl.layer_norm.geometry import DEPTH_MAX
from hdl.layer_norm.token_sums import TokenSums
from sim.contract.constants import WIDE_BITS

LANES = 4
EXACT_BITS = 48
SQUARE_MAX = 1 << 2 * (WIDE_BITS - 1)


def write(s: Statement) -> None:
    """Sums of the inputs in wide arithmetic, as many cycles later as the pipeline takes."""
    sums = TokenSums(lanes=LANES)
    opened = Opened(sums)
    s.unit(sums)
    for port in ("valid", "first", "last", "x"):
        s.drive(getattr(sums, port), port)
    wait = TokenSums.latency(LANES) - 1
    tree_levels = (LANES - 1).bit_length()
    squares = opened.variable("square_tree").i
    for lane in range(LANES):
        s.assume((squares[lane] >= 0) & (squares[lane] <= SQUARE_MAX))
    channels = [s.past(sums.x[lane], wait) for lane in range(LANES)]
    addends = {
        "sum": exact_sum(s, channels),
        "squares": exact_sum(s, [s.past(squares[lane], tree_levels) for lane in range(LANES)]),
    }
    valid, first = s.past(sums.valid, wait), s.past(sums.first, wait)

    counts = range(DEPTH_MAX + LANES + 1)
    count, counted = Signal(counts, name="count"), Signal(counts, name="counted")
    s.m.d.comb += counted.eq(Mux(first, 0, count) + LANES)
    s.assume(~valid | (counted <= DEPTH_MAX))
    with s.m.If(valid):
        s.m.d.sync += count.eq(counted)
    for name, addend in addends.items():
        exact = Signal(signed(EXACT_BITS), name=f"exact_{name}")
        with s.m.If(valid):
            s.m.d.sync += exact.eq(Mux(first, 0, exact) + addend)
        s.always(sums.o.payload[name] == exact)
        largest = (count << WIDE_BITS - 1) if name == "sum" else count << 2 * (WIDE_BITS - 1)
        s.always((exact <= largest) & (exact >= (-largest if name == "sum" else 0)))
        s.reach(sums.o.valid & (exact == largest) & (count == 2 * LANES) if name == "squares" else sums.o.valid)
    s.always(sums.o.valid == s.past(sums.valid & sums.last, wait + 1))
    s.always(count <= DEPTH_MAX)


def write_square(s: Statement) -> None:
    """Why a square of 16 bits is in the range that the other statement assumes."""
    x = s.free("x", signed(WIDE_BITS))
    s.always((x * x >= 0) & (x * x <= SQUARE_MAX))
    s.reach(x * x == SQUARE_MAX)


PROOFS = (
    Proof(
        name="token_sums",
        says="`sum` and `squares` are the exact sums over a token: 28 and 43 bits never wrap; `o.valid` comes LATENCY "
        "cycles after the token's last channels.",
        assumes="At most 4,096 channels per token (LayerNorm's parameters); squares in [0, 2**30], as `square_range` "
        "proves. 4 lanes.",
        write=write,
        mode=Mode.INDUCTION,
        depth=TokenSums.latency(LANES) + 2,
        reach_depth=TokenSums.latency(LANES) + 4,
        refine=("hierarchy -top top", "proc", "flatten", "cutpoint t:$mul"),
    ),
    Proof(
        name="square_range",
        says="The square of every signed 16-bit number is in [0, 2**30].",
        assumes="Nothing.",
        write=write_square,
        mode=Mode.INDUCTION,
        depth=1,
        reach_depth=1,
    ),
)

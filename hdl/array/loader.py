"""Fills product tables from weights by running adders, several rows at once."""

from typing import Any

from amaranth.hdl import Cat, Elaboratable, Module, Signal, signed, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hdl.array.geometry import ArrayGeometry
from hdl.array.product_table import table_write_layout
from hdl.array.sweep import (
    EARLY,
    STEP_BITS,
    STEP_INDEX_BITS,
    STEP_LAYOUT,
    STEPS_PER_CODEBOOK,
    run_program,
    sweep_program,
    sweep_steps,
)
from hdl.ecp5.block_ram import BlockRam
from hdl.ecp5.carry import AddSubtract
from hdl.ecp5.unmerged_register import UnmergedRegister
from hdl.pipeline import chain, delay

__all__ = ["ProductSweep", "TableLoader", "codebook_word_layout", "sweep_program", "sweep_steps", "weights_layout"]

WEIGHT_BITS = 4
"""Signed width of a weight."""

LANES_PER_CHAIN = 2
"""Running adders that share a carry chain, which fills its cells without making it long."""

ROWS_PER_COPY = 4
"""Loader rows whose adders share a copy of a step's `subtract`: the one bit of a step that is used before the next
register. With 32 rows on one register the 64 x 32 array routed at 99 MHz, 8 ns of it on that register's net. Each copy
goes from column group to column group on its own, so none has loads all over the die. The other bits stay single: as
clock enables and resets they would split the flip-flops into more sets than a tile can hold."""


def _copies(geometry: ArrayGeometry) -> int:
    """Copies of `subtract` in a column group."""
    return -(-geometry.loader_rows // ROWS_PER_COPY)


def weights_layout(geometry: ArrayGeometry) -> data.ArrayLayout:
    """One transfer of weights: [loader row][column]."""
    return data.ArrayLayout(data.ArrayLayout(signed(WEIGHT_BITS), geometry.columns), geometry.loader_rows)


def codebook_word_layout(geometry: ArrayGeometry) -> data.StructLayout:
    """One word of codebook memory: step s of codebook c goes to address c * STEPS_PER_CODEBOOK + s."""
    return data.StructLayout({"address": range(geometry.codebooks * STEPS_PER_CODEBOOK), "step": unsigned(STEP_BITS)})


def _control_layout(geometry: ArrayGeometry) -> data.StructLayout:
    """What one step asks of the running adders of a column group."""
    return data.StructLayout(
        {
            "capture": unsigned(1),
            "clear": unsigned(1),
            "advance": unsigned(1),
            "enable": unsigned(geometry.row_groups),
            "code": unsigned(4),
        }
    )


class ProductSweep(wiring.Component):
    """The running adders of one column group: loader_rows x column_group weights and products.

    `subtract` belongs to `control`, one bit for every ROWS_PER_COPY rows, all alike.
    `control` in cycle t changes weights (capture) and products (clear, advance) at its end; the write that
    belongs to the step is on `write` in cycle t + 1, together with the new products.
    """

    def __init__(self, geometry: ArrayGeometry) -> None:
        self._geometry = geometry
        columns = geometry.column_group
        super().__init__(
            {
                "control": In(_control_layout(geometry)),
                "subtract": In(_copies(geometry)),
                "weights": In(data.ArrayLayout(data.ArrayLayout(signed(WEIGHT_BITS), columns), geometry.loader_rows)),
                "write": Out(
                    table_write_layout(
                        rows=geometry.rows,
                        columns=columns,
                        loader_rows=geometry.loader_rows,
                        table_bits=geometry.table_bits,
                    )
                ),
            }
        )

    def elaborate(self, platform: Any) -> Elaboratable:
        """One weight register, one adder and one product register per lane."""
        m = Module()
        geometry, control = self._geometry, self.control
        enable = Signal(geometry.row_groups)
        code = Signal(4, reset_less=True)
        m.d.sync += [enable.eq(control.enable), code.eq(control.code)]
        m.d.comb += [self.write.enable.eq(enable), self.write.code.eq(code)]
        for row in range(geometry.loader_rows):
            for start in range(0, geometry.column_group, LANES_PER_CHAIN):
                columns = range(start, min(start + LANES_PER_CHAIN, geometry.column_group))
                adder = AddSubtract(width=geometry.table_bits, b_width=WEIGHT_BITS, lanes=len(columns))
                m.submodules[f"adder{row}_{start}"] = adder
                m.d.comb += adder.subtract.eq(self.subtract[row // ROWS_PER_COPY])
                for lane, column in enumerate(columns):
                    weight = Signal(signed(WEIGHT_BITS), name=f"weight{row}_{column}", reset_less=True)
                    product = Signal(signed(geometry.table_bits), name=f"product{row}_{column}", reset_less=True)
                    m.d.comb += [
                        adder.a[lane].eq(product),
                        adder.b[lane].eq(weight),
                        self.write.products[row][column].eq(product),
                    ]
                    with m.If(control.capture):
                        m.d.sync += weight.eq(self.weights[row][column])
                    with m.If(control.clear):
                        m.d.sync += product.eq(0)
                    with m.Elif(control.advance):
                        m.d.sync += product.eq(adder.o[lane])
        return m


class TableLoader(wiring.Component):
    """Codebook memory, the sweep's step counter, and the running adders of all column groups.

    `i_codebook` is always ready; a program must be written before the transfer on `i` that uses it, and left
    alone until `i` is ready again. A transfer on `i` (ready while idle) starts a sweep over all row groups with
    that codebook; each row group takes one transfer of `i_weights`. `o_busy` falls so that codes sampled by
    column group 0's register EARLY + 3 cycles after its fall (and in group j, j cycles later) see the new tables:
    EARLY - 2 cycles before the last step is issued, as no step but a row group's first waits.

    Steps travel from column group to column group, one hop per cycle, like the codes do; so a sweep may start
    while the last codes are still on their way through the array.

    Cycles from the transfer on `i` to the first cycle with o_busy = 0, weights never late:
    row_groups * sweep_steps + 2 - EARLY; to the first with `i` ready: row_groups * sweep_steps + 1. Area:
    loader_rows * columns running adders.

    `i_weights.ready` is registered and answers a `valid` that was seen earlier: it rises column_groups + 2
    cycles after the row group's first step, and relies on valid and payload staying put until then, as the
    stream rules demand.
    """

    def __init__(self, geometry: ArrayGeometry) -> None:
        self._geometry = geometry
        write = table_write_layout(
            rows=geometry.rows,
            columns=geometry.column_group,
            loader_rows=geometry.loader_rows,
            table_bits=geometry.table_bits,
        )
        super().__init__(
            {
                "i": In(stream.Signature(range(geometry.codebooks))),
                "i_codebook": In(stream.Signature(codebook_word_layout(geometry))),
                "i_weights": In(stream.Signature(weights_layout(geometry))),
                "o_busy": Out(1),
                "writes": Out(data.ArrayLayout(write, geometry.column_groups)),
            }
        )

    def model(self, levels: Any, weights: list[list[int]]) -> list[list[list[int]]]:
        """tables[row][column][code] after a load of weights[row][column] with a codebook of 16 levels."""
        program = sweep_program(levels)
        return [[run_program(program, int(weight)) for weight in row] for row in weights]

    def elaborate(self, platform: Any) -> Elaboratable:
        """A step counter, two cycles of block RAM, then hop by hop through the column groups."""
        m = Module()
        geometry = self._geometry
        issue, first, row_group, address, step = self._counter(m)

        m.submodules.program = program = BlockRam(width=STEP_BITS - 1, depth=geometry.codebooks * STEPS_PER_CODEBOOK)
        m.d.comb += [
            program.write_enable.eq(self.i_codebook.valid),
            program.write_address.eq(self.i_codebook.payload.address),
            program.write_data.eq(self.i_codebook.payload.step),
            program.read_address.eq(address),
        ]
        # What goes beside the step while the block RAM looks it up.
        beside = Signal(data.StructLayout({"issue": 1, "first": 1, "row_group": geometry.row_groups}))
        m.d.comb += [beside.issue.eq(issue), beside.first.eq(first), beside.row_group.eq(row_group)]
        beside = delay(m, beside, BlockRam.LATENCY, "beside", reset_less=False)
        m.d.comb += step.eq(program.read_data)
        control = Signal(_control_layout(geometry))
        m.d.sync += [
            control.capture.eq(beside.issue & beside.first),
            control.clear.eq(step.clear),
            control.advance.eq(step.advance),
            control.code.eq(step.code),
            control.enable.eq(
                Cat(beside.row_group[group] & beside.issue & step.write for group in range(geometry.row_groups))
            ),
        ]
        controls = chain(m, control, geometry.column_groups - 1, "control", reset_less=False)
        subtract = step.subtract.replicate(_copies(geometry))
        for group, hop in enumerate(controls):
            m.submodules[f"subtract{group}"] = copies = UnmergedRegister(width=_copies(geometry))
            m.submodules[f"sweep{group}"] = sweep = ProductSweep(geometry)
            m.d.comb += [
                copies.i.eq(subtract),
                sweep.control.eq(hop),
                sweep.subtract.eq(copies.o),
                self.writes[group].eq(sweep.write),
            ]
            subtract = copies.o
            for row in range(geometry.loader_rows):
                for column in range(geometry.column_group):
                    source = self.i_weights.payload[row][group * geometry.column_group + column]
                    m.d.comb += sweep.weights[row][column].eq(source)
        m.d.comb += self.i_weights.ready.eq(controls[-1].capture)
        return m

    def _counter(self, m: Module) -> tuple[Any, Any, Any, Any, Any]:
        """Issues one step address per cycle; returns (issue, first step, one-hot row group, address, step)."""
        geometry = self._geometry
        step = Signal(STEP_LAYOUT)
        word = Signal(STEP_LAYOUT)
        # The last step of each codebook, noted while the program is written: the counter must know it two cycles
        # before the step itself comes out of the block RAM.
        m.submodules.last_steps = last_steps = memory.Memory(shape=STEP_INDEX_BITS, depth=geometry.codebooks, init=[])
        note, lookup = last_steps.write_port(), last_steps.read_port(domain="comb")
        m.d.comb += [
            word.eq(self.i_codebook.payload.step),
            note.en.eq(self.i_codebook.valid & word.last),
            note.addr.eq(self.i_codebook.payload.address[STEP_INDEX_BITS:]),
            note.data.eq(self.i_codebook.payload.address[:STEP_INDEX_BITS]),
            lookup.addr.eq(self.i.payload),
        ]
        active, released, captured = Signal(), Signal(), Signal(init=1)
        codebook = Signal(range(geometry.codebooks), reset_less=True)
        counter, last_step = Signal(STEP_INDEX_BITS), Signal(STEP_INDEX_BITS, reset_less=True)
        releasing = Signal(STEP_INDEX_BITS, reset_less=True)
        row_group = Signal(geometry.row_groups, reset_less=True)
        first, issue = counter == 0, Signal()
        m.d.comb += [
            # `captured` never waits in a program of 16 steps or more; in a codebook that was never written it keeps
            # the weights of one row group from being taken for the next one's too.
            issue.eq(active & (~first | (self.i_weights.valid & captured))),
            self.i.ready.eq(~active),
            self.i_codebook.ready.eq(1),
            self.o_busy.eq(active & ~released),
        ]
        with m.If(self.i_weights.ready):
            m.d.sync += captured.eq(1)
        with m.If(issue):
            m.d.sync += counter.eq(counter + 1)
            with m.If(first):
                m.d.sync += captured.eq(0)
            with m.If(row_group[-1] & (counter == releasing)):
                m.d.sync += released.eq(1)
            with m.If(counter == last_step):
                m.d.sync += [counter.eq(0), row_group.eq(row_group << 1), active.eq(~row_group[-1])]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [active.eq(1), released.eq(0), codebook.eq(self.i.payload), row_group.eq(1)]
            m.d.sync += [last_step.eq(lookup.data), releasing.eq(lookup.data - (EARLY - 1))]
        return issue, first, row_group, Cat(counter, codebook), step

"""hdl.attention.code_buffer: a token reads the word that came for it, though halves are written over."""

from functools import partial

from amaranth.hdl import Cat, Mux, Signal

from formal.proof import Mode, Proof
from formal.queue import keeps_contract
from formal.statement import Statement, plain
from hdl.array.geometry import CODE_BITS
from hdl.attention.code_buffer import CodeBuffer

BLOCK_WORDS, TOKENS = 2, 2
ROWS = {1: 2, 2: 4}
"""Codes of a word by its beats: beats are bytes."""

COUNT_BITS = 5
"""Of blocks, words and tokens counted from the start: more than any run of the proofs has."""


def write(s: Statement, beats: int) -> None:
    """One word of all that come, and one token of all that are read, whichever the prover picks.

    A model that keeps this word alone says where it was written; one that counts says which word the token reads.
    """
    buffer = CodeBuffer(rows=ROWS[beats], code_beat_bits=8, block_words=BLOCK_WORDS, token_depth=TOKENS)
    s.unit(buffer)
    for name in ("i_block", "i_codes", "i_read"):
        port = getattr(buffer, name)
        s.drive(port.valid, f"{name}_valid")
        s.drive(port.payload, f"{name}_payload")
    s.drive(buffer.o.ready, "ready")
    words, read = buffer.i_block.payload, buffer.i_read.payload
    s.assume((words >= 1) & (words <= BLOCK_WORDS))
    s.assume((read.queries >= 1) & (read.queries <= TOKENS))
    block, word, token = (s.chosen(name, COUNT_BITS) for name in ("block", "word", "token"))

    def counter(name: str) -> Signal:
        return Signal(COUNT_BITS, name=name)

    begins, comes, asked, leaves = (
        port.valid & port.ready for port in (buffer.i_block, buffer.i_codes, buffer.i_read, buffer.o)
    )
    # What comes: `begun` blocks, and of the last one beats that lack.
    begun, lacking, place = counter("begun"), counter("lacking"), counter("place")
    content, stored = Signal(beats * 8), Signal()
    s.m.d.sync += [begun.eq(begun + begins), place.eq(Mux(begins, 0, place + comes))]
    s.m.d.sync += lacking.eq(Mux(begins, words * beats, lacking - comes))
    with s.m.If(comes & (begun == block + 1) & (place >= word * beats) & (place < (word + 1) * beats)):
        s.m.d.sync += [
            content.eq(Cat(content, plain(buffer.i_codes.payload))[8:]),
            stored.eq(place % beats == beats - 1),
        ]
    s.assume(~(begins & (begun == block)) | (word < words))

    # What is read: tokens and blocks of the reads so far, and the word of the picked token.
    tokens, released, left = counter("tokens"), counter("released"), counter("left")
    picked, number = Signal(), Signal(COUNT_BITS)
    s.m.d.comb += number.eq(token - tokens)
    s.m.d.sync += left.eq(left + leaves)
    with s.m.If(asked):
        s.m.d.sync += [tokens.eq(tokens + read.queries), released.eq(released + read.release)]
        with s.m.If((token >= tokens) & (number < read.queries) & (released == block)):
            s.m.d.sync += picked.eq(read.word + number * read.pitch == word)

    ours = buffer.o.valid & (left == token) & picked
    keeps_contract(s, buffer.o)
    s.always(~buffer.o.valid | (left < tokens))
    s.always(~ours | stored)
    s.always(~ours | (plain(buffer.o.payload) == content))
    s.always(buffer.i_codes.ready == (lacking != 0))
    # A block waits for the one before it, and the first for nobody.
    s.always(~buffer.i_block.ready | (lacking == 0))
    s.always((begun != 0) | buffer.i_block.ready)
    s.always(~buffer.o_idle | (left == tokens))
    s.reach(ours & (block == 2))
    s.reach(ours & (block == 1) & (released == 1) & (token == 2))


def _proof(beats: int, depth: int, reach_depth: int) -> Proof:
    return Proof(
        name=f"code_buffer_{beats}",
        says="Stream contract on `o`. Every token gets the word of its block that it asks for, and not before it has "
        "come whole, in whatever order blocks, codes and reads come and wait; nothing leaves that nobody read. Codes "
        "are taken exactly while a block lacks some; `o_idle` says that every token has left.",
        assumes=f"Blocks of 1..{BLOCK_WORDS} words, reads of 1..{TOKENS} tokens; the token that is looked at reads "
        f"a word that its block has. Words of {ROWS[beats] * CODE_BITS} bits, beats of 8.",
        write=partial(write, beats=beats),
        mode=Mode.BOUNDED,
        depth=depth,
        reach_depth=reach_depth,
        refine=("hierarchy -top top", "proc", "flatten", "memory"),
    )


PROOFS = (_proof(1, 12, 14), _proof(2, 12, 16))
"""The third block is written over the first from cycle 5 on, with two beats a word from cycle 7; its first word
leaves in cycle 11, or 14."""

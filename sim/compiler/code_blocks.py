"""Blocks of streamed codes: who fills the next one while the array works from the one before.

The buffer has two halves, so the reader is one block ahead: the codes of a block come in pieces between the operands of
the block before, each piece about as long as the array takes for a pass. CODE_BLOCK waits for the half of the block
before that; all operands of its last command have been given by then, so that the wait ends.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from sim.compiler.builder import Builder
from sim.machine.ports import Port

Step: TypeAlias = Callable[[], None]
"""Gives the commands of a pass, operands and all."""


@dataclass(frozen=True)
class CodeBlock:
    """One block. words: of its tokens together. tokens: whose codes come in one order. feed(first, stop): gives the
    commands that bring about the codes of these tokens. beats: cycles of the reader for a token. steps: what works on
    the block, in order. period: steps after which the like comes again (a column tile)."""

    words: int
    tokens: int
    beats: int
    feed: Callable[[int, int], None]
    steps: Sequence[Step]
    period: int


def _pieces(block: CodeBlock, during: CodeBlock) -> dict[int, tuple[int, int]]:
    """Tokens first..stop of a block by the step of the one before that they come behind.

    The same number in every period, so that periods roll up into rounds.
    """
    periods = max(1, len(during.steps) // during.period)
    share = -(-block.tokens // periods)
    wanted = -(-share * block.beats // max(1, during.tokens))
    count = max(1, min(during.period, share, wanted))
    result = {}
    done = 0
    for start in range(0, len(during.steps), during.period):
        for piece in range(count):
            size = (piece + 1) * share // count - piece * share // count
            stop = min(block.tokens, done + size)
            if stop > done:
                result[start + piece * during.period // count] = done, stop
            done = stop
    return result


def run_blocks(builder: Builder, blocks: Iterable[CodeBlock]) -> None:
    """All blocks, each filled while the one before is worked on; the first is filled beforehand."""
    current: CodeBlock | None = None
    for block in [*blocks, None]:
        if current is None:
            assert block is not None
            builder.send(Port.CODE_BLOCK, words=block.words)
            block.feed(0, block.tokens)
        else:
            pieces = {} if block is None else _pieces(block, current)
            for number, step in enumerate(current.steps):
                step()
                if number == 0 and block is not None:
                    builder.send(Port.CODE_BLOCK, words=block.words)
                if number in pieces:
                    assert block is not None
                    block.feed(*pieces[number])
        current = block

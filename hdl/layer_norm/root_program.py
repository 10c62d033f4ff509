"""The steps from a token's sums to its reciprocal root: what the one multiplier and the one accumulator do when.

The multiplier takes operands of 18 bits, so the sums are taken in pieces of 16 bits, high pieces first:

    v = C * squares - sum**2 + epsilon
      = ((P2 << 16) + P1 << 16) + P0            P2 = C * squares[32:48] - high**2 + epsilon[32:]
                                                P1 = C * squares[16:32] - 2 * high * low + epsilon[16:32]
                                                P0 = C * squares[0:16] - low**2 + epsilon[0:16]

with sum = (high << 16) + low. A shift by 16 brings the next piece of epsilon in at the bottom; the two highest
come in first of all. Shifts by 16, 4 and 2 then bring the leading one of v into the top two of 62 bits, and the top
18 are the mantissa m. The Newton step for r = 1 / sqrt(m) is three times the same operation,
T(a) = floor(a * root / 2**16) + 2 * root:

    floor(m * root / 2**16)       = T(m - 2**17)      = p, up to 18 bits
    floor(p * root / 2**16)       = T(p - 2**17)      = n, near 2**16
    r = floor(root * (3 * 2**16 - n) / 2**17) = floor(T(2**16 - n) / 2)

The subtrahends keep operands within a signed multiplier's 18 bits; 2**16 - n is within 510 of 0 for every mantissa.
"""

import enum
from dataclasses import dataclass
from typing import Final

from hdl.ecp5.multiplier import RegisteredMultiplier
from hdl.layer_norm.root_table import RootTable


class Left(enum.IntEnum):
    """First operand of the multiplier."""

    HIGH = 0  # sum[16:]
    LOW = 1  # sum[:16]
    SQUARES = 2  # highest 16 bits of the squares, which then move up by 16
    MANTISSA = 3  # the highest 18 bits of the accumulator less 2**17
    ESTIMATE = 4  # T less 2**17
    CORRECTION = 5  # 2**16 less T of the step before


class Right(enum.IntEnum):
    """Second operand of the multiplier."""

    HIGH = 0
    LOW = 1
    CHANNELS = 2
    ROOT = 3


class Move(enum.IntEnum):
    """Where the accumulator's next value comes from."""

    SUM = 0  # plus or minus the product
    BY_16 = 1  # shifted up, with a piece of epsilon below if `always`, else zeros
    BY_4 = 2
    BY_2 = 3


@dataclass
class Step:
    """One cycle.

    left, right: multiplied. move, subtract: of the accumulator. always: it takes its next value; clears: it does
    so if the bits that leave by this move (the same as `move`) are 0, and the exponent falls. piece: of epsilon, 16
    bits, to append. take_estimate: T is taken from the multiplier's output.
    """

    left: Left = Left.HIGH
    right: Right = Right.HIGH
    move: Move = Move.SUM
    subtract: bool = False
    always: bool = False
    clears: Move | None = None
    piece: int = 0
    take_estimate: bool = False

    def append(self, piece: int) -> None:
        """Bring a piece of epsilon in."""
        self.move, self.always, self.piece = Move.BY_16, True, piece

    def add(self, *, subtract: bool) -> None:
        """Accumulate the product."""
        self.always, self.subtract = True, subtract

    def normalise(self, move: Move) -> None:
        """Shift if nothing is lost."""
        self.move = self.clears = move


def _program() -> tuple[Step, ...]:
    steps = [Step() for _ in range(64)]
    latency = RegisteredMultiplier.LATENCY
    to_sum = latency + 1  # products are registered before the long adder
    pieces = [
        [(Left.SQUARES, Right.CHANNELS), (Left.HIGH, Right.HIGH)],
        [(Left.SQUARES, Right.CHANNELS), (Left.HIGH, Right.LOW), (Left.HIGH, Right.LOW)],
        [(Left.SQUARES, Right.CHANNELS), (Left.LOW, Right.LOW)],
    ]
    for number, piece in enumerate((3, 2)):
        steps[number].append(piece)
    now = 0
    for number, products in enumerate(pieces):
        if number:
            steps[now + to_sum].append(2 - number)
            now += 1
        for left, right in products:
            steps[now].left, steps[now].right = left, right
            steps[now + to_sum].add(subtract=left is not Left.SQUARES)
            now += 1
    now += to_sum
    for move in (Move.BY_16,) * 3 + (Move.BY_4,) * 3 + (Move.BY_2,):
        steps[now].normalise(move)
        now += 1
    now += RootTable.LATENCY
    for operand in (Left.MANTISSA, Left.ESTIMATE, Left.CORRECTION):
        now += operand is Left.CORRECTION  # which is registered
        steps[now].left, steps[now].right = operand, Right.ROOT
        steps[now + latency].take_estimate = True
        now += latency + 1
    return tuple(steps[:now])


PROGRAM: Final = _program()
"""Steps in order; the root is there after the last."""

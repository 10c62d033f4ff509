"""Activation-aware condition number reduction (ACNR): raise the small singular values of a weight before rounding it.

A weight with a large condition number answers small errors with large ones. AHCQ-SAM (arXiv 2503.03088v4, ACNR)
takes K proximal steps on the singular values s_i of A = W^T = U diag(s) V^T, with the singular vectors held fixed:

    s_i <- max(s_i, (s_i + 2 lambda t) / (1 + 2 lambda + 2 beta c_i)),   t = mean of s,
    c_i = u_i^T (E^T E / tokens) u_i,   E = float input of the layer - its quantized input,

for all i but the leading values that hold most of the energy sum s_i^2. c_i is the energy that the inputs' error has
along u_i, so a direction is raised less the more error it would let through. E does not depend on the layer's own
weight and the vectors do not move, so c_i is constant and all steps together need one decomposition.

The energy c_i is counted once, as in the formula; the authors' code adds it twice, which is a beta twice as large.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST_CONDITION = 1 / torch.finfo(torch.float32).eps
"""Condition numbers are reported up to here: beyond, the smallest singular value is rounding noise of float32."""


@dataclass(frozen=True)
class ConditionedWeight:
    """weight: float32 (N, C); before, after: condition numbers, at most LARGEST_CONDITION; raised: how many singular
    values are larger than they were; skipped: the weight is the given one, untouched."""

    weight: Tensor
    before: float
    after: float
    raised: int
    skipped: bool


def condition_number(singular_values: Tensor) -> float:
    """Largest over smallest singular value, at most LARGEST_CONDITION (so finite, also for a rank-deficient matrix)."""
    largest, smallest = float(singular_values.max()), float(singular_values.min())
    if largest >= smallest * LARGEST_CONDITION:
        return LARGEST_CONDITION
    return largest / smallest


def raise_singular_values(
    values: Tensor, energy: Tensor, *, iterations: int, pull: float, damping: float, kept_energy: float
) -> Tensor:
    """The singular values after `iterations` steps of the recursion above: float64 (R,), in the given order.

    values: float64 (R,), non-negative, any order; energy: float64 (R,), c_i of the same directions. In each step the
    largest values are kept, up to and with the first that brings their energy above the fraction `kept_energy`.
    """
    values = values.clone()
    for _ in range(iterations):
        descending, order = values.sort(descending=True, stable=True)
        held = descending.square().cumsum(dim=0)
        leading = int((held <= kept_energy * held[-1]).sum()) + 1
        free = order[leading:]
        pulled = (values[free] + 2 * pull * values.mean()) / (1 + 2 * pull + 2 * damping * energy[free])
        values[free] = torch.maximum(values[free], pulled)
    return values


def reduce_condition_number(
    weight: Tensor,
    error_moment: Tensor,
    *,
    iterations: int = 200,
    pull: float = 0.003,
    damping: float = 0.001,
    kept_energy: float = 0.8,
    skip_below: float = 100.0,
) -> ConditionedWeight:
    """Raise the small singular values of `weight`, most where the inputs' quantization error has little energy.

    weight: float32 (N, C), outputs by inputs; error_moment: (C, C), E^T E / tokens of the inputs' quantization error.
    iterations: K (the paper: 200 for 4 and 5 bits, 20 for 6); pull: lambda; damping: beta; kept_energy: fraction of
    the energy whose leading singular values are never touched. A weight whose condition number is below `skip_below`,
    and one whose decomposition does not converge, comes back untouched. `after` is measured on the returned weight.

    The decomposition is a singular value decomposition in float64, not an eigen-decomposition of a Gram matrix:
    the left vectors of vanishing singular values, which a Gram matrix does not give, are what gets raised.

    Raises ValueError for shapes that do not fit or values that are not finite.
    """
    if weight.dim() != 2 or error_moment.shape != (weight.shape[1], weight.shape[1]):
        raise ValueError(f"weight {tuple(weight.shape)} does not fit an error moment {tuple(error_moment.shape)}")
    if not (torch.isfinite(weight).all() and torch.isfinite(error_moment).all()):
        raise ValueError("weight and error moment must be finite")
    try:
        outputs_side, values, inputs_side = torch.linalg.svd(weight.double(), full_matrices=False)
    except torch.linalg.LinAlgError:
        return ConditionedWeight(weight, LARGEST_CONDITION, LARGEST_CONDITION, raised=0, skipped=True)
    before = condition_number(values)
    if before < skip_below:
        return ConditionedWeight(weight, before, before, raised=0, skipped=True)
    energy = ((inputs_side @ error_moment.double()) * inputs_side).sum(dim=1).clamp_min(0)
    changed = raise_singular_values(
        values, energy, iterations=iterations, pull=pull, damping=damping, kept_energy=kept_energy
    )
    # Only the difference is added, so that what is kept stays exact whatever the rounding of the decomposition.
    conditioned = (weight.double() + (outputs_side * (changed - values)) @ inputs_side).to(weight.dtype)
    after = condition_number(torch.linalg.svdvals(conditioned.double()))
    return ConditionedWeight(conditioned, before, after, raised=int((changed > values).sum()), skipped=False)

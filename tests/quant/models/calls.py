"""The calls of a forward pass, by name."""

import torch
from torch import Tensor

from quant.models.layer_call import Call, Result, Steps, run


def recorded(steps: Steps[Result]) -> tuple[Result, dict[str, Call]]:
    """The result of a float pass and its calls by name, in order; a name that comes twice fails."""
    calls: dict[str, Call] = {}

    def handler(call: Call) -> Tensor:
        assert call.name not in calls, f"{call.name} is yielded twice"
        calls[call.name] = call
        return call.compute()

    with torch.inference_mode():
        return run(steps, handler), calls

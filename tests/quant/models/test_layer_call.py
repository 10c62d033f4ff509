"""Each call against the plain torch operation it stands for."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from quant.models.layer_call import (
    ActivationCall,
    AddCall,
    AttentionCall,
    Call,
    DecomposedBias,
    DepthwiseCall,
    LayerCall,
    NormCall,
    StaticBias,
    Steps,
    patches,
    run,
    weight_matrix,
)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def operands(generator: torch.Generator, queries: int, keys: int) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v of two windows, three heads, eight channels."""
    q = torch.randn(2, 3, queries, 8, generator=generator)
    return q, torch.randn(2, 3, keys, 8, generator=generator), torch.randn(2, 3, keys, 8, generator=generator)


def test_attention_with_and_without_a_table_is_torchs(generator: torch.Generator) -> None:
    q, k, v = operands(generator, 5, 7)
    table = torch.randn(3, 5, 7, generator=generator)
    for bias, mask in ((None, None), (StaticBias(table), table)):
        result = AttentionCall("a", q, k, v, 8**-0.5, bias).compute()
        torch.testing.assert_close(result, functional.scaled_dot_product_attention(q, k, v, attn_mask=mask))


def test_decomposed_bias_is_the_formula_entry_by_entry(generator: torch.Generator) -> None:
    q, k, v = operands(generator, 6, 6)
    rel_h, rel_w = torch.randn(3, 8, generator=generator), torch.randn(5, 8, generator=generator)
    call = AttentionCall("a", q, k, v, 0.25, DecomposedBias(rel_h, rel_w, side_h=2, side_w=3))
    for head in range(3):
        logits = call.logits(head)
        for query in range(6):
            for key in range(6):
                one = q[:, head, query]
                row, column = rel_h[query // 3 - key // 3 + 1], rel_w[query % 3 - key % 3 + 2]
                expected = 0.25 * (one * k[:, head, key]).sum(-1) + one @ row + one @ column
                torch.testing.assert_close(logits[:, query, key], expected)


def test_norm_takes_any_module_with_a_gain_a_bias_and_an_epsilon(generator: torch.Generator) -> None:
    norm = nn.LayerNorm(6, eps=0.1)
    norm.weight.data.uniform_(generator=generator)
    x = torch.randn(2, 3, 6, generator=generator)
    torch.testing.assert_close(NormCall("n", norm, x).compute(), norm(x))


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_keeps_channels_last(stride: int, generator: torch.Generator) -> None:
    module = nn.Conv2d(4, 4, 3, stride, 1, groups=4)
    x = torch.randn(1, 5, 6, 4, generator=generator)
    result = DepthwiseCall("d", module, x).compute()
    torch.testing.assert_close(result, module(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


def test_patches_times_the_weight_matrix_is_the_strided_convolution(generator: torch.Generator) -> None:
    module = nn.Conv2d(3, 5, 4, stride=4)
    x = torch.randn(2, 8, 12, 3, generator=generator)
    result = LayerCall("p", module, patches(x, 4)).compute()
    assert weight_matrix(module).shape == (5, 48)
    torch.testing.assert_close(result, module(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


def test_a_handler_sees_every_call_in_order_and_its_answer_is_used() -> None:
    def network(x: Tensor) -> Steps[Tensor]:
        return (yield AddCall("add", x, (yield ActivationCall("act", x))))

    seen: list[str] = []

    def handler(call: Call) -> Tensor:
        seen.append(call.name)
        return call.compute() + 1

    x = torch.tensor([0.5, -0.75])
    torch.testing.assert_close(run(network(x)), x + functional.gelu(x))
    torch.testing.assert_close(run(network(x), handler), x + functional.gelu(x) + 2)
    assert seen == ["act", "add"]

"""The whole network with float weights against the published torch model: the numpy structure is the right one."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sim.golden import GoldenModel
from sim.golden.mask_decoder import attention
from sim.golden.prompt_encoder import encode_box, encode_grid
from sim.golden.tinyvit import window_attention

BOX = np.array([30.0, 40.5, 200.0, 180.0], np.float32)


def random(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_window_attention(float_model: GoldenModel, tiny_vit: Any) -> None:
    block = tiny_vit.layers[2].blocks[3]
    x = random(0, 64, 64, 160)
    padded = torch.nn.functional.pad(torch.from_numpy(x), (0, 0, 0, 6, 0, 6))
    windows = padded.reshape(5, 14, 5, 14, 160).transpose(1, 2).reshape(25, 196, 160)
    joined = block.attn(windows).reshape(5, 5, 14, 14, 160).transpose(1, 2).reshape(70, 70, 160)
    name = "image_encoder.layers.2.blocks.3.attn"
    result = window_attention(name, x, 5, 14, float_model.parameters)
    np.testing.assert_allclose(result, joined[:64, :64].numpy(), rtol=1e-4, atol=2e-5)


def test_image_encoder(float_model: GoldenModel, tiny_vit: Any) -> None:
    pixels = np.zeros((1, 3, 256, 256), np.float32)
    pixels[:, :, :200] = np.random.default_rng(1).random((1, 3, 200, 256), np.float32)
    expected = tiny_vit(torch.from_numpy(pixels)).numpy()
    embedding = float_model.encode_image(pixels)
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(embedding, expected, atol=1e-5)
    assert np.abs(expected).max() > 0.5


def test_box_tokens_and_positions(float_model: GoldenModel, sam: Any) -> None:
    tokens, dense = sam.prompt_encoder(None, torch.from_numpy(BOX)[None], None)
    np.testing.assert_allclose(encode_box(BOX, 256, float_model.parameters), tokens[0].numpy(), atol=2e-5)
    position = sam.prompt_encoder.get_dense_pe()[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(encode_grid((64, 64), float_model.parameters), position, atol=2e-5)
    assert dense.shape == (1, 256, 64, 64)


def test_decoder_attention(float_model: GoldenModel, sam: Any) -> None:
    q, k, v = random(0, 7, 256), random(1, 50, 256), random(2, 50, 256)
    module = sam.mask_decoder.transformer.layers[1].cross_attn_token_to_image
    expected = module(*(torch.from_numpy(x)[None] for x in (q, k, v)))[0].numpy()
    name = "mask_decoder.transformer.layers.1.cross_attn_token_to_image"
    result = attention(name, q, k, v, heads=8, parameters=float_model.parameters)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_mask_and_predicted_iou(float_model: GoldenModel, sam: Any) -> None:
    embedding = random(0, 1, 256, 64, 64)
    tokens, dense = sam.prompt_encoder(None, torch.from_numpy(BOX)[None], None)
    position = sam.prompt_encoder.get_dense_pe()
    masks, iou = sam.mask_decoder(torch.from_numpy(embedding), position, tokens, dense, multimask_output=False)
    logits, predicted_iou = float_model.decode(embedding, BOX)
    assert logits.shape == (256, 256) and logits.dtype == np.float32
    np.testing.assert_allclose(logits, masks[0, 0].numpy(), atol=1e-4 * float(masks.abs().max()))
    assert abs(predicted_iou - float(iou[0, 0])) < 1e-4

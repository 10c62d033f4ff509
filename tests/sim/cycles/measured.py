"""Cycles of the simulated hardware, layer by layer, on the invented encoders of tests.sim.compiler.networks
at preset tiny. Written by `python -m tests.sim.cycles.measure`."""

from typing import Final

TOY_TINY_VIT: Final = {
    "image_encoder.patch_embed.seq.2.c": 19778,
    "image_encoder.layers.0.blocks.0.act3": 46275,
    "image_encoder.layers.0.downsample.conv3.c": 159033,
    "image_encoder.layers.1.blocks.0.attn.qkv": 71625,
    "image_encoder.layers.1.blocks.0.attn.attend": 65444,
    "image_encoder.layers.1.blocks.0.attn.proj": 56112,
    "image_encoder.layers.1.blocks.0.attn.add": 6958,
    "image_encoder.layers.1.blocks.0.local_conv.c": 5154,
    "image_encoder.layers.1.blocks.0.mlp.add": 68025,
    "image_encoder.layers.1.downsample.conv3.c": 68460,
    "image_encoder.layers.2.blocks.0.attn.qkv": 16098,
    "image_encoder.layers.2.blocks.0.attn.attend": 16732,
    "image_encoder.layers.2.blocks.0.attn.proj": 18590,
    "image_encoder.layers.2.blocks.0.attn.add": 1774,
    "image_encoder.layers.2.blocks.0.local_conv.c": 1671,
    "image_encoder.layers.2.blocks.0.mlp.add": 20682,
    "image_encoder.neck.1": 5025,
    "image_encoder.neck.3": 9596,
}

TOY_SAM_VIT: Final = {
    "image_encoder.patch_embed.proj": 80174,
    "image_encoder.pos_embed": 1246,
    "image_encoder.blocks.0.norm1": 1387,
    "image_encoder.blocks.0.attn.qkv": 14398,
    "image_encoder.blocks.0.attn.attend": 20950,
    "image_encoder.blocks.0.attn.proj": 15509,
    "image_encoder.blocks.0.attn.add": 1246,
    "image_encoder.blocks.0.mlp.add": 21540,
    "image_encoder.blocks.1.norm1": 1387,
    "image_encoder.blocks.1.attn.qkv": 12486,
    "image_encoder.blocks.1.attn.attend": 14468,
    "image_encoder.blocks.1.attn.proj": 15247,
    "image_encoder.blocks.1.attn.add": 1246,
    "image_encoder.blocks.1.mlp.add": 21166,
    "image_encoder.neck.1": 4254,
    "image_encoder.neck.3": 7228,
}

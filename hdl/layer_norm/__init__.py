"""LayerNorm over streams of 16-bit tokens: exact sums, one reciprocal root per token, an affine per channel."""

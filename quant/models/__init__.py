"""Float models that can be quantized."""

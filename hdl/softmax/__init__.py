"""Log-domain softmax: rows of logits in, codes of probabilities out, several keys per cycle."""

"""Attention on one array: q.k, softmax, P.v, with the buffers that turn tiles into rows and rows into tiles."""

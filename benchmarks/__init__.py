"""Measurements that take more than a few minutes, each a command: `python -m benchmarks.NAME --help`."""

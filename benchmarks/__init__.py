"""Speed and memory, compared with peers in the same run: ``python -m benchmarks [NAME[.PART] ...]``."""

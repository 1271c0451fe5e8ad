"""This project beside its peers, in one command: `python -m benchmarks`."""

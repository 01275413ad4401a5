"""Tools for developers: made checkpoints, benchmarks and parity runs. Run them from the repository's root."""

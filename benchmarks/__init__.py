"""Benchmarks of flambe_save beside its peers: `python -m benchmarks`, or `make bench`; README.md explains them."""

__all__: list[str] = []

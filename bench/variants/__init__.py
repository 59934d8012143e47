"""Variants that the benchmarks compare."""

"""Benchmarks: each script prints a table and writes a record as JSON."""

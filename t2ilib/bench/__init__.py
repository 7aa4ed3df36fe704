"""Benchmarks: each hot loop beside the public implementation it replaces, written to `reports/benchmarks/`."""

"""Benchmarks: each hot loop beside what it replaces, in one run, written to `reports/benchmarks/<name>.csv`."""

from .measure import COLUMNS, Row, measure, write_rows
from .registry import BENCHMARKS, run_benchmark

__all__ = ["BENCHMARKS", "COLUMNS", "Row", "measure", "run_benchmark", "write_rows"]

"""Benchmarks: each hot loop beside what it replaces, in one run, written to `reports/benchmarks/<name>.csv`."""

from .measure import COLUMNS, Clock, Contest, Row, measure, row, seconds, wait, write_rows
from .registry import BENCHMARKS, run_benchmark

__all__ = ["BENCHMARKS", "COLUMNS", "Clock", "Contest", "Row", "measure", "row", "run_benchmark", "seconds", "wait",
           "write_rows"]

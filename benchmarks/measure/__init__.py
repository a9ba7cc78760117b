"""Timing, operation counts, data sets and command line of the benchmarks."""

"""The programs that benchmarks compare with."""

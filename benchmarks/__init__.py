"""Benchmarks of training and data loading, each relative to a rival measured in the same run."""

"""Benchmarks of training and data loading, each relative to a rival measured in the same run."""

import sys

from shards.common.interrupt import end_quietly_on_interrupt

if sys.argv[0] == "-m":  # until `python -m benchmarks.NAME` has imported this package
    end_quietly_on_interrupt()

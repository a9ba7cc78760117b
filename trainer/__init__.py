"""Training a DCGAN on streamed shards, and what comes after: samples, scores, export."""

import sys

from shards.common.interrupt import end_quietly_on_interrupt

if sys.argv[0] == "-m":  # until `python -m trainer.NAME` has imported this package
    end_quietly_on_interrupt()

"""Images in WebDataset tars, streamed in an order that is a pure function of (seed, position)."""

import sys

from shards.common.command import end_quietly_on_interrupt

if sys.argv[0] == "-m":  # until `python -m shards` has imported this package
    end_quietly_on_interrupt()

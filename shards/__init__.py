"""Images in WebDataset tars, streamed in an order that is a pure function of (seed, position)."""

import sys

from shards.common.interrupt import end_quietly_on_interrupt

# Until `python -m shards` has imported this package, or `python trainer/run.py` its modules.
if sys.argv[0] == "-m" or sys.argv[0].endswith("trainer/run.py"):
    end_quietly_on_interrupt()

"""One program per question, each a ratio to a rival in the same run."""

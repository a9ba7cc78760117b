"""Commands on existing shards: index the tars of other tools, verify, info."""

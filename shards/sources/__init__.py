"""Where raw images come from: one module per kind, all of them a :class:`shards.sources.item.Source`."""

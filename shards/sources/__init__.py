"""Sources of raw images: one module per kind, each with a :class:`shards.sources.source.Source`."""

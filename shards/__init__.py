"""Images in WebDataset tars, streamed in an order that is a pure function of (seed, position)."""

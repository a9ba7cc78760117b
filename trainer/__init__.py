"""Training a DCGAN on streamed shards, and what comes after: samples, scores, export."""

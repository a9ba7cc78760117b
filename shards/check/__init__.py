"""Shards that exist: info, verify, and the index of tars from other tools."""

"""Builds shards from raw images."""

"""Reads, decodes and batches samples, in this process or in workers."""

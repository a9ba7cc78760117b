"""Faster implementations of operations that PyTorch also has."""

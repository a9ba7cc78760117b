"""Processes that train together: what launched them, their devices, and how they agree and stop."""

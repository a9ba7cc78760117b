"""Distributed training: how the process was launched, its device, and how ranks agree, stop and fail together."""

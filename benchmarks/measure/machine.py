"""What a figure was seen on, for tables and JSON."""

from __future__ import annotations

import datetime
import platform
from pathlib import Path

from shards.common.processes import available_cores


def describe() -> str:
    """Processor, cores, system, Python and date in a line."""
    today = datetime.datetime.now(tz=datetime.UTC).date()
    where = f"{available_cores()} cores of {_processor()}, {platform.system()}"
    return f"{where}, Python {platform.python_version()}, {today}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

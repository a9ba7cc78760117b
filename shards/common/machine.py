"""What the machine is."""

from __future__ import annotations

import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
NUMBERS = {"cpu family": "family", "model": "model", "CPU implementer": "implementer", "CPU part": "part"}


def processor_name() -> str:
    """The name of the processor. In a virtual machine, many generations may have one name, such as "AMD EPYC"."""
    return _fields().get("model name") or platform.processor() or platform.machine()


def describe_processor() -> str:
    """The name of the processor and the numbers of its generation, as far as the system tells them."""
    fields = _fields()
    numbers = [f"{title} {fields[name]}" for name, title in NUMBERS.items() if name in fields]
    return f"{processor_name()} ({', '.join(numbers)})" if numbers else processor_name()


def _fields() -> dict[str, str]:
    """What Linux says of the first core."""
    lines = CPUINFO.read_text().partition("\n\n")[0].splitlines() if CPUINFO.exists() else []
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

"""The processor, as systems describe it."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from shards.common import machine

X86 = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: {family}
model\t\t: 17
model name\t: AMD EPYC

processor\t: 1
cpu family\t: 99
"""
ARM = """processor\t: 0
BogoMIPS\t: 2100.00
CPU implementer\t: 0x41
CPU part\t: 0xd40
"""


@pytest.mark.parametrize(
    ("text", "name", "numbers"),
    [
        (X86.format(family=25), "AMD EPYC", " (family 25, model 17)"),
        (X86.format(family=26), "AMD EPYC", " (family 26, model 17)"),
        (ARM, "aarch64", " (implementer 0x41, part 0xd40)"),
        ("", "aarch64", ""),
        (None, "aarch64", ""),
    ],
)
def test_the_processor_of_each_system(
    text: str | None, name: str, numbers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Generations of one name differ in their numbers."""
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert (machine.processor_name(), machine.describe_processor()) == (name, name + numbers)

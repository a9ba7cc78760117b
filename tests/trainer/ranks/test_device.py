from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from shards.common.errors import InputError
from trainer.ranks import device
from trainer.ranks.device import check_device, has_bf16, resolve_precision, set_kernels, set_threads
from trainer.ranks.launch import Launch


def launch(*, cpu: bool = True, precision: str = "no", local_ranks: int = 1) -> Launch:
    return Launch(0, local_ranks, local_ranks, cpu, precision)


@pytest.mark.parametrize(
    ("asked", "cpu", "able", "dtype", "precision", "note"),
    [
        ("no", True, False, "float32", "no", None),
        ("no", True, True, "float32", "no", "--mixed_precision bf16"),
        ("no", False, True, "float32", "no", "--mixed_precision bf16"),
        ("bf16", True, True, "float32", "bf16", None),
        ("bf16", True, False, "float32", "no", "no bf16"),
        ("fp16", False, True, "float32", "fp16", None),
        ("no", True, True, "float64", "no", None),
        ("bf16", True, True, "float64", "no", "float64 leaves mixed precision (bf16) off"),
        ("fp16", False, True, "float64", "no", "float64 leaves mixed precision (fp16) off"),
    ],
)
def test_precision_is_what_was_asked_for_or_there_is_a_reason(
    monkeypatch: pytest.MonkeyPatch, asked: str, cpu: bool, able: bool, dtype: str, precision: str, note: str | None
) -> None:
    monkeypatch.setattr(device, "has_bf16", lambda _: able)
    resolved, reason = resolve_precision(launch(cpu=cpu, precision=asked), dtype)
    assert resolved == precision
    if note is None:
        assert reason is None
    else:
        assert reason is not None
        assert note in reason
        assert "\n" not in reason


@pytest.mark.parametrize(
    ("name", "cpu", "fits"),
    [("cpu", True, True), ("cpu", False, False), ("cuda", False, True), ("cuda:1", False, True),
     ("cuda:2", False, False), ("cuda:7", True, False), ("mps", True, False), ("gpu", True, False), ("0", True, False)],
)  # fmt: skip
def test_a_device_of_accelerates_variable_exists(
    monkeypatch: pytest.MonkeyPatch, name: str, cpu: bool, fits: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", name)
    if fits:
        check_device(launch(cpu=cpu))
    else:
        with pytest.raises(InputError, match=f"^ACCELERATE_TORCH_DEVICE is '{name}', but this process has"):
            check_device(launch(cpu=cpu))
    monkeypatch.delenv("ACCELERATE_TORCH_DEVICE")
    check_device(launch(cpu=cpu))


def test_half_precision_needs_a_gpu() -> None:
    with pytest.raises(InputError, match=r"fp16 needs a GPU.*bf16 or no"):
        resolve_precision(launch(precision="fp16"), "float32")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_other_precisions_are_refused(dtype: str) -> None:
    with pytest.raises(InputError, match="'fp8' is not supported"):
        resolve_precision(launch(cpu=False, precision="fp8"), dtype)


def test_bf16_is_what_the_device_has(monkeypatch: pytest.MonkeyPatch) -> None:
    capabilities: dict[str, bool] = {}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    for name, expected in (("avx2", False), ("avx512_bf16", True)):
        capabilities[name] = True
        assert has_bf16(cpu=True) is expected
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation: including_emulation)
    assert has_bf16(cpu=False) is False


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What ``set_threads`` changes in this process is put back."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)
    torch.set_flush_denormal(False)


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(
    ("asked", "local_ranks", "cpu", "threads"),
    [(0, 1, True, 4), (0, 2, True, 2), (0, 3, True, 1), (0, 9, True, 1), (2, 1, True, 2), (0, 1, False, 3),
     (2, 1, False, 2)],
)  # fmt: skip
def test_ranks_share_the_cores(asked: int, local_ranks: int, cpu: bool, threads: int) -> None:
    set_threads(launch(cpu=cpu, local_ranks=local_ranks), asked)
    assert torch.get_num_threads() == threads


@pytest.mark.usefixtures("four_cores")
def test_denormals_are_flushed_on_the_cpu_only() -> None:
    tiny = torch.tensor(1e-39)
    set_threads(launch(cpu=False), 0)
    assert tiny * 0.5 > 0
    set_threads(launch(cpu=True), 0)
    assert tiny * 0.5 == 0


@pytest.mark.parametrize(("tf32", "precision"), [(True, "tf32"), (False, "ieee")])
def test_tf32_is_asked_for_or_forbidden_everywhere_and_kernels_are_tried(tf32: bool, precision: str) -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.benchmark  # type: ignore[attr-defined]
    try:
        set_kernels(tf32=tf32)
        found = matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.benchmark  # type: ignore[attr-defined]
        assert found == (precision, precision, True)
    finally:
        matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.benchmark = before  # type: ignore[attr-defined]

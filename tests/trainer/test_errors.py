"""A lack of memory is told from other errors."""

from __future__ import annotations

import re

import pytest
import torch

from shards.common.errors import InputError
from trainer.errors import explain_allocation


def test_only_an_allocation_that_failed_is_explained() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    cuda = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
    dnn = RuntimeError("could not create a memory object")
    blas = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    whys = (f"{4 * 2**50} bytes more were needed", "2.00 GiB more were needed", "in Python", str(dnn), str(blas))
    for error, why in zip((caught.value, cuda, MemoryError(), dnn, blas), whys, strict=True):
        explained = explain_allocation(error, "Buy some.")
        assert isinstance(explained, InputError)
        assert re.fullmatch(r"There is not enough memory \((.+)\)\. Buy some\.", str(explained))
        assert f"({why})" in str(explained)
    for other in (RuntimeError("shapes differ"), InputError("killed: out of memory? Fewer workers"), ValueError()):
        assert explain_allocation(other, "") is other

"""The errors that all ranks raise together, and those that say that there is not enough memory."""

from __future__ import annotations

import re

from shards.common.errors import InputError

ALLOCATIONS = ("out of memory", "DefaultCPUAllocator: ", "failed to allocate memory",
               "could not create a memory object", "_STATUS_ALLOC_FAILED")  # fmt: skip
"""Of the errors in which PyTorch, oneDNN or a library of CUDA say that an allocation failed."""


class SharedInputError(InputError):
    """An :class:`InputError` that every rank raises with the same message, so that only rank 0 prints it."""


class WentWrong(SharedInputError):
    """The training diverged or collapsed, which ``problem`` says; ``advice`` is for a run that ends because of it.

    It was well before the step ``since``.
    """

    def __init__(self, problem: str, advice: str, since: int) -> None:
        super().__init__(f"{problem} {advice}")
        self.problem, self.advice, self.since = problem, advice, since


def explain_allocation(error: Exception, advice: str) -> Exception:
    """An ``InputError`` with ``advice`` if ``error`` says that the device or the host lacks memory, else ``error``."""
    if isinstance(error, InputError):  # has its own advice, such as a killed loader's
        return error
    text = str(error).partition("\n")[0]
    if isinstance(error, MemoryError) or any(words in text for words in ALLOCATIONS):
        size = re.search(r"tried to allocate ([0-9.]+ \w+)", text, re.IGNORECASE)
        why = f"{size[1]} more were needed" if size else text[:200] or "in Python"
        return InputError(f"There is not enough memory ({why}). {advice}")
    return error

"""Which errors say that memory is used up. Standard library only: stages explain errors with it."""

from __future__ import annotations

import re

#: What torch, CUDA's libraries and GDAL say where they raise no class of their own for it. oneDNN
#: and cuDNN have no word for it either: they cannot create what they compute with.
_TEXT = re.compile(
    r"CUDA (error: )?out of memory|Cuda failure .*out of memory|CU\w+_STATUS_\w*ALLOC\w*_FAILED"
    r"|DefaultCPUAllocator|not enough memory|can't allocate memory|std::bad_alloc"
    r"|could not create a (primitive|memory)|unable to find an engine to execute",
)
_GPU = re.compile(r"CUDA|Cuda|CU\w+_STATUS|find an engine")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that host or device memory is used up."""
    # By name: torch.OutOfMemoryError without torch.
    named = any(cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__)
    return isinstance(error, MemoryError) or named or bool(_TEXT.search(str(error)))


def of_gpu(error: BaseException) -> bool:
    """Whether it is a GPU's memory, of an error that is_out_of_memory."""
    return bool(_GPU.search(str(error)))

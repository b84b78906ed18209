"""What stands behind an exit code: exceptions of libraries as errors of ours."""

from __future__ import annotations

import errno

import pytest
from rastervision.kubernetes.failures import explain

from rvk8s.contract import ExitCode
from rvk8s.errors import InputError


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


def _from(cause: BaseException) -> Exception:
    try:
        raise ValueError("outer") from cause
    except ValueError as error:
        return error


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (MemoryError(), 12, "out of memory with solver.batch_sz 8; 4 should fit"),
        (OutOfMemoryError("CUDA out of memory. Tried"), 12, "out of GPU memory with solver"),
        (RuntimeError("CUDA error: out of memory"), 12, "out of GPU memory with solver"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), 12, "of GPU memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), 12, "of GPU memory"),
        (
            RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
            12,
            "of GPU memory",
        ),
        (
            RuntimeError(
                "CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might"
            ),
            138,
            "the GPU has failed (uncorrectable ECC error encountered); if",
        ),
        (RuntimeError("CUDA error: unspecified launch failure"), 138, "the GPU has failed"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), 12, "4 should fit"),
        (RuntimeError("could not create a primitive"), 12, "out of memory with solver"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 28, "no space left on the disk"),
        (RuntimeError("TIFFAppendToStrip: No space left on device"), 28, "no space left"),
        (_from(OSError(errno.EDQUOT, "quota")), 28, "no space left"),
        (_from(InputError("it is wrong", fix="mend it")), 2, "it is wrong; mend it"),
    ],
)
def test_known(error: BaseException, code: int, text: str) -> None:
    found = explain(error, ("solver.batch_sz", 8))
    assert found
    assert found.exit_code == code
    assert text in str(found)


def test_out_of_memory_with_the_smallest_batch() -> None:
    found = explain(MemoryError(), ("solver.batch_sz", 1))
    assert found
    assert "smaller chips or a smaller backbone" in str(found)


def test_unknown_errors_stay_unknown() -> None:
    assert explain(ValueError("x")) is None
    assert explain(RuntimeError("CUDA error: device-side assert triggered")) is None
    assert explain(RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")) is None
    assert explain(KeyError("x"), ("solver.batch_sz", 8)) is None


def test_exit_codes_that_may_be_tried_again() -> None:
    """The training operator draws the line at 128 too."""
    again = {code for code in ExitCode if code >= 128}
    assert again == {
        ExitCode.INTERRUPTED,
        ExitCode.KILLED,
        ExitCode.RETRYABLE,
        ExitCode.PREEMPTED,
    }

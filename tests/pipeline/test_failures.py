"""What stands behind an exit code: exceptions of libraries as errors of ours."""

from __future__ import annotations

import errno

import pytest
from rastervision.kubernetes.failures import explain
from said import says

from rvk8s.contract import ExitCode, is_retryable
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
        (MemoryError(), 12, "out of memory…solver.batch_sz 8; 4"),
        (OutOfMemoryError("CUDA out of memory. Tried"), 12, "out of GPU memory…solver"),
        (RuntimeError("CUDA error: out of memory"), 12, "out of GPU memory…solver"),
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
            "GPU…failed (uncorrectable ECC error encountered); ",
        ),
        (RuntimeError("CUDA error: unspecified launch failure"), 138, "GPU…failed"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), 12, "batch_sz 8; 4"),
        (RuntimeError("could not create a primitive"), 12, "out of memory…solver"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 28, "no space left…disk"),
        (RuntimeError("TIFFAppendToStrip: No space left on device"), 28, "no space left"),
        (_from(OSError(errno.EDQUOT, "quota")), 28, "no space left"),
        (_from(InputError("it is wrong", fix="mend it")), 2, "it is wrong; mend it"),
    ],
)
def test_known(error: BaseException, code: int, text: str) -> None:
    found = explain(error, ("solver.batch_sz", 8))
    assert found
    assert found.exit_code == code
    assert says(str(found), f"…{text}…")


_GONE = "DataLoader worker (pid(s) 7) exited unexpectedly"
_SHM_FULL = "It is possible that dataloader's workers are out of shared memory. Please try"


def _gone(cause: BaseException) -> Exception:
    try:
        raise RuntimeError(_GONE) from cause
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (
            _gone(
                RuntimeError(
                    f"DataLoader worker (pid 7) is killed by signal: Bus error. {_SHM_FULL}"
                )
            ),
            12,
            "/dev/shm…shmPerGpu…data.num_workers",
        ),
        (
            RuntimeError("unable to write to file </torch_7_1_0>: No space left on device (28)"),
            12,
            "/dev/shm",
        ),
        (RuntimeError("unable to allocate shared memory(shm) for file"), 12, "/dev/shm"),
        (OSError(errno.ENOSPC, "No space left on device", "/dev/shm/x"), 12, "/dev/shm"),
        (
            RuntimeError("NCCL error: Error while creating shared memory segment /dev/shm/nccl-x"),
            12,
            "/dev/shm",
        ),
        (
            _gone(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")),
            12,
            "killed…more memory…data.num_workers",
        ),
        (
            _gone(
                RuntimeError("DataLoader worker (pid 7) is killed by signal: Segmentation fault. ")
            ),
            1,
            "(Segmentation fault)…log",
        ),
        (_gone(TimeoutError()), 1, "has ended…log…data.num_workers 0"),
        (RuntimeError("received 0 items of ancdata"), 1, "too many open files…ulimit"),
    ],
)
def test_why_a_worker_of_the_loader_has_ended(error: BaseException, code: int, text: str) -> None:
    found = explain(error, ("solver.batch_sz", 8))
    assert found
    assert found.exit_code == code
    assert says(str(found), f"…{text}…")


def test_out_of_memory_with_the_smallest_batch() -> None:
    found = explain(MemoryError(), ("solver.batch_sz", 1))
    assert found
    assert says(str(found), "…smaller…backbone…")


def test_unknown_errors_stay_unknown() -> None:
    assert explain(ValueError("x")) is None
    assert explain(RuntimeError("CUDA error: device-side assert triggered")) is None
    assert explain(RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")) is None
    assert explain(KeyError("x"), ("solver.batch_sz", 8)) is None
    assert explain(PermissionError(errno.EACCES, "Permission denied", "/dev/shm/x")) is None


def _while_handling(first: BaseException, hidden: bool = False) -> Exception:
    try:
        try:
            raise first
        except (OSError, MemoryError):
            if hidden:
                raise ValueError("later") from None
            raise ValueError("later")  # noqa: B904
    except ValueError as error:
        return error


def test_a_file_that_was_looked_for_in_vain_explains_no_later_error() -> None:
    """Of a user who catches its absence, and then fails at something else."""
    missing = FileNotFoundError(errno.ENOENT, "No such file", "/cache.json")
    assert says(str(explain(_from(missing))), "…/cache.json…not exist…")
    assert explain(_while_handling(missing)) is None


@pytest.mark.parametrize(
    ("error", "code"), [(OSError(errno.ENOSPC, "full", "/x"), 28), (MemoryError(), 12)]
)
def test_what_hinders_all_explains_later_errors_unless_it_is_hidden(
    error: BaseException, code: int
) -> None:
    found = explain(_while_handling(error))
    assert found
    assert found.exit_code == code
    assert explain(_while_handling(error, hidden=True)) is None


def test_exit_codes_that_may_be_tried_again() -> None:
    """The training operator draws the line at 128 too."""
    again = {code for code in ExitCode if is_retryable(code)}
    assert again == {
        ExitCode.INTERRUPTED,
        ExitCode.KILLED,
        ExitCode.RETRYABLE,
        ExitCode.PREEMPTED,
    }


@pytest.mark.parametrize(("code", "nearest"), [(0, 0), (2, 2), (3, 1), (139, 138), (143, 143)])
def test_the_nearest_exit_code(code: int, nearest: int) -> None:
    assert ExitCode.nearest(code) is ExitCode(nearest)

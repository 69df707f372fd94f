# SPDX-License-Identifier: GPL-2.0-only
"""The six calls of libcuda.so.1 with which a driver of 570 or later checkpoints a process (cuda.h of CUDA 12.8 and 13).

Nothing of CUDA is initialised here: the calls are about other processes. Each may wait for that process.
"""

from __future__ import annotations

import ctypes

from pycriu.errors import UserError

LIBRARY = "libcuda.so.1"

# CUprocessState
RUNNING, LOCKED, CHECKPOINTED, FAILED = range(4)
STATES = ("running", "locked", "checkpointed", "failed")

# CUresult, as far as anything can be said about it
SUCCESS, INVALID_VALUE, OUT_OF_MEMORY, NOT_INITIALIZED, NO_DEVICE, ILLEGAL_STATE, NOT_READY, NOT_SUPPORTED = (
    0, 1, 2, 3, 100, 401, 600, 801,
)  # fmt: skip

# What is asked of the driver.
STATE, THREAD, LOCK, CHECKPOINT, RESTORE, UNLOCK = "state", "thread", "lock", "checkpoint", "restore", "unlock"

ARGUMENTS_SIZE = 64  # bytes of each structure of arguments


class LockArgs(ctypes.Structure):
    """CUcheckpointLockArgs."""

    _fields_ = (("timeoutMs", ctypes.c_uint32), ("reserved0", ctypes.c_uint32), ("reserved1", ctypes.c_uint64 * 7))


class CheckpointArgs(ctypes.Structure):
    """CUcheckpointCheckpointArgs."""

    _fields_ = (("reserved", ctypes.c_uint64 * 8),)


class GpuPair(ctypes.Structure):
    """CUcheckpointGpuPair: two UUIDs."""

    _fields_ = (("oldUuid", ctypes.c_char * 16), ("newUuid", ctypes.c_char * 16))


class RestoreArgs(ctypes.Structure):
    """CUcheckpointRestoreArgs of CUDA 13; all of it is reserved, and zero, in 12.8."""

    _fields_ = (
        ("gpuPairs", ctypes.POINTER(GpuPair)),
        ("gpuPairsCount", ctypes.c_uint32),
        ("reserved", ctypes.c_char * (ARGUMENTS_SIZE - 12)),
    )


class UnlockArgs(ctypes.Structure):
    """CUcheckpointUnlockArgs."""

    _fields_ = (("reserved", ctypes.c_uint64 * 8),)


# What is asked → the symbol, and what its second argument points to.
CALLS = {
    STATE: ("cuCheckpointProcessGetState", ctypes.c_int),
    THREAD: ("cuCheckpointProcessGetRestoreThreadId", ctypes.c_int),
    LOCK: ("cuCheckpointProcessLock", LockArgs),
    CHECKPOINT: ("cuCheckpointProcessCheckpoint", CheckpointArgs),
    RESTORE: ("cuCheckpointProcessRestore", RestoreArgs),
    UNLOCK: ("cuCheckpointProcessUnlock", UnlockArgs),
}

_SENTENCES = {
    INVALID_VALUE: ("the driver does not accept the request", "is it of another user, or in another PID namespace?"),
    OUT_OF_MEMORY: ("there is not enough memory", "main memory must have room for all that is on the GPU"),
    NOT_INITIALIZED: ("the process does not use CUDA any more", None),
    NO_DEVICE: ("there is no GPU", "nvidia-smi shows those that the driver sees"),
    ILLEGAL_STATE: ("the process is in a state in which that cannot be done", "cuda-checkpoint --get-state tells it"),
    NOT_READY: ("its work on the GPU has not ended in time", "give it more with --timeout"),
    NOT_SUPPORTED: (
        "the driver does not support that for this process",
        "it needs a driver of 570 or later, and no managed memory, memory of other processes (IPC), MPS or MIG",
    ),
}


def sentence(code: int) -> tuple[str, str | None]:
    """What an error code means, and what can be done."""
    return _SENTENCES.get(code, (f"CUDA error {code}", "the kernel log (dmesg) may have more from the driver"))


class Driver:
    """The library; UserError where it cannot be loaded, or is too old."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise UserError(
                f"the CUDA driver cannot be loaded: {error}", "install NVIDIA's driver, 570 or later"
            ) from None
        try:
            self._calls = {what: getattr(self._library, name) for what, (name, _) in CALLS.items()}
        except AttributeError:
            raise UserError(
                f"{LIBRARY} has no cuCheckpointProcess… calls", "NVIDIA's driver must be 570 or later"
            ) from None
        for what, call in self._calls.items():
            call.argtypes = (ctypes.c_int, ctypes.POINTER(CALLS[what][1]))
            call.restype = ctypes.c_int

    def call(self, what: str, pid: int, milliseconds: int = 0) -> tuple[int, int]:
        """One call about process `pid`: CUresult, and the state or thread id where that was asked for.

        A lock that does not come about within `milliseconds` gives NOT_READY; 0: it may take any time.
        """
        argument = CALLS[what][1]()
        if isinstance(argument, LockArgs):
            argument.timeoutMs = milliseconds
        code = int(self._calls[what](pid, ctypes.byref(argument)))
        return code, int(argument.value) if isinstance(argument, ctypes.c_int) else 0

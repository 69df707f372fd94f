# SPDX-License-Identifier: GPL-2.0-only
"""The structures and words of the CUDA driver's checkpoint calls, as cuda.h has them."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from pycriu.errors import ImageError, Unsupported, UserError
from pycriu.fds.openfile import OpenFile
from pycriu.log import Log
from pycriu.plugins import Plugins, cuda
from pycriu.plugins.cuda import Cuda, driver


@pytest.mark.parametrize("struct", [driver.LockArgs, driver.CheckpointArgs, driver.RestoreArgs, driver.UnlockArgs])
def test_structures_of_arguments_have_64_bytes(struct: type[ctypes.Structure]) -> None:
    assert ctypes.sizeof(struct) == driver.ARGUMENTS_SIZE == 64


def test_the_time_limit_of_a_lock_comes_first() -> None:
    """Where the online manual lists it after the reserved members."""
    assert bytes(driver.LockArgs(timeoutMs=0x01020304)) == bytes((4, 3, 2, 1)) + bytes(60)


def test_gpu_pairs() -> None:
    assert ctypes.sizeof(driver.GpuPair) == 32
    places = [getattr(driver.RestoreArgs, name).offset for name in ("gpuPairs", "gpuPairsCount", "reserved")]
    assert places == [0, ctypes.sizeof(ctypes.c_void_p), ctypes.sizeof(ctypes.c_void_p) + 4]


def test_six_calls_of_one_prefix() -> None:
    names = {name.removeprefix("cuCheckpointProcess") for name, _ in driver.CALLS.values()}
    assert names == {"GetState", "GetRestoreThreadId", "Lock", "Checkpoint", "Restore", "Unlock"}


def test_every_error_has_a_sentence_of_its_own() -> None:
    codes = (1, 2, 3, 100, 401, 600, 801)
    said = [driver.sentence(code)[0] for code in codes]
    assert len(set(said)) == len(codes)
    assert not any("CUDA error" in one for one in said)
    assert driver.sentence(999)[0] == "CUDA error 999"


@pytest.mark.parametrize("note", [b"\1", bytes(6), b"\1\0\0\0\3", b"\1\0\0\0\377"])
def test_what_images_say_of_cuda_is_not_trusted(note: bytes) -> None:
    with pytest.raises(ImageError):
        Cuda(Log(2, 2, 0.0)).check(note)


def test_a_driver_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "LIBRARY", "libc.so.6")
    with pytest.raises(UserError, match="has no cuCheckpointProcess") as caught:
        driver.Driver()
    assert "570" in str(caught.value.hint)


@pytest.mark.parametrize("library", ["libc.so.6", "libno-such-driver.so"])
def test_a_device_whose_driver_cannot_do_it(library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused, with the driver's part in it."""
    monkeypatch.setattr(driver, "LIBRARY", library)
    monkeypatch.setattr(cuda, "DEVICES", str(tmp_path))
    with open(tmp_path / "device", "w") as file:
        found = OpenFile(os.getpid(), file.fileno())
        with pytest.raises(Unsupported, match="is a device of NVIDIA's, and") as caught:
            Cuda(Log(2, 2, 0.0)).handle_fd(found)
    assert "570 or later" in str(caught.value.hint)


def test_cuda_comes_once() -> None:
    known = Plugins([], Log(2, 2, 0.0))
    known.add_cuda()
    known.add_cuda()
    assert [type(one) for one in known.known] == [Cuda]

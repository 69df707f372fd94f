# SPDX-License-Identifier: GPL-2.0-only
"""What a CPU of aarch64 offers, by the auxiliary vectors in images, and what is said of one that lacks something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pycriu.arch import cpuinfo, hwcaps
from pycriu.errors import ImageError
from pycriu.images import messages as m
from pycriu.images import store

HWCAP, HWCAP2 = 16, 26
FP, EVTSTRM, AES, SVE = 1 << 0, 1 << 2, 1 << 3, 1 << 22
MOPS, POE = 1 << 43, 1 << 63


def made(*words: int) -> Any:
    return m.pycriu_cpu_entry(mtype=3, capabilities=words)


def checkpoint(path: Path, *auxiliary: list[int], mtype: int = 3) -> store.ImagesDir:
    """Images of tasks with these auxiliary vectors, as far as they tell of the CPU."""
    with store.NewCheckpoint(str(path)) as new:
        for pid, auxv in enumerate(auxiliary, 7):
            addresses = dict.fromkeys(field.name for field in m.mm_entry.DESCRIPTOR.fields if field.is_required)
            new.write(f"mm-{pid}.img", [m.mm_entry(**dict.fromkeys(addresses, 0), mm_saved_auxv=auxv)])
            new.write(f"core-{pid}.img", [m.core_entry(mtype=mtype)])
        new.write("inventory.img", [m.inventory_entry(img_version=2)])
        new.commit()
    return store.ImagesDir(str(path))


def test_what_a_cpu_lacks_is_named() -> None:
    theirs, ours = made(FP | AES | SVE | EVTSTRM, MOPS | POE), made(FP, 1)
    assert hwcaps.differences(theirs, ours, cpuinfo.ALL) == [
        "register state that is missing here: sve poe",
        "instructions that are missing here: aes mops",
        "only here there is: dcpodp",
    ]
    assert hwcaps.differences(theirs, ours, frozenset((cpuinfo.INS,))) == [
        "instructions that are missing here: aes mops"
    ]
    assert not hwcaps.differences(theirs, ours, frozenset())
    assert not hwcaps.differences(theirs, theirs, cpuinfo.ALL)
    assert not hwcaps.differences(made(FP), made(FP | AES), frozenset((cpuinfo.FPU, cpuinfo.INS)))


def test_features_that_came_later_have_numbers() -> None:
    assert hwcaps.names([1 << 47 | 1 << 48, 0, 1 << 2, 1]) == [
        "smesmop4",
        "bit 48 of word 1",
        "lsfe",
        "bit 0 of word 4",
    ]
    assert hwcaps.names([0, 0, 0, 0, 1 << 3]) == ["bit 3 of word 5"]


def test_the_tasks_of_a_checkpoint_tell(tmp_path: Path) -> None:
    with checkpoint(tmp_path, [HWCAP, FP | AES, 6, 4096], [HWCAP, FP, HWCAP2, MOPS, 3]) as images:
        assert hwcaps.is_recorded(images)
        assert list(hwcaps.recorded(images).capabilities) == [FP | AES, MOPS, 0, 0]


def test_without_tasks_the_image_tells(tmp_path: Path) -> None:
    with store.ImagesDir(str(tmp_path)) as images:
        assert not hwcaps.is_recorded(images)
        with pytest.raises(ImageError, match=r"pycriu-cpu\.img"):
            hwcaps.recorded(images)
        store.write_alone(str(tmp_path / "pycriu-cpu.img"), made(SVE))
    with store.ImagesDir(str(tmp_path)) as images:
        assert hwcaps.is_recorded(images)
        assert list(hwcaps.recorded(images).capabilities) == [SVE]


def test_images_of_other_cpus(tmp_path: Path) -> None:
    with (
        checkpoint(tmp_path, [HWCAP, 5], mtype=1) as images,
        pytest.raises(ImageError, match="not of a CPU of this architecture"),
    ):
        hwcaps.recorded(images)

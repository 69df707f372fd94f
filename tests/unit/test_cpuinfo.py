# SPDX-License-Identifier: GPL-2.0-only
"""What of a CPU of x86_64 is written down, and what is said of one that lacks something."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pycriu.arch import cpuid, cpuinfo
from pycriu.errors import ImageError, UserError
from pycriu.images import messages as m
from pycriu.images import store


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("", "cpu fpu ins"), ("all", "cpu fpu ins"), ("none", ""), ("cpu", "cpu"), ("ins,fpu", "fpu ins"),
        ("all,^cpu", "fpu ins"), ("cpu,none", ""), ("none,ins", "ins"), ("^ins", ""), ("all,^all", ""),
    ],
)  # fmt: skip
def test_capabilities(text: str, chosen: str) -> None:
    assert cpuinfo.wanted(text) == set(chosen.split())


@pytest.mark.parametrize("text", ["x", "cpu,x", "^^cpu", "CPU", ","])
def test_capabilities_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="--cpu-cap"):
        cpuinfo.wanted(text)


def made(**fields: Any) -> Any:
    capability = [0] * 19
    for index, bits in fields.pop("words", {}).items():
        capability[index] = bits
    wanted = {"vendor_id": 1, "cpu_family": 6, "model": 85, "stepping": 4, "capability_ver": 2, **fields}
    return m.cpuinfo_entry(x86_entry=[m.cpuinfo_x86_entry(capability=capability, **wanted)])


def test_what_a_cpu_lacks_is_named() -> None:
    theirs = made(words={9: 1 << 5 | 1 << 16, 4: 1 << 25}, xfeatures_mask=0xE7)
    ours = made(words={9: 1 << 5}, xfeatures_mask=0x5, model=86)
    assert not cpuid.differences(theirs, theirs, cpuinfo.ALL)
    assert not cpuid.differences(ours, theirs, frozenset((cpuinfo.FPU, cpuinfo.INS)))
    assert not cpuid.differences(theirs, ours, frozenset())
    instructions = ["instructions that are missing here: aes avx512f"]
    assert cpuid.differences(theirs, ours, cpuinfo.ALL) == [
        "model 85, here 86", "register state 0xe0 (XSAVE components) is missing here", *instructions,
    ]  # fmt: skip
    assert cpuid.differences(theirs, ours, frozenset((cpuinfo.INS,))) == instructions
    assert cpuid.differences(theirs, ours, frozenset((cpuinfo.CPU,))) == ["model 85, here 86"]


def test_bits_that_no_program_uses_do_not_matter() -> None:
    theirs = made(words={0: 1 << 12, 3: 0xFFFF, 8: 5})  # mtrr, and the kernel's own words
    assert not cpuid.differences(theirs, made(), cpuinfo.ALL)


def test_images_of_other_cpus(tmp_path: Path) -> None:
    store.write_alone(str(tmp_path / "cpuinfo.img"), m.cpuinfo_entry())
    with store.ImagesDir(str(tmp_path)) as images, pytest.raises(ImageError, match="not of a CPU of this architecture"):
        cpuid.recorded(images)
    short = made()
    del short.x86_entry[0].capability[3:]
    assert not cpuid.differences(short, made(), cpuinfo.ALL)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="asks the CPU for what only x86_64 can tell")
def test_this_cpu() -> None:
    """Against what the kernel says of it."""
    own = cpuid.here().x86_entry[0]
    told = dict(
        (part.strip() for part in line.split(":", 1))
        for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    )
    assert (own.cpu_family, own.model, own.stepping) == tuple(
        int(told[name]) for name in ("cpu family", "model", "stepping")
    )
    assert told["model name"].startswith(own.model_id) or own.model_id.startswith(told["model name"])
    flags = set(told["flags"].split())
    names = {"sse3": "pni", "amx_tile": "amx_tile"}
    for (index, bit), name in cpuid._NAMES.items():
        if names.get(name, name) in flags:
            assert own.capability[index] >> bit & 1, name
    assert own.xsave_size >= 576

# SPDX-License-Identifier: GPL-2.0-only
"""What of a CPU is written down, and what is said of one that lacks something."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pycriu.arch import cpuinfo
from pycriu.errors import ImageError, Unsupported, UserError
from pycriu.images import messages as m


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
    cpuinfo.check(theirs, theirs, cpuinfo.ALL)
    cpuinfo.check(ours, theirs, frozenset((cpuinfo.FPU, cpuinfo.INS)))
    cpuinfo.check(theirs, ours, frozenset())
    with pytest.raises(UserError) as caught:
        cpuinfo.check(theirs, ours, cpuinfo.ALL)
    for words in ("model 85, here 86", "register state 0xe0", "missing here: aes avx512f"):
        assert words in caught.value.message
    with pytest.raises(UserError, match="aes avx512f"):
        cpuinfo.check(theirs, ours, frozenset((cpuinfo.INS,)))
    with pytest.raises(UserError, match="model 85"):
        cpuinfo.check(theirs, ours, frozenset((cpuinfo.CPU,)))


def test_bits_that_no_program_uses_do_not_matter() -> None:
    cpuinfo.check(made(words={0: 1 << 12, 3: 0xFFFF, 8: 5}), made(), cpuinfo.ALL)  # mtrr, and the kernel's own words


def test_images_of_other_cpus() -> None:
    with pytest.raises(ImageError, match="not of a CPU of this architecture"):
        cpuinfo.check(m.cpuinfo_entry(), made(), cpuinfo.ALL)
    short = made()
    del short.x86_entry[0].capability[3:]
    cpuinfo.check(short, made(), cpuinfo.ALL)


def test_this_cpu() -> None:
    """Against what the kernel says of it."""
    try:
        own = cpuinfo.here().x86_entry[0]
    except Unsupported as error:
        assert os.uname().machine in error.message
        pytest.skip(f"the format has no place for this CPU, {os.uname().machine}")
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
    for (index, bit), name in cpuinfo._NAMES.items():
        if names.get(name, name) in flags:
            assert own.capability[index] >> bit & 1, name
    assert own.xsave_size >= 576

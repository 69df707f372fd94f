# SPDX-License-Identifier: GPL-2.0-only
"""Real kernels: our evaluation against what the kernel's own make wrote.

The configurations are those of kernels that were built here, in the cache; `LAYER_KERNEL_SOURCE` may name unpacked
sources (separated by colons), for which make is run.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from layer import cache, machine
from layer.kconfig import dotconfig, selfcheck, skeleton, tree
from layer.kconfig.request import Request, cross_prefix
from layer.kconfig.start import Start

BUILT = sorted(cache.default().root.glob("outputs/linux-*/*/dest/boot/kernel.config"))
SOURCES = [Path(name) for name in os.environ.get("LAYER_KERNEL_SOURCE", "").split(":") if name]


def newest() -> dict[tuple[str, str], dotconfig.DotConfig]:
    """Of each release and architecture, the configuration that was built last."""
    found: dict[tuple[str, str], dotconfig.DotConfig] = {}
    for file in sorted(BUILT, key=lambda file: file.stat().st_mtime):
        config = dotconfig.parse(file.read_text(), str(file))
        if config.release and config.arch in machine.names():
            found[config.release, config.arch] = config
    return found


@pytest.mark.parametrize("arch", machine.names())
def test_a_config_that_make_wrote_is_recomputed_without_a_difference(arch: str) -> None:
    judged = 0
    for (release, of_arch), config in newest().items():
        kept = skeleton.find(cache.default().root, release)
        target = machine.load(arch)
        if of_arch != arch or kept is None or shutil.which(f"{cross_prefix(target)}gcc") is None:
            continue
        parsed = tree.load(kept, target, cross_prefix(target), cache.default().root)
        values = {name: line.value for name, line in config.values.items()}
        for closed in (False, True):
            Start(values, closed=closed).apply(parsed)
            differing = selfcheck.differences(parsed, config)
            # The recipe's environment has fewer tools than ours (no rustc, say), and the kernel notes what it found.
            assert [line for line in differing if not tree.TOOL_ANSWER.match(line[0])] == [], config.name
        judged += 1
    if not judged:
        pytest.skip(
            f"the cache holds no kernel that was built for {arch} with its Kconfig tree, or the compiler is missing"
        )


@pytest.mark.parametrize("arch", machine.names())
@pytest.mark.parametrize("source", SOURCES or [None], ids=str)
def test_make_says_the_same_of_the_fragments(source: Path | None, arch: str) -> None:
    if source is None:
        pytest.skip("LAYER_KERNEL_SOURCE names no kernel source for make to run in")
    request = Request(None, ("feature/criu", "feature/debug"), (), arch, source, None)
    comparison = selfcheck.compare(request)
    assert comparison.differing == ()
    assert comparison.symbols > 1000

# SPDX-License-Identifier: GPL-2.0-only
"""Real kernels: our evaluation against what the kernel's own make wrote.

The configurations are those of kernels that were built here, in the cache; `LAYER_KERNEL_SOURCE` may name unpacked
sources (separated by colons), for which make is run.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from layer import cache, machine
from layer.kconfig import assemble, dotconfig, selfcheck, skeleton, tree
from layer.kconfig.request import Request, cross_prefix
from layer.kconfig.start import Start

SOURCES = [Path(name) for name in os.environ.get("LAYER_KERNEL_SOURCE", "").split(":") if name]


@dataclass(frozen=True)
class Built:
    """A kernel in the cache: what make wrote, and the fragments that it was made from."""

    config: dotconfig.DotConfig
    fragments: list[tuple[str, str]]  # (file name, sha256)

    def current(self) -> list[Path] | None:
        """The fragments, when they still say what they said; None when one was changed or came from elsewhere."""
        files = [assemble.KERNEL_CONFIG / name for name, _ in self.fragments]
        same = all(
            file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == digest
            for file, (_, digest) in zip(files, self.fragments, strict=True)
        )
        return files if same else None


def built(arch: str) -> list[Built]:
    """The kernels that were built here for `arch`, with any release of which the Kconfig tree was kept."""
    if shutil.which(f"{cross_prefix(machine.load(arch))}gcc") is None:
        return []
    found = []
    for file in sorted(cache.default().root.glob("outputs/linux-*/*/dest/boot/kernel.config")):
        config = dotconfig.parse(file.read_text(), str(file))
        key = json.loads((file.parent.parent.parent / "key.json").read_text())
        if config.arch == arch and skeleton.find(cache.default().root, config.release):
            found.append(Built(config, [(name, digest) for name, digest in key["fragments"]]))
    return found


@functools.cache
def parsed(arch: str, release: str | None) -> tree.Tree:
    kept = skeleton.find(cache.default().root, release)
    assert kept is not None
    target = machine.load(arch)
    return tree.load(kept, target, cross_prefix(target), cache.default().root)


def differing(judged: tree.Tree, config: dotconfig.DotConfig) -> list[tuple[str, str, str]]:
    """Leaves out what tools answered: a recipe's environment has fewer of them than ours, and the kernel notes it."""
    return [line for line in selfcheck.differences(judged, config) if not tree.TOOL_ANSWER.match(line[0])]


@pytest.mark.parametrize("arch", machine.names())
def test_a_config_that_make_wrote_is_recomputed_without_a_difference(arch: str) -> None:
    kernels = built(arch)
    if not kernels:
        pytest.skip(f"no kernel for {arch} was built here yet, or its compiler is missing")
    for kernel in kernels:
        judged = parsed(arch, kernel.config.release)
        for closed in (False, True):
            Start({name: line.value for name, line in kernel.config.values.items()}, closed=closed).apply(judged)
            assert differing(judged, kernel.config) == [], kernel.config.name


@pytest.mark.parametrize("arch", machine.names())
def test_what_the_fragments_become_is_predicted_without_a_difference(arch: str) -> None:
    kernels = [(kernel, files) for kernel in built(arch) if (files := kernel.current())]
    if not kernels:
        pytest.skip(f"no kernel for {arch} was built here from the fragments as they are, or its compiler is missing")
    for kernel, files in kernels:
        judged = parsed(arch, kernel.config.release)
        Start({entry.symbol: entry.value for entry in assemble.assemble(files).entries}, closed=True).apply(judged)
        assert differing(judged, kernel.config) == [], kernel.config.name


@pytest.mark.parametrize("arch", machine.names())
@pytest.mark.parametrize("source", SOURCES or [None], ids=str)
def test_make_says_the_same_of_the_fragments(source: Path | None, arch: str) -> None:
    if source is None:
        pytest.skip("LAYER_KERNEL_SOURCE names no kernel source for make to run in")
    request = Request(None, ("feature/criu", "feature/debug"), (), arch, source, None)
    comparison = selfcheck.compare(request)
    assert comparison.differing == ()
    assert comparison.symbols > 1000

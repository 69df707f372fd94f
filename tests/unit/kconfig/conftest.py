# SPDX-License-Identifier: GPL-2.0-only
"""A small Kconfig tree and a compiler that answers its one question, for the tests of `layer.kconfig`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from layer import cache, machine
from layer.kconfig import request, tree
from layer.kconfig.verdicts import Finding, Report

TREE = Path(__file__).resolve().parent.parent / "samples/kconfig"
COMPILER = """#!/bin/sh
# Knows its version, and no -fmagic.
case "$*" in *-fmagic*) exit 1;; *) echo "sample-gcc 1.0";; esac
"""
GENERATED = "#\n# Automatically generated file; DO NOT EDIT.\n# Linux/x86 6.12.7-sample Kernel Configuration\n#\n"


@dataclass(frozen=True)
class Bench:
    """Writes inputs into a folder, and audits them in the sample tree."""

    folder: Path
    cross: str
    real_cache: Path  # of the user, with the launcher's Python environment

    def file(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def config(self, *lines: str, complete: bool = True, arch: str = "X86_64") -> Path:
        """A .config; what it does not name is off, as in one that make wrote."""
        return self.file("config", (GENERATED if complete else "") + "\n".join((f"CONFIG_{arch}=y", *lines)) + "\n")

    def fragment(self, *lines: str, name: str = "wanted.cfg") -> Path:
        return self.file(name, "\n".join(lines) + "\n")

    def request(
        self, source: Path | None, *fragments: Path, arch: str = "x86_64", with_tree: bool = True
    ) -> request.Request:
        return request.Request(
            source=str(source) if source else None,
            templates=(),
            fragments=fragments,
            arch=arch,
            tree=TREE if with_tree else None,
            cross=self.cross,
            plain=not with_tree,
        )

    def audit(self, source: Path | None, *fragments: Path, arch: str = "x86_64", with_tree: bool = True) -> Report:
        return request.answer(self.request(source, *fragments, arch=arch, with_tree=with_tree))

    def finding(self, config: Path, *lines: str, arch: str = "x86_64") -> Finding:
        """What is said of the only symbol of a fragment."""
        (finding,) = self.audit(config, self.fragment(*lines), arch=arch).findings
        return finding

    def tree(self, arch: str = "x86_64", directory: Path = TREE) -> tree.Tree:
        return tree.load(directory, machine.load(arch), self.cross)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A bench whose cache is empty."""
    real = cache.default().root
    compiler = tmp_path / "sample-gcc"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    monkeypatch.setenv("LAYER_CACHE", str(tmp_path / "cache"))
    return Bench(tmp_path, f"{tmp_path}/sample-", real)


@pytest.fixture
def sample_tree() -> Path:
    """Where the small tree lies."""
    return TREE

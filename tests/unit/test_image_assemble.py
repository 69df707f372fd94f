# SPDX-License-Identifier: GPL-2.0-only
"""A whole image out of a cache of small outputs: what appears, the same twice, and a failure spoils nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from layer import machine, recipes
from layer.cache import Cache
from layer.configuration import BuildFolder, Configuration
from layer.errors import BuildError
from layer.image import assemble
from layer.plan import Plan
from layer.recipes import TOP

HERE = machine.load(os.uname().machine)
RECIPES = {
    "base-files": "licence: MIT\nversion: '1'\nsteps: []\n",
    "tool": "licence: MIT\nversion: '2'\ndepends: [base-files]\nsteps: []\npackage: {exclude: ['**/*.h']}\n",
    "linux": "licence: GPL-2.0-only\nversion: '6'\nkernel: true\nsteps: []\n",
}
FILES = {
    "base-files": ("etc/passwd", "init"),
    "tool": ("usr/bin/tool", "usr/include/tool.h"),
    "linux": (f"boot/{HERE.kernel.target}", "boot/kernel.config"),
}


def made_plan(folder: Path) -> Plan:
    """A plan whose recipes are all in its cache."""
    chosen = Configuration(HERE.name, "linux", (), ("default",), ("base-files", "tool"), (), False, ())
    texts = {name: f"name: {name}\nsummary: one\n{text}" for name, text in RECIPES.items()}
    parsed = {name: recipes.parse(text, Path(f"{name}.yaml")) for name, text in texts.items()}
    plan = Plan(BuildFolder(folder / "build"), chosen, HERE, parsed, {}, Cache(folder / "cache"), TOP)
    for name, files in FILES.items():
        for file in files:
            path = plan.output(name) / "dest" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{file}\n")
        (plan.output(name) / "licences").mkdir()
        (plan.output(name) / "licences" / "LICENSE").write_text("text\n")
    return plan


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    if shutil.which(f"{HERE.triplet}-gcc") is None:
        pytest.skip(f"{HERE.triplet}-gcc is not installed: keys name the compiler (`make host-packages`)")
    return made_plan(tmp_path)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_all_that_a_boot_needs_is_there(plan: Plan) -> None:
    lines = assemble.assemble(plan)
    images = plan.folder.images
    boot = json.loads((images / "boot.json").read_text())
    assert {name: boot[name] for name in ("machine", "templates")} == {"machine": HERE.name, "templates": ["default"]}
    for name in ("kernel", "initramfs", "data", "kernel_config"):
        assert (images / boot[name]).stat().st_size > 0
    assert (images / "licences/linux/LICENSE").read_text() == "text\n"
    assert [line.split()[0] for line in lines if line.startswith(("tool", "base-files"))]
    assert "tool" in (images / "sizes.txt").read_text()


def test_twice_is_the_same(plan: Plan, tmp_path: Path) -> None:
    assemble.assemble(plan)
    before = contents(plan.folder.images)
    other = made_plan(tmp_path / "another/and/longer/folder")
    assemble.assemble(other)
    assert contents(other.folder.images) == before


def spoil_licence(plan: Plan) -> None:
    (plan.output("tool") / "licences" / "LICENSE").unlink()


def spoil_kernel(plan: Plan) -> None:
    (plan.output("linux") / "dest/boot" / HERE.kernel.target).unlink()


def spoil_output(plan: Plan) -> None:
    shutil.rmtree(plan.output("tool"))


def spoil_path(plan: Plan) -> None:
    (plan.output("tool") / "dest/usr/bin/tool").write_text(f"#!{plan.cache.workshop}/tool/sh\n")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_licence, "tool is in the image without a licence text"),
        (spoil_kernel, "cannot write the images"),
        (spoil_output, "tool is not built"),
        (spoil_path, "/usr/bin/tool .*holds the build's path"),
    ],
)
def test_a_failure_leaves_the_images_that_were_there(plan: Plan, spoil: Callable[[Plan], None], words: str) -> None:
    assemble.assemble(plan)
    before = contents(plan.folder.path)
    spoil(plan)
    with pytest.raises(BuildError, match=words):
        assemble.assemble(plan)
    assert contents(plan.folder.path) == before


def test_two_who_assemble_at_once_both_end_well(plan: Plan) -> None:
    """Of one build folder."""
    assemble.assemble(plan)
    before = contents(plan.folder.images)
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(assemble.assemble, plan) for _ in range(2)]:
            assert done.result()
    assert contents(plan.folder.images) == before
    assert {path.name for path in plan.folder.path.iterdir()} == {"images", "images.lock"}

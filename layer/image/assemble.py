# SPDX-License-Identifier: GPL-2.0-only
"""From finished recipes to images/: kernel, initramfs, data disk and lists. Nothing half-made ever bears that name."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from layer import process
from layer.cache import remove, turn
from layer.errors import BuildError
from layer.image import contents, cpio, elf, ext4, licences, sbom, sizes, table
from layer.image.contents import Part
from layer.image.tree import Package, Tree, collect
from layer.plan import Plan

INITRAMFS = "initramfs.cpio.lz4"
DATA = "data.ext4"
KERNEL_CONFIG = "kernel.config"


def assemble(plan: Plan) -> list[str]:
    """Make the images of a build folder anew; returns what there is to say about them."""
    packages, kernel = contents.packages(plan), contents.kernel(plan)
    files = tree(plan)
    count = elf.check(files, plan.machine.elf, (f"{plan.cache.workshop}/", f"{plan.top}/"))
    with _folder(plan.folder.images) as folder:
        images = _write_images(plan, kernel, files, folder)
        report = sizes.report(files.nodes(), images)
        (folder / "sizes.txt").write_text(report)
        licences.write((*packages, kernel), folder / "licences")
        (folder / "sbom.cdx.json").write_text(sbom.render(f"{plan.machine.name}-image", (*packages, kernel)))
        (folder / "boot.json").write_text(_boot(plan, images))
    return [f"{count} ELF files checked", *report.splitlines(), f"in {plan.folder.images}"]


def tree(plan: Plan) -> Tree:
    """The root file system of a plan whose packages are built."""
    chosen = (
        Package(part.name, part.dest, part.recipe.package.include, part.recipe.package.exclude)
        for part in contents.packages(plan)
    )
    files = collect(chosen)
    table.apply(files)
    return files


def _write_images(plan: Plan, kernel: Part, files: Tree, folder: Path) -> dict[str, Path]:
    """Kernel, initramfs, data disk, by the names they get in boot.json."""
    names = plan.machine.kernel
    shutil.copyfile(kernel.dest / "boot" / names.target, folder / names.target)
    shutil.copyfile(kernel.dest / "boot" / KERNEL_CONFIG, folder / KERNEL_CONFIG)
    _write_initramfs(files, folder / INITRAMFS)
    ext4.make(folder / DATA)
    return {"kernel": folder / names.target, "initramfs": folder / INITRAMFS, "data": folder / DATA}


def _write_initramfs(files: Tree, path: Path) -> None:
    """LZ4: an emulated CPU unpacks it faster than gzip, in less than half the time of zstd."""
    program = shutil.which("lz4")
    if program is None:
        raise process.missing("lz4")
    plain = path.with_suffix("")
    with plain.open("wb") as file:
        cpio.write(files.nodes(), file)
    # -l: the older frame format, the one that the kernel reads.
    process.output([program, "-q", "-f", "-l", "-9", str(plain), str(path)])
    plain.unlink()


def _boot(plan: Plan, images: dict[str, Path]) -> str:
    facts: dict[str, object] = {name: path.name for name, path in images.items()}
    facts |= {
        "machine": plan.machine.name,
        "kernel_config": KERNEL_CONFIG,
        "templates": list(plan.configuration.templates),
    }
    return json.dumps(facts, indent=1, sort_keys=True) + "\n"


@contextmanager
def _folder(final: Path) -> Iterator[Path]:
    """A folder that replaces `final` when all went well, and is gone when not. Whoever else is at it waits."""
    made, old = (final.with_name(f"{final.name}.{what}") for what in ("new", "old"))
    final.parent.mkdir(parents=True, exist_ok=True)
    with turn(final.with_name(f"{final.name}.lock")):
        try:
            for left in (made, old):
                remove(left)
            made.mkdir()
            yield made
            if final.exists():
                os.rename(final, old)
            os.rename(made, final)
        except OSError as error:
            raise BuildError(f"cannot write the images: {error}") from error
        finally:
            remove(made)
            remove(old)

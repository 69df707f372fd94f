# SPDX-License-Identifier: GPL-2.0-only
"""A disk for a guest with real programs: Debian's for its architecture, the libraries they need, and the scenarios.

The packages are those of the host's release, as the guest's C library is that of the host's cross compiler. They stay
in the cache; the disk is made anew for each boot. Not here: PostgreSQL, node.js and Java. Beside their size (50 to 200
MiB each) an emulated CPU needs half a minute and more before they can be dumped; the host's tests have them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from layer.errors import LayerError
from layer.fetch import debian as archive
from layer.image import elf, ext4
from layer.machine import Machine
from layer.target import guest
from tests import clients, cplusplus, debian, golang, peer

TESTS = Path(__file__).parent
# scenario of tests/programs → the programs it runs, beside those that every guest has
SCENARIOS = {
    "bash": ("bash", "script"),
    "go": ("threaded-go",),
    "less": ("bash", "less"),
    "nginx": ("nginx",),
    "redis": ("redis-server",),
    "vi": ("bash", "vi"),
}
BUILT = {"threaded-go": TESTS / "host/threaded/program.go"}
PACKAGES = debian.PROGRAMS | {"script": "bsdutils"}
TERMINFO = "ncurses-base"
DEBIAN_NAMES = {"vi": "vim.tiny"}
FOLDERS = ("bin", "usr/bin", "usr/sbin")
CRIU_SUITES = (peer.OLD, *peer.SUITES)  # 3.17, which cannot run on kernels of today, 4.1, and the newest
IN_IMAGE = {"libc.so.6", "libm.so.6", "libgcc_s.so.1"}  # recipes/libc puts them there, and the loader


def on_disk(options: guest.Options, make: Callable[[Path], Path]) -> guest.Options:
    """`options` with the data disk that `make` makes in a folder; skips where what goes onto it cannot be had."""
    options.logs.mkdir(parents=True, exist_ok=True)
    try:
        made = make(options.logs)
    except (debian.NotHadError, peer.NoPeerError, clients.NotHadError) as error:
        pytest.skip(f"the data disk stays empty: {error}")
    return replace(options, disk=made)


def disk(machine: Machine, folder: Path) -> Path:
    """The disk, in `folder`; NotHadError where the packages cannot be fetched."""
    root = fetched(machine) / "root"
    content = folder / "programs"
    shutil.rmtree(content, ignore_errors=True)
    (content / "bin").mkdir(parents=True)
    (content / "lib").mkdir()
    for name in _wanted():
        shutil.copy(_program(root, name), content / "bin" / name)
    for name, source in BUILT.items():
        built = go(machine, source)
        if built is not None:
            shutil.copy(built, content / "bin" / name)
    for library in closure(root, machine, sorted((content / "bin").iterdir()), IN_IMAGE):
        shutil.copy(library.resolve(), content / "lib" / library.name)
    shutil.copytree(root / "lib/terminfo", content / "terminfo", symlinks=True)
    shutil.copytree(TESTS / "programs", content / "scenarios", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(TESTS / "victims/victim.py", content / "scenarios")
    ext4.make(folder / "programs.ext4", content=content)
    return folder / "programs.ext4"


def gdb_disk(machine: Machine, folder: Path) -> Path:
    """A disk with gdb, and programs that it writes cores of."""
    root = debian.cache() / f"gdb-{machine.debian_arch}"
    try:
        debian.fetch(root, (archive.codename(),), ("gdb-minimal",), architecture=machine.debian_arch)
    except LayerError as error:
        raise debian.NotHadError(str(error)) from None
    content = folder / "gdb"
    shutil.rmtree(content, ignore_errors=True)
    (content / "bin").mkdir(parents=True)
    (content / "lib").mkdir()
    cplusplus.build(machine, TESTS / "host/turns.cpp", content / "bin/turns-cpp")
    for place, names in ((root / "root", ("gdb",)), (fetched(machine) / "root", ("bash", "redis-server"))):
        programs = [Path(shutil.copy(_program(place, name), content / "bin" / name)) for name in names]
        for library in closure(place, machine, programs, IN_IMAGE):
            shutil.copy(library.resolve(), content / "lib" / library.name)
    ext4.make(folder / "gdb.ext4", content=content)
    return folder / "gdb.ext4"


def criu_disk(machine: Machine, folder: Path) -> Path:
    """A disk with CRIU of each of CRIU_SUITES, in a folder of that name, with its libraries and the loader `ld.so`.

    NoPeerError where one cannot be fetched.
    """
    content = folder / "criu"
    shutil.rmtree(content, ignore_errors=True)
    loader = machine.elf.interpreter.rpartition("/")[2]
    for suite in CRIU_SUITES:
        root = peer.fetch(suite, machine.debian_arch) / "root"
        (content / suite).mkdir(parents=True)
        program = shutil.copy(root / "usr/sbin/criu", content / suite / "criu")
        for library in closure(root, machine, [Path(program)], set()):
            shutil.copy(library.resolve(), content / suite / library.name)
        places = (root / place / loader for place in (f"usr/lib/{machine.triplet}", f"lib/{machine.triplet}", "lib"))
        shutil.copy(next(place for place in places if place.exists()).resolve(), content / suite / "ld.so")
    ext4.make(folder / "criu.ext4", content=content)
    return folder / "criu.ext4"


def bindings_disk(folder: Path) -> Path:
    """A disk with CRIU's Python bindings, and the client that uses them, in `rpc`; clients.NotHadError.

    They are plain Python: those for the host's tests serve every machine, with the protobuf of its image.
    """
    content = folder / "bindings"
    shutil.rmtree(content, ignore_errors=True)
    module = clients.find().root / "usr/lib/python3/dist-packages/pycriu"
    shutil.copytree(module, content / "rpc/pycriu", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(TESTS / "runtime/rpc_client.py", content / "rpc")
    ext4.make(folder / "bindings.ext4", content=content)
    return folder / "bindings.ext4"


def fetched(machine: Machine) -> Path:
    """The packages of the scenarios, unpacked below root/; fetched if they are not there."""
    place = debian.cache() / f"programs-{machine.debian_arch}"
    packages = (*(PACKAGES[name] for name in _wanted()), TERMINFO)
    try:
        debian.fetch(place, (archive.codename(),), packages, architecture=machine.debian_arch)
    except LayerError as error:
        raise debian.NotHadError(str(error)) from None
    return place


def go(machine: Machine, source: Path) -> Path | None:
    """A program of Go for the machine; None where there is no compiler. Go and Debian name CPUs alike."""
    return golang.built(source, debian.cache() / f"programs-{machine.debian_arch}", GOARCH=machine.debian_arch)


def closure(root: Path, machine: Machine, programs: list[Path], without: set[str]) -> Iterator[Path]:
    """The libraries that the programs need, and those that these need, but for the loader and those of `without`."""
    folders = [root / "lib" / machine.triplet, root / "usr/lib" / machine.triplet]
    loader = machine.elf.interpreter.rpartition("/")[2]
    seen, left = {*without, loader}, list(programs)
    while left:
        for name in elf.read(left.pop()).needed:
            if name not in seen:
                seen.add(name)
                library = next(folder / name for folder in folders if (folder / name).exists())
                left.append(library)
                yield library


def _wanted() -> list[str]:
    """The programs that come in packages."""
    return sorted({name for names in SCENARIOS.values() for name in names} - set(BUILT))


def _program(root: Path, name: str) -> Path:
    places = [root / folder / DEBIAN_NAMES.get(name, name) for folder in FOLDERS]
    return next(place for place in places if place.exists())

# SPDX-License-Identifier: GPL-2.0-only
"""A machine is a value, read from one file in `qemu/`: how the kernel, Debian, ELF and QEMU spell an architecture."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import yaml

from layer.errors import InputError

MACHINES = Path(__file__).resolve().parent.parent / "qemu"


@dataclass(frozen=True, slots=True)
class KernelNames:
    """The kernel's words: `make ARCH=<arch> <target>` leaves `image`; Kconfig files lie in arch/<srcarch>."""

    arch: str
    srcarch: str
    target: str
    image: str  # relative to the build folder


@dataclass(frozen=True, slots=True)
class ElfNames:
    """What every ELF file of the machine must say: e_machine, PT_INTERP, and where its libraries lie."""

    machine: str
    interpreter: str
    libdir: str


@dataclass(frozen=True, slots=True)
class DeviceNames:
    """QEMU's names of the virtio devices, on the bus that the board has."""

    block: str
    serial: str


@dataclass(frozen=True, slots=True)
class ProbeRom:
    """A firmware image of `size` bytes with `code` at `offset`: it writes one K to the serial line."""

    size: int
    offset: int
    code: bytes

    def image(self) -> bytes:
        """The bytes of the firmware file."""
        return self.code.rjust(self.offset + len(self.code), b"\0").ljust(self.size, b"\0")


@dataclass(frozen=True, slots=True)
class QemuNames:
    """The emulator: its program, its Debian package, the board's arguments, the serial console, devices, a probe."""

    binary: str
    package: str
    args: tuple[str, ...]
    console: str
    devices: DeviceNames
    probe: ProbeRom


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine of `qemu/*.yaml`."""

    name: str
    summary: str
    debian_arch: str
    triplet: str
    kernel: KernelNames
    elf: ElfNames
    qemu: QemuNames
    file: Path


def names() -> tuple[str, ...]:
    """Every machine there is, sorted."""
    return tuple(sorted(path.stem for path in MACHINES.glob("*.yaml")))


def load(name: str) -> Machine:
    """The machine called `name`; InputError with a suggestion when there is none, or when its file is malformed."""
    path = MACHINES / f"{name}.yaml"
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}? " if close else ""
        raise InputError(f"unknown machine {name!r}", hint=f"{hint}there are: {', '.join(names())}")
    try:
        return _from_mapping(cast("Mapping[str, object]", yaml.safe_load(path.read_text())), path)
    except (KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"malformed machine description: {error!r}", file=path) from error


def _from_mapping(data: Mapping[str, object], path: Path) -> Machine:
    qemu = dict(cast("Mapping[str, object]", data["qemu"]))
    qemu["args"] = tuple(cast("list[str]", qemu["args"]))
    qemu["devices"] = DeviceNames(**cast("Mapping[str, str]", qemu["devices"]))
    probe = cast("Mapping[str, int | str]", qemu["probe"])
    qemu["probe"] = ProbeRom(int(probe["size"]), int(probe["offset"]), bytes.fromhex(str(probe["code"])))
    return Machine(
        name=str(data["name"]),
        summary=str(data["summary"]),
        debian_arch=str(data["debian_arch"]),
        triplet=str(data["triplet"]),
        kernel=KernelNames(**cast("Mapping[str, str]", data["kernel"])),
        elf=ElfNames(**cast("Mapping[str, str]", data["elf"])),
        qemu=QemuNames(**qemu),  # type: ignore[arg-type]  # checked by the constructor's keywords
        file=path,
    )

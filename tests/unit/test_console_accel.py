# SPDX-License-Identifier: GPL-2.0-only
"""The accelerator probe with real emulators, where they are installed; the ROMs and the cache everywhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from layer import machine
from layer.errors import InputError
from layer.target import accel

MACHINES = machine.names()


def program(name: str) -> str:
    """The emulator, or a skip that names its package."""
    names = machine.load(name).qemu
    found = shutil.which(names.binary)
    if found is None:
        pytest.skip(f"{names.binary} is not installed: apt-get install {names.package}")
    return found


@pytest.mark.parametrize("name", MACHINES)
def test_the_rom_speaks_where_instructions_are_run(name: str) -> None:
    assert accel.probe(machine.load(name), program(name), "tcg") is None


@pytest.mark.parametrize("name", MACHINES)
def test_an_accelerator_that_does_not_exist_does_not_work(name: str) -> None:
    failure = accel.probe(machine.load(name), program(name), "no-such")
    assert failure is not None and "no-such" in failure


@pytest.mark.parametrize("name", MACHINES)
def test_the_choice_runs_and_is_remembered(name: str, tmp_path: Path) -> None:
    found = accel.choose(machine.load(name), tmp_path)
    assert accel.probe(machine.load(name), program(name), found.name) is None
    (kept,) = tmp_path.glob(f"accel-{name}-*.json")
    kept.write_text(json.dumps({"name": "remembered", "why": ""}))
    assert accel.choose(machine.load(name), tmp_path).name == "remembered"


def test_an_emulator_that_is_missing_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="apt-get install qemu-system-arm"):
        accel.choose(machine.load("aarch64"), tmp_path)


@pytest.mark.parametrize("name", MACHINES)
def test_the_rom_has_its_size_and_its_code_in_place(name: str) -> None:
    rom = machine.load(name).qemu.probe
    image = rom.image()
    assert len(image) == rom.size and image[rom.offset : rom.offset + len(rom.code)] == rom.code

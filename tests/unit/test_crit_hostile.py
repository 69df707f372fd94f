# SPDX-License-Identifier: GPL-2.0-only
"""Images that mean harm, or are damaged: every command ends with a sentence, or with what it could still tell."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pycriu.crit import cli
from tests.unit import checkpoints as c

COMMANDS: dict[str, Callable[[Path, Path], list[str]]] = {
    "core": lambda images, out: ["core", str(images), "-o", str(out)],
    "stats": lambda images, out: ["stats", str(images), "--html", str(out / "page.html"), "--json"],
    "find": lambda images, out: ["find", str(images), "A+", "-e", "-m", "5"],
    "diff": lambda images, out: ["diff", str(images), str(images.parent.parent / "good/images")],
    "convert": lambda images, out: ["convert", str(images), "-o", str(out / "there"), "--to", "1.0", "--lossy"],
}
_SEEDS = range(3)


def damage(path: Path, rng: random.Random) -> None:
    """Other bytes in an image, or fewer, or more."""
    data = bytearray(path.read_bytes())
    what = rng.randrange(4)
    if what == 0 and data:
        del data[rng.randrange(len(data)) :]
    elif what == 1:
        data += rng.randbytes(rng.randrange(1, 20))
    elif data:
        for _ in range(rng.randrange(1, 5)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    path.write_bytes(data)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("seed", _SEEDS)
def test_damaged_images(tmp_path: Path, seed: int, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    c.write(tmp_path / "good")
    rng = random.Random(f"{seed} {command}")
    for number in range(5):
        images = c.write(tmp_path / f"bad{number}")
        damage(rng.choice([path for path in images.iterdir() if path.suffix == ".img"]), rng)
        out = tmp_path / f"out{number}"
        out.mkdir()
        assert cli.main(COMMANDS[command](images, out)) in (0, 1, 2)
        assert not list(out.glob("*.part"))
    said = capsys.readouterr()
    assert "Traceback" not in said.err


def extreme(message: Any, rng: random.Random) -> None:
    """A value at the edge of what its field can hold, somewhere in a message."""
    fields = [(field, value) for field, value in message.ListFields() if field.name != "mtype"]
    inner = [value for field, value in fields if field.message_type is not None]
    inner = [one for value in inner for one in ((value,) if hasattr(value, "ListFields") else value)]
    if inner and rng.random() < 0.6:
        extreme(rng.choice(inner), rng)
        return
    numbers = [field for field, value in fields if isinstance(value, int) and not isinstance(value, bool)]
    numbers = [field for field in numbers if field.enum_type is None]
    if numbers:
        field = rng.choice(numbers)
        wide = 64 if field.type in (field.TYPE_UINT64, field.TYPE_INT64) else 32
        signed = field.type not in (field.TYPE_UINT64, field.TYPE_UINT32)
        top = (1 << wide - signed) - 1
        setattr(message, field.name, rng.choice([0, 1, top, top - 1, top // 2, 4095, 4096, rng.randrange(top)]))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("seed", _SEEDS)
def test_impossible_values(tmp_path: Path, seed: int, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every message is one, but what they say together cannot be."""
    c.write(tmp_path / "good")
    rng = random.Random(f"{seed} {command}")

    def change(images: dict[str, Any]) -> None:
        for _ in range(rng.randrange(1, 4)):
            entries = rng.choice([one for one in images.values() if isinstance(one, list) and one])
            extreme(rng.choice(entries), rng)

    for number in range(5):
        images = c.write(tmp_path / f"bad{number}", change)
        out = tmp_path / f"out{number}"
        out.mkdir()
        assert cli.main(COMMANDS[command](images, out)) in (0, 1, 2)
        for path in out.rglob("core.*"):
            assert path.stat().st_blocks * 512 < 1 << 20, "a lie about sizes has cost room on the disk"
    capsys.readouterr()

# SPDX-License-Identifier: GPL-2.0-only
"""recipes/sources.lock: for every recipe with a remote source the exact version, file names and sha256.

A build folder may hold an overlay: what the archive signs today, for a version that it no longer carries. An overlay's
entry counts only as long as the lock still says what it stood in for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from layer.cache import write_if_changed
from layer.errors import BuildError, InputError


class GoneError(BuildError):
    """The archive does not carry this version any more."""


@dataclass(frozen=True, slots=True)
class Pin:
    """One recipe's source, exactly."""

    version: str  # as the archive writes it
    origin: str  # "debian trixie", "pypi", "https": what it came from, no host
    files: Mapping[str, str]  # file name → sha256
    replaces: str = ""  # in an overlay: the locked version it stands in for

    @property
    def upstream(self) -> str:
        """The version without Debian's epoch and revision."""
        if not self.origin.startswith("debian"):
            return self.version
        return self.version.split(":", 1)[-1].rsplit("-", 1)[0]


Lock = Mapping[str, Pin]


def parse(text: str, file: Path) -> dict[str, Pin]:
    """The pins in a lock's text."""
    try:
        return {name: Pin(**entry) for name, entry in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"malformed lock: {error}", hint="restore it from version control, or `make lock`", file=file
        ) from error


def render(pins: Lock) -> str:
    """The lock's text: sorted, one line a file, so that a change is easy to review."""
    entries = {name: {key: value for key, value in asdict(pin).items() if value} for name, pin in sorted(pins.items())}
    return json.dumps(entries, indent=2, sort_keys=True) + "\n"


def read(file: Path) -> dict[str, Pin]:
    """The pins in `file`; none when there is no such file."""
    return parse(file.read_text(), file) if file.is_file() else {}


def read_with_overlay(file: Path, overlay: Path) -> dict[str, Pin]:
    """The lock, with the overlay's entries where they still apply."""
    pins = read(file)
    for name, pin in read(overlay).items():
        if name in pins and pins[name].version == pin.replaces:
            pins[name] = pin
    return pins


def write(file: Path, pins: Lock) -> bool:
    """Write the lock; says whether that changed anything."""
    return write_if_changed(file, render(pins))


def pin_of(name: str, pins: Lock, file: Path) -> Pin:
    """The pin of a recipe; InputError when it was never locked."""
    if name not in pins:
        raise InputError(f"{name} is not in the lock", hint=f"`make lock RECIPE={name}` adds it", file=file)
    return pins[name]


def verify(path: Path, expected: str, *, name: str, origin: str) -> None:
    """BuildError unless the file's content is the locked one."""
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != expected:
        size = path.stat().st_size
        raise BuildError(
            f"{name}: {path.name} is not what the lock says\n"
            f"    expected sha256 {expected}\n"
            f"    got      sha256 {got} ({size} bytes)\n"
            f"    from     {origin}\n"
            f"    kept at  {path}",
            hint="If the download was cut short or altered on its way, build again. If upstream replaced the file and "
            f"you have found out why, `make lock RECIPE={name}` accepts what is offered today.",
        )

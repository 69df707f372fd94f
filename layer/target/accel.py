# SPDX-License-Identifier: GPL-2.0-only
"""Which accelerator works for a machine here: found out by running one, not by looking for /dev/kvm.

/dev/kvm may be there, open, and still abort the emulator at its first instruction; and QEMU does not fall back by
itself. So a throw-away VM without a system runs a ROM of a dozen bytes that writes one K to the serial line. The
answer is kept per boot of the host, since neither the host's kernel nor QEMU changes under it. It does not measure
speed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from layer.errors import InputError
from layer.machine import Machine
from layer.target.deadline import Deadline

PATIENCE = 10.0  # seconds for the first byte
SHOWN = 60  # characters of QEMU's last words
SAME_CPU = {"x86_64": ("x86_64",), "aarch64": ("aarch64", "arm64")}  # platform.machine() of hosts that can accelerate
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Accelerator:
    """`name` as QEMU spells it; `why` no faster one was taken, empty when none exists."""

    name: str
    why: str = ""

    @property
    def slowness(self) -> float:
        """What time limits made for a real CPU are multiplied by."""
        return 4.0 if self.name == "tcg" else 1.0


def choose(machine: Machine, cache: Path) -> Accelerator:
    """The fastest accelerator that has been seen to work; the answer is kept under `cache`."""
    program = shutil.which(machine.qemu.binary)
    if program is None:
        raise InputError(f"{machine.qemu.binary} is not installed", hint=f"apt-get install {machine.qemu.package}")
    kept = cache / f"accel-{machine.name}-{_situation(program)}.json"
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
        said = json.loads(kept.read_text())
        return Accelerator(str(said["name"]), str(said["why"]))
    found = _find(machine, program)
    cache.mkdir(parents=True, exist_ok=True)
    fresh = kept.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps({"name": found.name, "why": found.why}))
    fresh.replace(kept)
    return found


def _find(machine: Machine, program: str) -> Accelerator:
    if platform.machine() not in SAME_CPU.get(machine.name, ()):
        return Accelerator("tcg", f"the host's CPU is {platform.machine()}")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return Accelerator("tcg", "/dev/kvm cannot be opened")
    failure = probe(machine, program, "kvm")
    return Accelerator("kvm") if failure is None else Accelerator("tcg", f"/dev/kvm is there, but {failure}")


def probe(machine: Machine, program: str, accel: str) -> str | None:
    """Run the ROM under `accel`: None when it spoke, else what happened instead."""
    with tempfile.NamedTemporaryFile(prefix="probe-", suffix=".rom") as rom:
        rom.write(machine.qemu.probe.image())
        rom.flush()
        line = [program, *machine.qemu.args, "-accel", accel, "-nodefaults", "-no-user-config", "-display", "none"]
        line += ["-bios", rom.name, "-serial", "stdio"]
        pipe = subprocess.PIPE
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)
        try:
            if _first_byte(process, Deadline.after(PATIENCE)) == b"K":
                return None
            status = process.poll()
        finally:
            process.kill()
            said = process.communicate()[1].decode(errors="replace").strip()
    if status is None:
        return f"a VM under {accel} did not run one instruction in {PATIENCE:.0f} s"
    how = signal.Signals(-status).name if status < 0 else f"status {status}"
    return f"a VM under {accel} ends by {how}" + (f" ({said.splitlines()[-1][-SHOWN:]})" if said else "")


def _first_byte(process: subprocess.Popen[bytes], deadline: Deadline) -> bytes:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], deadline.remaining)
    byte = os.read(process.stdout.fileno(), 1) if ready else b""
    if ready and not byte:
        process.wait()
    return byte


def _situation(program: str) -> str:
    """What the answer depends on, as a short name."""
    stat = Path(program).stat()
    boot = BOOT_ID.read_text().strip() if BOOT_ID.exists() else ""
    kvm = os.access("/dev/kvm", os.R_OK | os.W_OK)
    facts = f"{program} {stat.st_mtime_ns} {stat.st_size} {os.uname().release} {boot} {kvm}"
    return hashlib.sha256(facts.encode()).hexdigest()[:16]

# SPDX-License-Identifier: GPL-2.0-only
"""A booted guest: emulator, kernel log, command shell, in one scope that ends it.

Commands go over a virtio line of their own, so that the kernel's words never land in a result; an image whose kernel
has no VIRTIO_CONSOLE is talked to over the serial console instead, which is noticed by where it says that it is ready.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from layer import cache, process
from layer.target import accel, faults, qemu
from layer.target.bootfile import Boot
from layer.target.console import Console, first_to_say
from layer.target.deadline import Deadline
from layer.target.shell import LETTERS, Shell

BOOT = 30.0  # seconds from the emulator's start to the shell, on a real CPU


@dataclass(frozen=True, slots=True)
class Options:
    """How to boot. `multiplier` is the user's, on top of the accelerator's slowness."""

    logs: Path
    disk: Path | None = None  # None: a scratch copy of the image's own
    multiplier: float = 1.0
    channel: bool = True
    keep: bool = False
    append: tuple[str, ...] = ()
    accel: str | None = None  # None: probe


class Guest:
    """A guest that answered. `channel` is the terminal its shell runs on."""

    def __init__(self, boot: Boot, emulator: qemu.Qemu, serial: Console, shell: Shell) -> None:
        self.boot = boot
        self.qemu = emulator
        self.serial = serial
        self.shell = shell
        self.slowness = shell.slowness
        self.accelerator = accel.Accelerator("tcg")
        self.seconds = 0.0  # from the emulator's start to the shell's word
        self.logs = serial.log_path.parent

    @property
    def one_console(self) -> bool:
        """Whether commands and the kernel's words share one line."""
        return self.shell.console is self.serial

    @property
    def attach(self) -> str:
        """The command that connects a person to the shell of a guest that was kept."""
        return f"qemu/boot --attach {self.qemu.sockets / ('serial' if self.one_console else 'shell')}"

    def power_cut(self) -> None:
        """End the emulator as a power cut would."""
        self.qemu.kill()

    def kernel_log(self) -> list[str]:
        """The kernel's own log, from the first line that it still has."""
        # The bar keeps an old line of the log, shown on a line that is watched, from being taken for a fresh one.
        text = self.shell.run("dmesg | sed 's/^/| /'", timeout=60).out
        return [line.removeprefix("| ") for line in text.splitlines()]

    def troubles(self) -> tuple[faults.Fault, ...]:
        """All trouble that the kernel log and the serial line tell of."""
        lines = self.kernel_log()
        (self.logs / "dmesg.txt").write_text("\n".join(lines) + "\n")
        self.serial.drain()
        return (*faults.every(lines), *(fault for fault in faults.every(self.serial.lines) if fault.line not in lines))


@contextlib.contextmanager
def booted(boot: Boot, options: Options) -> Iterator[Guest]:
    """A guest whose shell answers, for as long as the scope lasts."""
    options.logs.mkdir(parents=True, exist_ok=True)
    found = (
        accel.choose(boot.machine, cache.default().root) if options.accel is None else accel.Accelerator(options.accel)
    )
    mark = "".join(random.choices(LETTERS, k=12))
    with contextlib.ExitStack() as scope:
        disk = options.disk or scratch_disk(boot, options.logs)
        launch = qemu.Launch(boot, found.name, disk, options.channel, mark, options.append, options.keep)
        start = time.monotonic()
        emulator = scope.enter_context(qemu.started(launch, options.logs / "qemu.log"))
        serial, consoles = _connect(emulator, options, scope)
        slowness = found.slowness * options.multiplier
        ready = first_to_say(consoles, f"guest ready: {mark}", Deadline.after(BOOT * slowness), "the guest's shell")
        shell = Shell(ready, slowness=slowness)
        shell.prepare(quiet_kernel=ready is serial, now=int(time.time()))
        guest = Guest(boot, emulator, serial, shell)
        guest.seconds = time.monotonic() - start
        guest.accelerator = found
        yield guest


def _connect(emulator: qemu.Qemu, options: Options, scope: contextlib.ExitStack) -> tuple[Console, tuple[Console, ...]]:
    """The consoles of a fresh emulator, each reading the other while it waits."""
    # In the order of the command line: QEMU offers the next line only when the one before has been taken.
    names = ("serial", "shell") if options.channel else ("serial",)
    consoles = []
    for name in names:
        line = scope.enter_context(emulator.connect(name))
        console = Console(line.fileno(), options.logs / f"{name}.log", kernel=name == "serial")
        console.ended = emulator.ended
        scope.callback(console.finish)
        consoles.append(console)
    for console in consoles:
        console.watched = tuple(other for other in consoles if other is not console)
    return consoles[0], tuple(consoles)


def scratch_disk(boot: Boot, folder: Path) -> Path:
    """A copy of the image's data disk, for one guest (or for several, one after the other)."""
    disk = folder / "data.ext4"
    process.output(["cp", "--sparse=always", str(boot.data), str(disk)])  # it is nearly empty, and there are many
    return disk

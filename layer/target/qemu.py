# SPDX-License-Identifier: GPL-2.0-only
"""One emulator process: its command line, its sockets, its end.

Lines to the guest are Unix sockets in a short temporary folder, so that someone can attach after the starter has left.
QEMU waits for the starter on each of them before the first instruction: no output is lost. Its exit status says
nothing about the guest (a panic ends it with 0), so nobody here judges by it.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from layer.errors import InputError
from layer.target.bootfile import Boot
from layer.target.deadline import Deadline
from layer.target.faults import QemuDied
from layer.target.qmp import Qmp

START = 60.0  # seconds until its sockets exist; an emulator that cannot start ends
QUIT = 5.0  # seconds to leave when asked, before it is killed
LONGEST = 80  # bytes of a folder in which sockets can be made: their paths may have 107
STALL = 300  # seconds, the most there are: a busy host stops an emulator for longer than the kernel's 21


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything a command line is made from. `channel`: attach the virtio line hvc0 for commands."""

    boot: Boot
    accel: str
    disk: Path | None
    channel: bool = True
    mark: str = ""
    append: tuple[str, ...] = ()
    keep: bool = False  # the emulator outlives the one who started it


def binary(launch: Launch) -> str:
    """The emulator's path; InputError naming the Debian package when it is not installed."""
    names = launch.boot.machine.qemu
    found = shutil.which(names.binary)
    if found is None:
        raise InputError(f"{names.binary} is not installed", hint=f"apt-get install {names.package}")
    return found


def common_arguments(launch: Launch) -> list[str]:
    """The board, the accelerator, the image and the disk: what an interactive and an automatic start share."""
    names = launch.boot.machine.qemu
    arguments = [binary(launch), *names.args, "-accel", launch.accel]
    arguments += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    arguments += ["-kernel", str(launch.boot.kernel), "-initrd", str(launch.boot.initramfs)]
    if launch.disk is not None:
        # The host's page cache survives the death of QEMU; the guest's does not. That is a power cut.
        arguments += ["-drive", f"file={_value(launch.disk)},if=none,id=data,format=raw,cache=writeback"]
        arguments += ["-device", f"{names.devices.block},drive=data"]
    return arguments


def kernel_arguments(launch: Launch) -> str:
    """The kernel's command line: leave the emulator on a panic; NAME=value words go to init."""
    names = launch.boot.machine.qemu
    words = [f"console={names.console}", "panic=-1", f"rcupdate.rcu_cpu_stall_timeout={STALL}", *launch.append]
    words += ["GUEST_CHANNEL=hvc0"] if launch.channel else []
    words += [f"GUEST_MARK={launch.mark}"] if launch.mark else []
    return " ".join(words)


def arguments(launch: Launch, sockets: Path) -> list[str]:
    """The whole command line of a guest that a program talks to."""
    names = launch.boot.machine.qemu
    line = [*common_arguments(launch), "-append", kernel_arguments(launch)]
    place = _value(sockets)
    line += ["-qmp", f"unix:{place}/qmp,server=on,wait=off"]
    line += ["-chardev", f"socket,id=serial,path={place}/serial,server=on,wait=on", "-serial", "chardev:serial"]
    if launch.channel:
        line += ["-chardev", f"socket,id=shell,path={place}/shell,server=on,wait=on"]
        line += ["-device", names.devices.serial, "-device", "virtconsole,chardev=shell"]
    return line


def _value(path: Path) -> str:
    """A path among an option's words, which commas part."""
    return str(path).replace(",", ",,")


def _folder() -> Path:
    """A new folder for sockets, where temporary files go, unless that is too far down."""
    usual = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="guest-", dir=usual if len(os.fsencode(usual)) <= LONGEST else "/tmp"))


class Qemu:
    """A running emulator. Made by `started`."""

    def __init__(self, process: subprocess.Popen[bytes], sockets: Path, errors: Path) -> None:
        self.process = process
        self.sockets = sockets
        self._errors = errors

    def connect(self, name: str) -> socket.socket:
        """The line called `name`, as soon as QEMU offers it; QemuDied when it ends before."""
        deadline = Deadline.after(START)
        while True:
            line = socket.socket(socket.AF_UNIX)
            try:
                line.connect(str(self.sockets / name))
                return line
            except (FileNotFoundError, ConnectionRefusedError):
                line.close()
            if (end := self.ended()) is not None:
                raise QemuDied(end)
            if deadline.passed:
                raise QemuDied(f"QEMU offered no socket {name!r} within {START:.0f} s")
            time.sleep(0.005)

    def ended(self) -> str | None:
        """How it ended and what it said, or None while it runs."""
        status = self.process.poll()
        if status is None:
            return None
        how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        said = self._errors.read_text(errors="replace").strip()
        return f"QEMU ended {how}" + (f", saying: {said[-2000:]}" if said else "")

    def kill(self) -> None:
        """Cut the power: nothing in the guest gets a chance to say goodbye."""
        self.process.kill()
        self.process.wait()

    def quit(self) -> None:
        """Ask QEMU to leave; kill it when it does not."""
        try:
            self._ask_to_leave()
        finally:
            self.kill()

    def _ask_to_leave(self) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(OSError, QemuDied), Qmp(str(self.sockets / "qmp"), timeout=QUIT) as control:
                control.execute("quit")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(QUIT)


@contextlib.contextmanager
def started(launch: Launch, log: Path) -> Iterator[Qemu]:
    """An emulator for as long as the scope lasts, unless it is to stay. `log` gets its command line and its words."""
    sockets = _folder()
    # A starter that is killed takes its guest along.
    line = [*([] if launch.keep else ["setpriv", "--pdeathsig", "KILL", "--"]), *arguments(launch, sockets)]
    log.write_text("")
    log.with_suffix(".command").write_text(shlex.join(line) + "\n")
    with log.open("ab") as errors:
        # A session of its own: Ctrl-C at the host is for the host's program, which then ends the guest in order.
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True)
    qemu = Qemu(process, sockets, log)
    try:
        yield qemu
    finally:
        if not launch.keep or qemu.process.poll() is not None:
            qemu.quit()
            shutil.rmtree(sockets)

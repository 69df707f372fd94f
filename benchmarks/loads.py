# SPDX-License-Identifier: GPL-2.0-only
"""What is dumped and restored in a benchmark: process trees that run until killed and tell when they are ready."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36

LOOP = 'echo ready > "$1"; while :; do echo tick >> "$1"; sleep 0.2; done'

MEMORY = """
import mmap, os, sys, time
size = int(sys.argv[2]) << 20
memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
block = os.urandom(1 << 20)
for at in range(0, size, len(block)):
    memory[at : at + len(block)] = block
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.write(fd, b"ready\\n")
last = time.monotonic()
while True:
    time.sleep(0.0005)
    now = time.monotonic()
    if now - last > 0.002:
        os.write(fd, b"%f %f\\n" % (now, now - last))
    last = now
"""


@dataclass(frozen=True, slots=True)
class Load:
    """A kind of tree."""

    name: str
    command: tuple[str, ...]  # {ready} is the file that says so
    tells: bool = False  # writes into it when its clock has jumped: moment and length in seconds

    def start(self, directory: Path) -> int:
        """The PID of the root, in a session of its own, once it is ready."""
        ready = directory / "ready"
        ready.unlink(missing_ok=True)
        null = subprocess.DEVNULL
        command = [word.replace("{ready}", str(ready)) for word in self.command]
        child = subprocess.Popen(command, stdin=null, stdout=null, stderr=null, start_new_session=True, cwd="/", env={})
        deadline = time.monotonic() + 60
        while not (ready.exists() and ready.stat().st_size):
            if child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not start")
            time.sleep(0.005)
        child.returncode = 0  # reaped by `bury`, not by Popen
        return child.pid


def loop() -> Load:
    """A shell and its sleep."""
    return Load("loop", ("/bin/sh", "-c", LOOP, "loop", "{ready}"))


def memory(mebibytes: int) -> Load:
    """A process with so much private memory, all of it written, no page like another in content of its neighbours."""
    return Load(f"{mebibytes} MiB", (sys.executable, "-IS", "-c", MEMORY, "{ready}", str(mebibytes)), tells=True)


def longest_jump(directory: Path, since: float) -> float:
    """The longest time for which a load that tells stood still after a moment; 0 if it never did."""
    lines = (directory / "ready").read_text().splitlines()[1:]
    jumps = [tuple(map(float, line.split())) for line in lines]
    return max((length for moment, length in jumps if moment > since), default=0.0)


def adopt_orphans() -> None:
    """Become the parent of every orphan below, so that no zombie keeps a PID where PID 1 reaps nobody."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def bury(pid: int) -> None:
    """End a tree by its session, and reap all that is left of it."""
    for process in _session(pid):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while _session(pid) and time.monotonic() < deadline:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.001)


def alive(pid: int) -> bool:
    """Whether a process runs or sleeps, neither stopped nor dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "RSD"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _session(sid: int) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):
                if int(Path(f"/proc/{entry}/stat").read_text(errors="replace").rpartition(")")[2].split()[3]) == sid:
                    found.append(int(entry))
    return found

# SPDX-License-Identifier: GPL-2.0-only
"""What the scenarios share: how a program is started, dumped and restored, typed to, and asked. See README.md.

They run on a host and in a guest, whose Python is small: nothing here needs more than its standard library has there.
"""

import contextlib
import ctypes
import fcntl
import os
import pty
import select
import shlex
import signal
import socket
import struct
import subprocess
import termios
import time
from collections.abc import Callable

from victim import Failed, check, connected, need_loopback, status_lines, wait_until

PYCRIU = shlex.split(os.environ.get("PYCRIU", "pycriu"))
PATIENCE = 60.0  # seconds
PROMPT = "ready> "
_PR_SET_CHILD_SUBREAPER = 36
_count = [0]
_names: dict[int, str] = {}  # of those that have been dumped


def play(scenario: Callable[[], None]) -> None:
    """Run a scenario: PASS is its last word, or FAIL and why. Nobody it has started is left."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        scenario()
        print("PASS", flush=True)
    except (Failed, OSError) as error:
        print(f"FAIL {error}", flush=True)
    finally:
        _kill_all()


def start(*words: str) -> int:
    """A program in a session of its own, with its output in the file `said`; its PID."""
    with open("said", "ab") as said:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True)
    return process.pid


def wait_for(text: str) -> None:
    """Wait until it has said `text`."""
    wait_until(lambda: text in said(), f"{text!r} in what it says", PATIENCE)


def said() -> str:
    """The output of what `start` has started."""
    with open("said", encoding="utf-8", errors="replace") as file:
        return file.read()


def cycle(pid: int, *options: str) -> None:
    """A dump that leaves it running, of which it must notice nothing; then one that ends it, and its restore."""
    dump(pid, "--leave-running", *options)
    check(os.path.exists(f"/proc/{pid}"), "it is gone after a dump that leaves it running")
    images = dump(pid, *options)
    check(not os.path.exists(f"/proc/{pid}"), "it is there after a dump that ends it")
    _pycriu("restore", "-d", "-D", images, *options)
    check(os.path.exists(f"/proc/{pid}"), "it is not there after a restore")


def dump(pid: int, *options: str) -> str:
    """Dump it; the folder with the images."""
    _count[0] += 1
    images = f"images-{_count[0]}"
    os.mkdir(images)
    _names[pid] = _name(pid)
    _pycriu("dump", "-t", str(pid), "-D", images, *options)
    if "--leave-running" not in options:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
    return images


def _pycriu(*words: str) -> None:
    done = subprocess.run([*PYCRIU, *words], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    told = (done.stdout + done.stderr).decode(errors="replace")
    check(done.returncode == 0, f"pycriu {' '.join(words)}: exit status {done.returncode}: {told}")


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    need_loopback()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def end(pid: int) -> None:
    """It was good; it may go."""
    os.kill(pid, signal.SIGTERM)
    ended(pid)


def ended(pid: int) -> None:
    """Wait for its end."""
    wait_until(lambda: _over(pid), "its end", PATIENCE)


class Client:
    """A connection to a server that may still be starting, read by lines or by lengths."""

    def __init__(self, port: int) -> None:
        found: list[socket.socket] = []

        def tried() -> bool:
            with contextlib.suppress(ConnectionRefusedError):
                found.append(connected(("127.0.0.1", port)))
            return bool(found)

        wait_until(tried, f"somebody listens on port {port}", PATIENCE)
        self.socket = found[0]
        self.socket.settimeout(PATIENCE)
        self._file = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        """All of it."""
        self.socket.sendall(data)

    def line(self) -> bytes:
        """The next line without its end."""
        found = self._file.readline()
        check(found.endswith(b"\n"), f"the connection has ended after {found!r}")
        return found.rstrip(b"\r\n")

    def read(self, size: int) -> bytes:
        """The next `size` bytes."""
        found = self._file.read(size)
        check(len(found) == size, f"the connection has ended after {len(found)} of {size} bytes")
        return found


class Terminal:
    """bash on a terminal whose other end is this scenario."""

    def __init__(self, rows: int, columns: int) -> None:
        environment = os.environ | {"PS1": PROMPT, "TERM": "xterm", "SHELL": "/bin/sh", "HOME": os.getcwd()}
        environment |= {"LESS": "", "LESSHISTFILE": "-"}
        self.pid, self._fd = pty.fork()
        if not self.pid:
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "--noediting", "-i"], environment)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._unread = ""
        self.expect(PROMPT)

    def expect(self, text: str) -> None:
        """Wait until the terminal shows `text`; what came before it is forgotten."""
        last = time.monotonic() + PATIENCE
        while text not in self._unread:
            left = last - time.monotonic()
            check(left > 0 and self._read(left), f"the terminal shows no {text!r} but {self._unread[-1000:]!r}")
        self._unread = self._unread.partition(text)[2]

    def rest(self) -> None:
        """Wait until it shows nothing for a second: a program that begins may drop the keys that come too early."""
        while select.select([self._fd], [], [], 1.0)[0]:
            check(self._read(0), "the terminal has been closed")

    def _read(self, seconds: float) -> bool:
        if not select.select([self._fd], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self._fd, 1 << 16)
        except OSError:  # nobody has the terminal open any more
            return False
        self._unread += data.decode(errors="replace")
        return bool(data)

    def press(self, keys: str) -> None:
        """Keys, as they are."""
        os.write(self._fd, keys.encode())

    def type(self, line: str) -> None:
        """A line."""
        self.press(line + "\n")

    def job(self, name: str) -> int:
        """The PID of the shell's child of that name, once it is there."""
        found: list[int] = []

        def looked() -> bool:
            found[:] = [pid for pid in _children(self.pid) if _name(pid) == name]
            return bool(found)

        wait_until(looked, f"{name} runs", PATIENCE)
        return found[0]

    def restore(self, images: str, pid: int) -> None:
        """What was dumped elsewhere becomes a job of this terminal, and runs."""
        self.type(shlex.join([*PYCRIU, "restore", "-D", images, "--shell-job"]))
        self.expect("--shell-job")
        wait_until(lambda: _runs(pid, _names[pid]), f"{pid} is back", PATIENCE)

    def close(self) -> None:
        """Hang up."""
        os.close(self._fd)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _over(pid: int) -> bool:
    """Whether a process has ended; it is reaped, if it is ours."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    return not os.path.exists(f"/proc/{pid}")


def _runs(pid: int, name: str) -> bool:
    """Whether it is back and has been let go: just born, it is not held yet, but has no name of its own either."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return "TracerPid:\t0" in status_lines("TracerPid", pid=str(pid)) and _name(pid) == name
    return False


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
            return file.read().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="utf-8") as file:
        return [int(child) for child in file.read().split()]


def _kill_all() -> None:
    """Kill and reap all children, and those that become ours by that."""
    while True:
        for pid in _children(os.getpid()):
            os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return

# SPDX-License-Identifier: GPL-2.0-only
"""The image format is a contract: CRIU restores what pycriu has dumped, and the other way round."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests import peer
from tests.host.conftest import DEADLINE, Outcome, assert_sound, below, wait_until

if TYPE_CHECKING:
    from tests.host.conftest import Host

LOOP = "echo ready; i=0; while :; do sleep 0.05; i=$((i+1)); echo n $i; done"

# What a restore has to put back, checked by the process itself.
STATE = """
memory = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, 1 << 20, 8192):
    memory[at : at + 8] = at.to_bytes(8, "little")
file = open("data", "w+b", buffering=0)
file.write(b"0123456789")
file.seek(4)
reader, writer = os.pipe()
os.write(writer, b"in the pipe")
caught = []
signal.signal(signal.SIGUSR1, lambda *a: caught.append("USR1"))
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
os.kill(os.getpid(), signal.SIGUSR1)
signal.setitimer(signal.ITIMER_REAL, 3600)
os.umask(0o27)
resource.setrlimit(resource.RLIMIT_CORE, (4096, 8192))
pid, ppid, sid = os.getpid(), os.getppid(), os.getsid(0)
pause_for_dump()
say("memory", all(memory[at : at + 8] == at.to_bytes(8, "little") for at in range(0, 1 << 20, 8192)))
say("file", file.tell(), file.read())
say("pipe", os.read(reader, 100))
say("pending", sorted(signal.sigpending()), caught)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
say("delivered", caught)
say("timer", 3500 < signal.getitimer(signal.ITIMER_REAL)[0] < 3600)
say("umask", oct(os.umask(0)))
say("limit", resource.getrlimit(resource.RLIMIT_CORE))
say("ids", (os.getpid(), os.getsid(0)) == (pid, sid))
"""

EXPECTED = [
    "memory True",
    "file 4 b'456789'",
    "pipe b'in the pipe'",
    "pending [<Signals.SIGUSR1: 10>] []",
    "delivered ['USR1']",
    "timer True",
    "umask 0o27",
    "limit (4096, 8192)",
    "ids True",
]


@pytest.fixture(scope="module")
def criu() -> tuple[str, ...]:
    """The command of a CRIU that can dump and restore here."""
    try:
        return peer.working(peer.find(os.environ.get("CRIU"))).command
    except peer.NoPeerError as reason:
        pytest.skip(str(reason))


def run(criu: tuple[str, ...], host: Host, *words: str) -> Outcome:
    begin = time.monotonic()
    done = subprocess.run(
        [*criu, *words, "-D", str(host.images), "-v4", "-o", "criu.log"],
        cwd=host.folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    log = (host.images / "criu.log").read_text(errors="replace")
    if not done.returncode and words[0] == "dump":
        assert_sound(host.images)
    return Outcome(done.returncode, "\n".join(log.splitlines()[-20:]), time.monotonic() - begin)


def reaped(session: int) -> list[int]:
    """Reap who has ended; those of a session that are left. A zombie would keep the PID of its session taken."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return [pid for pid in below(os.getpid()) if pid == session or _session(pid) == session]


def _session(pid: int) -> int:
    """0 of one that has been waited for by now."""
    with suppress(ProcessLookupError):
        return os.getsid(pid)
    return 0


class Both:
    """A dump by one tool and a restore by the other."""

    def __init__(self, host: Host, criu: tuple[str, ...]) -> None:
        self.host, self.criu = host, criu

    def to_criu(self, subject: object) -> None:
        """pycriu dumps, CRIU restores."""
        dumped = self.host.dump(subject)  # type: ignore[arg-type]
        assert dumped.ok, dumped
        restored = run(self.criu, self.host, "restore", "-d")
        assert restored.ok, restored

    def from_criu(self, subject: object) -> None:
        """CRIU dumps, pycriu restores."""
        pid: int = subject.pid  # type: ignore[attr-defined]
        dumped = run(self.criu, self.host, "dump", "-t", str(pid))
        assert dumped.ok, dumped
        wait_until(lambda: not reaped(pid), "all of the session is gone")
        restored = self.host.restore()
        assert restored.ok, restored


WAYS = [pytest.param(Both.to_criu, id="pycriu-criu"), pytest.param(Both.from_criu, id="criu-pycriu")]


@pytest.mark.parametrize("way", WAYS)
def test_the_loop_goes_on(host: Host, criu: tuple[str, ...], way: object) -> None:
    loop = host.start("/bin/sh", "-c", LOOP)
    loop.wait_for("n 3")
    way(Both(host, criu), loop)  # type: ignore[operator]
    reached = len(loop.said())
    wait_until(lambda: len(loop.said()) > reached + 2, "the log grows again")
    said = loop.said()  # it goes on saying more
    assert said == ["ready", *(f"n {n}" for n in range(1, len(said)))]


@pytest.mark.parametrize("way", WAYS)
def test_a_process_has_what_it_had(host: Host, criu: tuple[str, ...], way: object) -> None:
    subject = host.python(STATE)
    way(Both(host, criu), subject)  # type: ignore[operator]
    assert subject.go() == EXPECTED


THREADS = """
import threading
pid = os.getpid()
over = threading.Event()
reader, writer = os.pipe()
told = {}
def portrait():
    stack = ctypes.create_string_buffer(24)
    libc.sigaltstack(None, stack)
    lines = open(f"/proc/self/task/{libc.gettid()}/status").read().splitlines()
    keep = [line for line in lines if line.split(":")[0] in ("Name", "SigBlk", "SigPnd", "Uid", "CapEff", "CapBnd")]
    return libc.gettid(), keep, stack.raw, threading.get_native_id(), libc.pthread_self() & 0xFFFF
def work(number, wait):
    libc.prctl(15, b"worker %d" % number, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGRTMIN + number, signal.SIGUSR2})
    libc.syscall(234, pid, libc.gettid(), signal.SIGRTMIN + number)  # tgkill
    stack = ctypes.create_string_buffer(32768)
    libc.sigaltstack(struct.pack("QiiQ", ctypes.addressof(stack), 0, 0, 32768), None)
    if number == 2:
        libc.prctl(24, 27, 0, 0, 0)  # drop CAP_MKNOD
    before = portrait()
    told[number] = None
    wait()
    told[number] = portrait() == before
waits = [over.wait, lambda: os.read(reader, 1), lambda: time.sleep(1.5), lambda: select.select([reader], [], [], 60)]
threads = [threading.Thread(target=work, args=one) for one in enumerate(waits)]
for one in threads: one.start()
while len(told) < 4: time.sleep(0.01)
time.sleep(0.05)
pause_for_dump()
over.set()
os.write(writer, b"xx")
for one in threads: one.join(20)
end = time.monotonic() + 20  # who has been joined is there for a moment
while len(os.listdir("/proc/self/task")) > 1 and time.monotonic() < end: time.sleep(0.01)
say("threads", sorted(told.items()), os.listdir("/proc/self/task") == [str(pid)])
"""


@pytest.mark.parametrize("way", WAYS)
def test_threads_have_what_they_had(host: Host, criu: tuple[str, ...], way: object) -> None:
    subject = host.python(THREADS)
    way(Both(host, criu), subject)  # type: ignore[operator]
    assert subject.go() == ["threads [(0, True), (1, True), (2, True), (3, True)] True"]


SHARED_TABLE = """
clone = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
reader, writer = os.pipe()
child = libc.syscall(clone, 0x400 | 17, 0, 0, 0, 0)  # CLONE_FILES
if not child:
    while not os.path.exists("go"): time.sleep(0.002)
    os._exit(os.dup(0))
pause_for_dump()
status = os.waitpid(child, 0)[1] >> 8
say("shared", os.path.sameopenfile(status, 0))
"""


@pytest.mark.parametrize("way", WAYS)
def test_processes_share_a_descriptor_table(host: Host, criu: tuple[str, ...], way: object) -> None:
    subject = host.python(SHARED_TABLE)
    way(Both(host, criu), subject)  # type: ignore[operator]
    assert subject.go() == ["shared True"]

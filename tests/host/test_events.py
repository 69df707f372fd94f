# SPDX-License-Identifier: GPL-2.0-only
"""Event descriptors in company: pidfds of threads, watches where handles lead nowhere, groups that report by name."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.host.conftest import Host

THREADS = """
import threading
def name_itself():
    fds.append(os.pidfd_open(threading.get_native_id(), os.O_EXCL))
fds = []
try:
    fds.append(os.pidfd_open(os.getpid(), os.O_EXCL))
except OSError as error:
    lacks("pidfds of threads (Linux 6.9)", error)
short = threading.Thread(target=name_itself)
short.start()
short.join()
while not select.select([fds[1]], [], [], 0)[0]: time.sleep(0.001)
pause_for_dump()
say([int(line.split()[1]) for fd in fds for line in open(f"/proc/self/fdinfo/{fd}") if line.startswith("Pid:")])
say([fd in select.select(fds, [], [], 0)[0] for fd in fds])
"""


def test_pidfds_of_threads(host: Host) -> None:
    """The first of the process, and one that has ended."""
    subject = host.python(THREADS)
    host.round_trip(subject)
    host.round_trip(subject)
    assert subject.go()[-2:] == [f"[{subject.pid}, -1]", "[False, True]"]


WATCH = """
os.chdir("merged")
x = libc.inotify_init1(os.O_NONBLOCK)
wd = libc.inotify_add_watch(x, b"d/f", 2)
os.chdir("..")
pause_for_dump()
open("merged/d/f", "a").write("x")
say(struct.unpack_from("=iI", os.read(x, 100)) == (wd, 2))
"""


@pytest.fixture
def overlay(host: Host) -> Iterator[Path]:
    """An overlayfs, which makes handles that it cannot resolve."""
    for name in ("lower/d", "upper", "work", "merged"):
        (host.folder / name).mkdir(parents=True)
    (host.folder / "lower" / "d" / "f").touch()
    options = f"lowerdir={host.folder}/lower,upperdir={host.folder}/upper,workdir={host.folder}/work"
    merged = host.folder / "merged"
    mounted = subprocess.run(
        ["mount", "-t", "overlay", "-o", options, "overlay", str(merged)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no overlayfs here: {mounted.stderr.decode().strip()}")
    (merged / "d" / "f").write_text("copied up")
    try:
        yield merged
    finally:
        subprocess.run(["umount", "-l", str(merged)], check=True)


def test_watch_on_overlayfs(host: Host, overlay: Path) -> None:
    subject = host.python(WATCH)
    host.round_trip(subject)
    assert subject.go() == ["True"]


NAMES = """
os.mkdir("folder")
group = libc.fanotify_init(2 | 0xe00, 0)
mark = libc.fanotify_mark
mark.argtypes = [ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p]
if group < 0 or mark(group, 1, 0x40000300, -100, b"folder"):
    lacks("FAN_REPORT_DFID_NAME (Linux 5.9)")
pause_for_dump()
open("folder/new", "w").close()
say(b"new\\0" in os.read(group, 4096))
"""


def test_fanotify_that_reports_names(host: Host) -> None:
    subject = host.python(NAMES)
    host.round_trip(subject)
    host.round_trip(subject)
    assert subject.go() == ["True"]


IN_FLIGHT = """
import array, socket
left, right = socket.socketpair()
counter, watcher = os.eventfd(5), select.epoll()
timer = libc.timerfd_create(1, os.O_NONBLOCK)
assert libc.timerfd_settime(timer, 0, struct.pack("qqqq", 0, 0, 1000, 0), None) == 0
watches = libc.inotify_init1(os.O_NONBLOCK)
os.mkdir("folder")
assert libc.inotify_add_watch(watches, b"folder", 0x100) == 1
kept, away = os.pipe()
watcher.register(counter, 1)
watcher.register(kept, 1)
sent = [counter, timer, watches, watcher.fileno(), os.pidfd_open(os.getpid())]
left.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", sent))])
for fd in sent[:3] + sent[4:]: os.close(fd)
watcher.close()
pause_for_dump()
_, ancillary, _, _ = right.recvmsg(10, 1000)
got = array.array("i", ancillary[0][2])
again = select.epoll.fromfd(got[3])
say("set", [fd for fd, _ in again.poll(0)] == [counter])
os.write(away, b"x")
say("set", sorted(fd for fd, _ in again.poll(0)) == sorted([counter, kept]))
say("counter", os.eventfd_read(got[0]))
spec = ctypes.create_string_buffer(32)
libc.timerfd_gettime(got[1], spec)
say("timer", 900 < struct.unpack("qqqq", spec.raw)[2] < 1000)
open("folder/new", "w")
say("watch", struct.unpack_from("=iI", os.read(got[2], 100)))
say("pidfd", f"Pid:\\t{os.getpid()}\\n" in open(f"/proc/self/fdinfo/{got[4]}").read())
"""


def test_in_flight(host: Host) -> None:
    """They were sent over a socket, closed, and are received when their task is back."""
    subject = host.python(IN_FLIGHT)
    host.round_trip(subject)
    host.round_trip(subject)
    assert subject.go() == ["set True", "set True", "counter 5", "timer True", "watch (1, 256)", "pidfd True"]


BUSY = """
watcher = select.epoll()
try:
    fcntl.ioctl(watcher, 0x40088A01, struct.pack("=IHBB", 50, 8, 1, 0))
except OSError as error:
    lacks("EPIOCSPARAMS (Linux 6.9, CONFIG_NET_RX_BUSY_POLL)", error)
pause_for_dump()
say(struct.unpack("=IHBB", fcntl.ioctl(watcher, 0x80088A02, bytes(8))))
"""


def test_busy_polling(host: Host) -> None:
    subject = host.python(BUSY)
    host.round_trip(subject)
    host.round_trip(subject)
    assert subject.go() == ["(50, 8, 1, 0)"]


ABSOLUTE = """
def timer(clock, after):
    fd = libc.timerfd_create(clock, os.O_NONBLOCK)
    at = time.clock_gettime_ns(clock) + after
    spec = struct.pack("qqqq", 0, 0, at // 10**9, at % 10**9)
    assert libc.timerfd_settime(fd, 1, spec, None) == 0
    return fd
timers = [timer(clock, 300_000_000) for clock in (0, 1, 7)]
pause_for_dump()
say([bool(select.select([fd], [], [], 0.1)[0]) for fd in timers])
say([int.from_bytes(os.read(fd, 8), "little") for fd in timers])
"""


def test_absolute_timers_that_expire_while_away(host: Host) -> None:
    """They have expired when their task is back, once."""
    subject = host.python(ABSOLUTE)
    assert host.dump(subject).ok
    time.sleep(0.4)
    assert host.restore().ok
    assert subject.go() == ["[True, True, True]", "[1, 1, 1]"]

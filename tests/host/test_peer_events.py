# SPDX-License-Identifier: GPL-2.0-only
"""CRIU restores what pycriu has dumped of event descriptors, watches, pidfds, namespaces, and the other way round."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.host.test_peer import WAYS, Both, criu  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from tests.host.conftest import Host

EVENTS = """
counter = os.eventfd(7, os.EFD_NONBLOCK)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
signals = libc.signalfd(-1, struct.pack("Q", 1 << signal.SIGUSR1 - 1), os.O_NONBLOCK)
os.kill(os.getpid(), signal.SIGUSR1)
def timer(clock, flags, value, period=0):
    fd = libc.timerfd_create(clock, os.O_NONBLOCK)
    assert libc.timerfd_settime(fd, flags, struct.pack("qqqq", period, 0, value, 0), None) == 0
    return fd
def left(fd):
    spec = ctypes.create_string_buffer(32)
    libc.timerfd_gettime(fd, spec)
    return struct.unpack("qqqq", spec.raw)
relative, absolute = timer(1, 0, 1000, 7), timer(0, 1, int(time.time()) + 1000)
ticked = libc.timerfd_create(1, os.O_NONBLOCK)
libc.timerfd_settime(ticked, 0, struct.pack("qqqq", 0, 0, 0, 1000), None)
select.select([ticked], [], [])
reader, writer = os.pipe()
watcher, outer = select.epoll(), select.epoll()
for fd, events in ((counter, 1), (signals, 1), (reader, 1 | 1 << 31), (ticked, 1)):
    watcher.register(fd, events)
outer.register(watcher.fileno(), 1)
os.mkdir("folder")
open("file", "w").close()
watches = libc.inotify_init1(os.O_NONBLOCK)
numbers = [libc.inotify_add_watch(watches, name, 0x302) for name in (b"folder", b"file")]
pidfds = [os.pidfd_open(os.getpid())]
spaces = [os.open(f"/proc/self/ns/{name}", 0) for name in ("net", "mnt", "uts")]
links = [os.readlink(f"/proc/self/fd/{fd}") for fd in spaces]
pause_for_dump()
say("left", 900 < left(relative)[2] < 1000, left(relative)[0], 900 < left(absolute)[2] <= 1000, left(ticked))
say("watched", sorted(watcher.poll(0)) == sorted((fd, 1) for fd in (counter, signals, ticked)))
say("nested", outer.poll(0) == [(watcher.fileno(), 1)])
say("counter", os.eventfd_read(counter))
say("signal", struct.unpack_from("I", os.read(signals, 128))[0] == signal.SIGUSR1)
say("ticks", int.from_bytes(os.read(ticked, 8), "little"))
os.write(writer, b"x")
say("edge", [fd for fd, _ in watcher.poll(0)] == [reader], watcher.poll(0))
open("folder/new", "w").close()
open("file", "w").write("x")
events = os.read(watches, 4096)
say("watches", struct.unpack_from("=iI", events), struct.unpack_from("=iI", events, 32), numbers)
say("pidfd", f"\\nPid:\\t{os.getpid()}\\n" in open(f"/proc/self/fdinfo/{pidfds[0]}").read())
say("namespaces", [os.readlink(f"/proc/self/fd/{fd}") for fd in spaces] == links)
"""

EXPECTED = [
    "left True 7 True (0, 0, 0, 0)",
    "watched True",
    "nested True",
    "counter 7",
    "signal True",
    "ticks 1",
    "edge True []",
    "watches (1, 256) (2, 2) [1, 2]",
    "pidfd True",
    "namespaces True",
]

FANOTIFY = """
os.mkdir("folder")
group = libc.fanotify_init(2, 0)
mark = libc.fanotify_mark
mark.argtypes = [ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p]
assert mark(group, 1, 0x08000002, -100, b"folder") == 0 and mark(group, 0x11, 0x1000, -100, b"/proc") == 0
def marks():
    return sorted(line for line in open(f"/proc/self/fdinfo/{group}") if line.startswith("fanotify"))
before = marks()
pause_for_dump()
say("marks", marks() == before)
open("folder/new", "w").write("x")
say("event", hex(struct.unpack_from("=IBBHQ", os.read(group, 4096))[4]))
"""


@pytest.mark.parametrize("way", WAYS)
def test_events(host: Host, criu: tuple[str, ...], way: object) -> None:  # noqa: F811
    subject = host.python(EVENTS)
    way(Both(host, criu), subject)  # type: ignore[operator]
    assert subject.go() == EXPECTED


@pytest.mark.parametrize("way", WAYS)
def test_fanotify(host: Host, criu: tuple[str, ...], way: object) -> None:  # noqa: F811
    subject = host.python(FANOTIFY)
    way(Both(host, criu), subject)  # type: ignore[operator]
    assert subject.go() == ["marks True", "event 0x2"]

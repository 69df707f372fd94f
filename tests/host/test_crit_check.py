# SPDX-License-Identifier: GPL-2.0-only
"""`crit check` on real checkpoints: nothing is found in a good one, and every fault in one into which it is planted."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import pytest

from pycriu.crit import cli
from tests import clients
from tests.faults import plant_all, stem_of
from tests.host.conftest import Host
from tests.unit.test_crit_peer import ask, renamed

# A family that has one of nearly everything.
PROGRAM = """
import array, pty, socket, tempfile, threading
keep = []
def child(what):
    pid = os.fork()
    if not pid:
        what()
    return pid
def wait():
    while True:
        time.sleep(60)
one, two = socket.socketpair()
one.sendmsg([b"with a file"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))])
listener = socket.socket(socket.AF_UNIX)
listener.bind("socket")
listener.listen()
inet, six, udp = socket.socket(), socket.socket(socket.AF_INET6), socket.socket(type=socket.SOCK_DGRAM)
inet.bind(("127.0.0.1", 0))
inet.listen()
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
keep += [one, two, listener, inet, six, udp, netlink]
reader, writer = os.pipe()
os.write(writer, b"in the pipe")
packets = os.pipe2(os.O_DIRECT)
os.write(packets[1], b"abc")
os.write(packets[1], b"de")
os.mkfifo("fifo")
fifo = os.open("fifo", os.O_RDWR)
os.write(fifo, b"in the fifo")
counter = os.eventfd(3, os.EFD_SEMAPHORE)
watching = select.epoll()
watching.register(counter, select.EPOLLIN)
watching.register(reader, select.EPOLLIN)
closed = os.dup(writer)
watching.register(closed, select.EPOLLOUT)
os.close(closed)
libc.timerfd_settime(libc.timerfd_create(1, 0), 1, struct.pack("qqqq", 5, 0, 1 << 30, 0), None)
libc.signalfd(-1, struct.pack("Q", 1 << 9), 8)
notes = libc.inotify_init()
libc.inotify_add_watch(notes, b"/", 0x100)
libc.inotify_add_watch(notes, b"/usr", 0x100)
master, slave = pty.openpty()
os.write(master, b"a line\\n")
gone = open("gone", "w+b", buffering=0)
gone.write(b"deleted")
os.unlink("gone")
empty = os.open("empty", os.O_CREAT | os.O_RDWR)
os.write(empty, b"x")
fcntl.flock(empty, fcntl.LOCK_EX)
memfd = os.memfd_create("some", os.MFD_ALLOW_SEALING)
os.write(memfd, b"memory")
os.ftruncate(memfd, 8192)
shared = mmap.mmap(-1, 1 << 16)
shared[:6] = b"shared"
private = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, 1 << 20, 1 << 14):
    private[at] = 1
mapped = mmap.mmap(memfd, 4096)
timer = ctypes.c_int()
libc.timer_create(1, struct.pack("qii48x", 0, 10, 0), ctypes.byref(timer))
libc.timer_settime(timer, 0, struct.pack("qqqq", 7, 0, 1 << 20, 5), None)
signal.setitimer(signal.ITIMER_VIRTUAL, 3600)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
os.kill(os.getpid(), signal.SIGUSR2)
libc.prctl(29, 123456)
at = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(private)))
libc.mlock2(at, ctypes.c_size_t(8192), 1)
code = struct.pack("HBBI", 6, 0, 0, 0x7fff0000)
program = ctypes.create_string_buffer(code, len(code))
fprog = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 1, ctypes.addressof(program)), 16)
libc.prctl(38, 1, 0, 0, 0)
libc.prctl(22, 2, fprog)
living = child(wait)
pidfd = os.pidfd_open(living)
stopped = child(lambda: (os.kill(os.getpid(), signal.SIGSTOP), wait()))
dead = child(lambda: os._exit(3))
os.waitid(os.P_PID, dead, os.WEXITED | os.WNOWAIT)
os.waitid(os.P_PID, stopped, os.WSTOPPED | os.WNOWAIT)
threading.Thread(target=wait, daemon=True).start()
time.sleep(0.1)
ready()
wait()
"""

# What the program must have left in the images, or the test plants less than it says.
WANTED = {
    "pstree", "core", "ids", "mm", "fs", "fdinfo", "files", "pagemap", "pagemap-shmem", "pages", "seccomp", "memfd",
    "remap-fpath", "ghost-file", "sk-queues", "pipes-data", "fifo-data", "tty-info", "tty-data", "filelocks",
    "inventory", "pycriu-files", "pycriu-task", "pycriu-memory", "pycriu-eventfd", "pycriu-timerfd", "pycriu-epoll",
    "pycriu-packets", "pycriu-sockets", "pycriu-tty",
}  # fmt: skip


def test_every_fault_that_is_planted_is_found(host: Host) -> None:
    subject = host.python(PROGRAM)
    assert host.dump(subject, "--leave-running", "-l").ok  # which looks whether anything is found in it
    stems = {stem_of(path.name) for path in host.images.iterdir()}
    assert stems >= WANTED, WANTED - stems
    spoilt = Path(shutil.copytree(host.images, host.folder / "spoilt"))
    planted, missed = plant_all(host.images, spoilt)
    assert missed == []
    assert planted > 900


def test_every_image_comes_back_byte_for_byte_and_reads_as_by_criu(host: Host) -> None:
    subject = host.python(PROGRAM)
    assert host.dump(subject, "--leave-running", "-l").ok
    text, back = host.folder / "text", host.folder / "back"
    assert cli.main(["decode", "-i", str(host.images), "-o", str(text)]) == 0
    assert cli.main(["encode", "-i", str(text), "-o", str(back)]) == 0
    written = {path.name: path.read_bytes() for path in back.iterdir()}
    images = {path.name: path.read_bytes() for path in host.images.iterdir() if not path.name.startswith("pages-")}
    assert written == images
    assert len(images) > 40
    for what in ("ps", "tree", "fds", "mems", "rss", "sockets", "timers", "signals"):
        assert cli.main(["x", str(host.images), what]) == 0
    try:
        upstream = clients.find()
    except clients.NotHadError as reason:
        pytest.skip(f"compared with nothing: {reason}")
    theirs = [name for name in sorted(images) if not name.startswith("pycriu-")]
    questions = [("decode", name, base64.b64encode(images[name]).decode()) for name in theirs]
    for name, said in zip(theirs, ask(upstream, host.folder, questions), strict=True):
        assert said is not None, name
        assert renamed(json.loads(text.read_text())[name]) == renamed(json.loads(said)), name

# SPDX-License-Identifier: GPL-2.0-only
"""What event descriptors, watches, pidfds and namespaces cannot keep, and descriptors that nothing can: each is refused
by number, kind and owner, and its task goes on as if nothing had been asked."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.host.conftest import Host

CALL = """
def have(fd):
    if fd < 0:
        lacks(KIND)
    return fd
def opened(path):
    try:
        return os.open(path, os.O_RDWR)
    except OSError as error:
        lacks(KIND, error)
"""

# Kind → code that makes one as descriptor x, words of the refusal.
REFUSED = {
    "io_uring": ("p = ctypes.create_string_buffer(120)\nx = have(libc.syscall(425, 4, p))", ("an io_uring",)),
    "userfaultfd": ("x = have(libc.syscall(323, 0x80001))", ("a userfaultfd",)),
    "bpf map": ("x = have(libc.syscall(321, 0, struct.pack('IIII', 2, 4, 8, 1) + bytes(112), 128))", ("a BPF map",)),
    "bpf program": (
        "code = ctypes.create_string_buffer(struct.pack('=QQ', 0x00000000000000b7, 0x0000000000000095))\n"
        "text = ctypes.create_string_buffer(b'GPL')\n"
        "load = struct.pack('IIQQ', 1, 2, ctypes.addressof(code), ctypes.addressof(text)) + bytes(104)\n"
        "x = have(libc.syscall(321, 5, load, 128))",
        ("a BPF program",),
    ),
    "perf": (
        "x = have(libc.syscall(298, struct.pack('IIQ', 1, 128, 0) + bytes(112), 0, -1, -1, 0))",
        ("a performance counter",),
    ),
    "kvm": ("x = opened('/dev/kvm')", ("KVM",)),
    "seccomp listener": (
        "libc.prctl(38, 1, 0, 0, 0)\npid = os.fork()\n"
        "if pid == 0: time.sleep(60)\n"
        "prog = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0x7fff0000))\n"
        "fprog = struct.pack('HxxxxxxQ', 1, ctypes.addressof(prog))\n"
        "x = have(libc.syscall(317, 1, 8, fprog))", ("seccomp",)
    ),
    "landlock": ("x = have(libc.syscall(444, struct.pack('Q', 1), 8, 0))", ("a Landlock ruleset",)),
    "fsopen": ("x = have(libc.syscall(430, b'tmpfs', 0))", ("a file system that is being set up",)),
    "detached mount": ("x = have(libc.syscall(428, -100, b'.', 1))", ("mount",)),
    "mount to be": (
        "f = have(libc.syscall(430, b'tmpfs', 0))\nlibc.syscall(431, f, 6, None, None, 0)\n"
        "x = have(libc.syscall(432, f, 0, 0))\nos.close(f)",
        ("mount",),
    ),
    "notification pipe": (
        "p = (ctypes.c_int * 2)()\nx = have(-1 if libc.pipe2(p, os.O_EXCL) else p[0])", ("notification",)
    ),
    "secret memory": ("x = have(libc.syscall(447, 0))", ("secret memory",)),
    "fuse": ("x = opened('/dev/fuse')", ("FUSE",)),
    "real-time clock": ("x = opened('/dev/rtc0')", ("real-time clock",)),
    "loop control": (
        "x = opened('/dev/loop-control')", ("loop devices",)
    ),
    "other network namespace": (
        "r, w = os.pipe()\npid = os.fork()\n"
        "if pid == 0:\n    os.write(w, b'x' if libc.unshare(0x40000000) == 0 else b'-')\n    time.sleep(60)\n"
        "done = os.read(r, 1)\nx = have(os.open(f'/proc/{pid}/ns/net', 0) if done == b'x' else -1)\n"
        "os.kill(pid, 9)\nos.waitpid(pid, 0)", ("net:[", "namespace that the tree is not in")
    ),
    "unread inotify events": (
        "x = libc.inotify_init1(0)\nlibc.inotify_add_watch(x, b'.', 0x100)\nopen('new', 'w')",
        ("inotify", "nobody has read"),
    ),
    "deleted watched file": (
        "x = libc.inotify_init1(0)\nf = open('f', 'w')\nlibc.inotify_add_watch(x, b'f', 2)\nos.unlink('f')",
        ("inotify", "deleted"),
    ),
    "fanotify that decides": (
        "x = have(libc.fanotify_init(4, 0))\nos.mkdir('d')\nmark = libc.fanotify_mark\n"
        "mark.argtypes = [ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p]\n"
        "if mark(x, 1, 0x10000, -100, b'd'): lacks(KIND)", ("fanotify", "decides")
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_by_number_kind_and_owner(host: Host, kind: str) -> None:
    body, needles = REFUSED[kind]
    subject = host.python(f"KIND = {kind!r}{CALL}{body}\nsay('number', x)\npause_for_dump()\nsay('ok')")
    number = next(line.split()[1] for line in subject.said() if line.startswith("number"))
    owner = [f"descriptor {number} of process {subject.pid}"] if kind != "seccomp listener" else []
    host.refused(subject, *needles, *owner)  # the filter is refused before its listener is seen
    assert subject.go() == ["ok"]


def test_pidfd_of_an_outsider(host: Host) -> None:
    outsider = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    subject = host.python(f"x = os.pidfd_open({outsider.pid})\nsay('number', x)\npause_for_dump()\nsay('ok')")
    host.refused(subject, "pidfd", f"process {outsider.pid}", "outside the tree")
    outsider.communicate()
    assert host.dump(subject, "-R").ok, "a process that has ended is nobody's"
    assert subject.go() == ["ok"]


def test_watch_of_a_file_that_only_an_outsider_has(host: Host) -> None:
    """It was closed after a descriptor of it had been handed on."""
    reader, writer = os.pipe()
    subject = host.python(
        f"e = select.epoll()\ne.register({reader}, 1)\nos.close({reader})\nx = e.fileno()\npause_for_dump()\nsay('ok')",
        pass_fds=(reader,),
    )
    host.refused(subject, f"descriptor {reader} ", "outside the tree only", "eventpoll")
    assert subject.go() == ["ok"]
    os.close(reader)
    os.close(writer)


def test_signalfd_watched_under_a_number_that_is_closed(host: Host) -> None:
    subject = host.python(
        "s = libc.signalfd(-1, struct.pack('Q', 1 << 9), 0)\nt = os.dup(s)\ne = select.epoll()\ne.register(s, 1)\n"
        "os.close(s)\npause_for_dump()\nsay('ok')"
    )
    host.refused(subject, "signalfd", "eventpoll")
    assert subject.go() == ["ok"]


def test_restore_without_what_was_watched(host: Host) -> None:
    """Said before any task exists; with the file back, all is well."""
    subject = host.python(
        "open('f', 'w')\nx = libc.inotify_init1(0)\nlibc.inotify_add_watch(x, b'f', 2)\npause_for_dump()\nsay('ok')"
    )
    assert host.dump(subject).ok
    (host.folder / "f").unlink()
    outcome = host.restore()
    assert not outcome.ok
    assert f"{host.folder}/f" in outcome.errors()
    (host.folder / "f").touch()
    assert host.restore().ok
    assert subject.go() == ["ok"]

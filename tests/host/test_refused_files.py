# SPDX-License-Identifier: GPL-2.0-only
# ruff: noqa: E501 - the tables of small programs read better one to a line
"""Open files that cannot be kept, or not without an option, are refused by name, and whoever has them goes on unharmed."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.host.conftest import Host

# name: what the subject does, words of the message
UNSUPPORTED = {
    "a large deleted file": (
        "x = open('gone', 'wb', buffering=0)\nx.write(bytes(1 << 20) + b'x')\nos.unlink('gone')",
        ("/gone", "more than the limit of 1048576", "--ghost-limit 2M"),
    ),
    "a deleted name of a file with another": (
        "x = open('one', 'w')\nos.link('one', 'two')\nos.unlink('one')", ("/one", "1 other name", "--link-remap"),
    ),
    "a deleted socket's name": (
        "import socket\ns = socket.socket(socket.AF_UNIX)\ns.bind('sock')\nx = os.open('sock', os.O_PATH)\ns.close()\nos.unlink('sock')",
        ("/sock", "deleted device or socket"),
    ),
    "flock": ("x = open('l', 'w')\nfcntl.flock(x, fcntl.LOCK_EX)", ("/l", "FLOCK", "--file-locks")),
    "POSIX lock": ("x = open('l', 'w')\nfcntl.lockf(x, fcntl.LOCK_EX)", ("/l", "POSIX", "--file-locks")),
    "OFD lock": (
        "x = open('l', 'w')\nfcntl.fcntl(x, 37, struct.pack('=hh4xqqi4x', 1, 0, 0, 0, 0))", ("/l", "OFDLCK", "--file-locks"),
    ),
    "lease": ("x = open('l', 'w')\nfcntl.fcntl(x, fcntl.F_SETLEASE, fcntl.F_WRLCK)", ("/l", "LEASE", "--file-locks")),
    "proc of another process": ("x = open('/proc/1/stat')", ("/proc/1/stat", "process 1", "outside the tree")),
    "directory of another process": ("x = os.open('/proc/1', os.O_RDONLY)", ("/proc/1", "outside the tree")),
    "proc of a dead child": (
        "p = os.fork()\nif not p: os._exit(0)\nx = open(f'/proc/{p}/stat')\nos.waitpid(p, 0)", ("/stat", "has ended"),
    ),
    "thread in proc": (
        "import threading\nt = threading.Thread(target=wait_for_go)\nt.start()\nx = open(f'/proc/self/task/{t.native_id}/stat')",
        ("/task/", "part of a thread"),
    ),
    "descriptor in proc": ("y = os.open('/proc/self/fdinfo/0', os.O_RDONLY)", ("/fdinfo/0", "descriptor or a mapping")),
    "working directory in proc": (
        "go = os.path.abspath('go')\nos.chdir('/proc/self')\ndef wait_for_go():\n    while not os.path.exists(go): time.sleep(0.002)",
        ("working directory", "part of a process"),
    ),
    "kernel log": ("x = os.open('/dev/kmsg', os.O_RDONLY)", ("/dev/kmsg", "messages of the kernel before it")),
    "block device": (
        "import glob\nd = [n for n in glob.glob('/dev/*') if (os.stat(n).st_mode & 0o170000) == 0o60000]\n"
        "try: x = os.open(d[0], os.O_RDONLY)\nexcept (IndexError, OSError) as e: lacks('a block device', e)",
        ("block device",),
    ),
    "owner outside": ("x = os.pipe()\nfcntl.fcntl(x[0], fcntl.F_SETOWN, 1)", ("pipe", "task 1", "F_SETOWN", "outside the tree")),
    "a file whose name is no UTF-8": ("x = open(b'\\xff\\xfe', 'w')\nos.unlink(b'\\xff\\xfe')", ("UTF-8",)),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_unsupported_is_named(host: Host, kind: str) -> None:
    body, needles = UNSUPPORTED[kind]
    host.refused_by_name(body, *needles)


def test_pipe_that_somebody_outside_has_open_too(host: Host) -> None:
    """Both ends are in the tree, and one of them is ours as well."""
    reader, writer = os.pipe()
    try:
        subject = host.python(f"pause_for_dump()\nsay(os.read({reader}, 9))", pass_fds=(reader, writer))
        outcome = host.refused(subject, "pipe", f"process {os.getpid()} outside the tree")
        assert f"descriptor {reader}" in outcome.errors()
        os.write(writer, b"through")
        assert subject.go() == ["b'through'"]
    finally:
        os.close(reader)
        os.close(writer)


def test_fifo_with_data_that_somebody_outside_has_open_too(host: Host) -> None:
    os.mkfifo(host.folder / "fifo")
    ours = os.open(host.folder / "fifo", os.O_RDWR)
    try:
        os.write(ours, b"whose?")
        subject = host.python("x = os.open('fifo', os.O_RDONLY)\npause_for_dump()\nsay(os.read(x, 9))")
        host.refused(subject, "/fifo", "6 bytes in flight", f"process {os.getpid()}")
        assert subject.go() == ["b'whose?'"]
    finally:
        os.close(ours)


CHANGES = {
    "size": (lambda path: path.write_text("longer than before"), ("18 bytes", "it was 7")),
    "mode": (lambda path: path.chmod(0o601), ("mode 0601", "it had 0600", "--skip-file-rwx-check")),
    "written to": (
        lambda path: path.write_text("another"),
        ("written to since the dump", "--file-validation filesize"),
    ),
    "type": (lambda path: (path.unlink(), path.mkdir()), ("no longer a file of the same type",)),
    "gone": (lambda path: path.unlink(), ("No such file",)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_file_that_changed_since_the_dump(host: Host, change: str) -> None:
    """It is named with the difference before any task exists; as it was, the same checkpoint restores."""
    path = host.folder / "data"
    path.write_text("content")
    path.chmod(0o600)
    before = path.stat()
    subject = host.python("x = open('data')\npause_for_dump()\nsay(x.read())")
    assert host.dump(subject).ok
    act, needles = CHANGES[change]
    act(path)
    refused = host.restore()
    assert not refused.ok
    for needle in (str(path), *needles):
        assert needle in refused.errors(), refused
    if path.is_dir():
        path.rmdir()
    path.write_text("content")
    path.chmod(0o600)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    restored = host.restore()
    assert restored.ok, restored
    assert subject.go() == ["content"]


def test_file_that_is_newer_but_the_same(host: Host) -> None:
    """A file that is only read may have been unpacked again; one that was written to must be the very one."""
    for name in ("read", "written"):
        (host.folder / name).write_text("content")
    subject = host.python("x, y = open('read'), open('written', 'r+')\npause_for_dump()\nsay(x.read(), y.read())")
    assert host.dump(subject).ok
    (host.folder / "read").write_text("content")
    (host.folder / "written").write_text("content")
    assert "/written has been written to" in host.restore().errors()
    restored = host.restore("--file-validation", "filesize")
    assert restored.ok, restored
    assert subject.go() == ["content content"]


def test_options_say_what_must_match(host: Host) -> None:
    path = host.folder / "data"
    path.write_text("content")
    subject = host.python("x = open('data')\npause_for_dump()\nsay(x.read())")
    dumped = host.dump(subject, "--file-validation", "checksum")
    assert dumped.ok, dumped
    path.write_text("another")
    path.chmod(0o600)
    assert "another content" in host.restore("--file-validation", "checksum", "--skip-file-rwx-check").errors()
    path.write_text("content")
    restored = host.restore("--file-validation", "checksum", "--skip-file-rwx-check")
    assert restored.ok, restored
    assert subject.go() == ["content"]


def test_checksum_that_was_never_taken(host: Host) -> None:
    subject = host.python("pause_for_dump()")
    assert host.dump(subject).ok
    assert "no checksum" in host.restore("--file-validation", "checksum").errors()


def test_lock_that_somebody_else_has_by_now(host: Host) -> None:
    import fcntl

    subject = host.python("x = open('l', 'w')\nfcntl.flock(x, fcntl.LOCK_EX)\npause_for_dump()\nsay('ok')")
    dumped = host.dump(subject, "--file-locks")
    assert dumped.ok, dumped
    with open(host.folder / "l") as theirs:
        fcntl.flock(theirs, fcntl.LOCK_SH)
        refused = host.restore("--file-locks")
        assert not refused.ok
        assert "/l is locked by somebody else" in refused.errors(), refused
    restored = host.restore("--file-locks")
    assert restored.ok, restored
    assert subject.go() == ["ok"]


def test_more_descriptors_than_we_may_have(host: Host) -> None:
    """The limit is told before a task exists; a process may have as many files as ours, but not twice as many."""
    subject = host.python(
        "resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))\nx = [os.open('/dev/null', 0) for _ in range(900)]\n"
        "pause_for_dump()\nsay(len(x))"
    )
    assert host.dump(subject).ok
    small = f"ulimit -n 1024; exec {' '.join(host.command('restore', '-d', '-D', str(host.images), '-o', '-'))}"
    done = subprocess.run(["sh", "-c", small], cwd=host.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "descriptors, of which pycriu may have 1024" in done.stdout + done.stderr, done
    restored = host.restore()
    assert restored.ok, restored
    assert subject.go() == ["900"]

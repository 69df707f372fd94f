# SPDX-License-Identifier: GPL-2.0-only
"""Children that undo or finish something for us: a signal at the moment of their birth does not keep them from it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Ctrl-C finds the child when it is not yet in a session of its own. Whoever leaves by the exception says so.
BEGIN = """
import ctypes, functools, os, signal, socket
os.register_at_fork(after_in_child=functools.partial(ctypes.CDLL(None)["raise"], signal.SIGINT))
def begin():
    {}
try:
    begin()
    os.write(1, b"went on\\n")
except KeyboardInterrupt:
    os.write(1, b"left\\n")
"""
BEGINNINGS = {
    "queues": """
    from pycriu.fds import queues
    one, _ = socket.socketpair()
    with queues.guarded([one.fileno()]):
        one.setsockopt(1, 42, 7)
    assert one.getsockopt(1, 42) == -1""",
    "eventfd": """
    from pycriu.fds import eventfd
    fd = os.eventfd(5)
    assert not eventfd.ask_semaphore(fd)
    assert os.eventfd_read(fd) == 5""",
    "connections": """
    from pycriu.fds.inet import connections
    hold = connections.Hold([], None, [])
    hold.thaw()""",
    "deleted": """
    from pycriu.fds import deleted
    os.mknod("name")
    deleted.Promise(["name"]).drop()
    assert not os.path.exists("name")""",
}


@pytest.mark.parametrize("name", BEGINNINGS)
def test_a_signal_at_birth(name: str, tmp_path: Path) -> None:
    code = BEGIN.format(BEGINNINGS[name])
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "went on\n"), done.stderr


def test_a_signal_to_us_while_a_child_is_born() -> None:
    """It is ours all the same, and no child is left behind."""
    code = """
import os, signal
from pycriu.kernel import libc
os.register_at_fork(before=lambda: os.kill(os.getpid(), signal.SIGINT))
try:
    if not libc.fork_deaf():  # it may come so far before it is ended
        os._exit(0)
    os.write(1, b"unheard\\n")
except KeyboardInterrupt:
    os.write(1, b"heard\\n")
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    os.write(1, b"nobody\\n")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "heard\nnobody\n", done.stderr

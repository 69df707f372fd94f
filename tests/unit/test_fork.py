# SPDX-License-Identifier: GPL-2.0-only
"""Forks by clone3(2) itself, of an interpreter with threads: the Python API is called by such programs, too."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, threading
from pycriu.kernel import libc

def work():
    while True:
        pass

for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
for _ in range(50):
    pid = libc.fork()
    if pid == 0:
        os.getppid()
        os.write(1, b".")
        os._exit(7)
    assert os.waitpid(pid, 0)[1] == 7 << 8
os._exit(0)
"""


def test_a_child_does_not_wait_for_threads_that_it_does_not_have() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"." * 50), done.stderr.decode()

# SPDX-License-Identifier: GPL-2.0-only
"""fork(2) into a PID namespace of its own (pid_namespaces(7)): who is asked to is not in it, but its child is PID 1."""

from __future__ import annotations

import os

from pycriu.errors import KernelError
from pycriu.kernel import libc

CLONE_NEWPID = 0x20000000


def fork() -> int:
    """As os.fork. What this thread forks later comes into its own namespace again. KernelError where it cannot be."""
    with open("/proc/thread-self/ns/pid_for_children") as own:
        libc.call("unshare", CLONE_NEWPID)
        child = -1
        try:
            child = os.fork()
        except OSError as error:
            raise KernelError("fork", error.errno or 0, "the init of a PID namespace") from None
        finally:
            if child:
                libc.call("setns", own.fileno(), CLONE_NEWPID)
    return child

# SPDX-License-Identifier: GPL-2.0-only
"""Descriptors for the namespaces that the tree is in.

Missing: namespaces that the tree is not in (refused).
"""

import os
from collections.abc import Iterator

import victim


def scenario() -> Iterator[victim.Damage]:
    fds = {name: os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in sorted(os.listdir("/proc/self/ns"))}
    victim.check("net" in fds and "mnt" in fds, f"namespaces: {list(fds)}")
    path = os.open("/proc/self/ns/net", os.O_PATH)
    yield lambda: os.dup2(fds["mnt"], fds["net"])
    for name, fd in fds.items():
        link = f"/proc/self/ns/{name}"
        victim.equal(os.readlink(f"/proc/self/fd/{fd}"), os.readlink(link), f"the {name} namespace")
        victim.equal(os.fstat(fd).st_ino, os.stat(link).st_ino, f"the inode of the {name} namespace")
    victim.equal(os.readlink(f"/proc/self/fd/{path}"), os.readlink("/proc/self/ns/net"), "the one that is only a path")


victim.play(scenario)

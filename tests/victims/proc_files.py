# SPDX-License-Identifier: GPL-2.0-only
"""Files of /proc and /sys: those of the task itself, of its child and of its parent, /proc/self/mem with a position,
directories of a task, a sysctl.
"""

import ctypes
import os
import time
from collections.abc import Iterator

import victim


def scenario() -> Iterator[victim.Damage]:
    turn, my_turn = os.pipe()
    parent = os.getpid()
    child = victim.child(lambda: look_at_parent(turn, my_turn, parent))
    os.close(turn)
    own = os.open("/proc/self/status", os.O_RDONLY)
    os.read(own, 6)
    childs = os.open(f"/proc/{child}/stat", os.O_RDONLY)
    folder = os.open(f"/proc/{child}", os.O_RDONLY | os.O_DIRECTORY)
    fds = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY)
    word = ctypes.create_string_buffer(b"before")
    memory = os.open("/proc/self/mem", os.O_RDWR)
    os.lseek(memory, ctypes.addressof(word), os.SEEK_SET)
    sysctl = os.open("/proc/sys/kernel/ostype", os.O_RDONLY)
    sysfs = os.open("/sys/kernel/mm", os.O_RDONLY | os.O_DIRECTORY) if os.path.isdir("/sys/kernel/mm") else -1
    victim.wait_until(lambda: victim.sleeping(child), "the child waits")
    yield lambda: os.lseek(own, 0, os.SEEK_SET)
    with open("/proc/self/comm", "rb") as name:
        victim.equal(os.read(own, 100)[: len(name.read())].split()[0][:3], b"pyt", "the rest of the own status")
    victim.equal(os.read(childs, 100).split()[0], str(child).encode(), "the PID in the child's stat")
    victim.check("status" in os.listdir(folder), "the child's directory")
    victim.check(str(fds) in os.listdir(fds), "the directory of the own descriptors")
    victim.equal(os.read(memory, 6), b"before", "what /proc/self/mem reads at its position")
    os.pwrite(memory, b"after!", ctypes.addressof(word))
    victim.equal(word.value, b"after!", "what was written through /proc/self/mem")
    victim.equal(os.read(sysctl, 10), b"Linux\n", "the sysctl")
    victim.check(sysfs < 0 or bool(os.listdir(sysfs)), "the directory of /sys")
    os.write(my_turn, b"x")
    victim.join(child, "the child that has its parent's stat open")


def look_at_parent(turn: int, my_turn: int, parent: int) -> None:
    os.close(my_turn)
    fd = os.open(f"/proc/{parent}/stat", os.O_RDONLY)
    os.read(turn, 1)
    victim.equal(os.read(fd, 100).split()[0], str(parent).encode(), "the PID in the parent's stat")
    time.sleep(0)


victim.play(scenario)

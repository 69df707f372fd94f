# SPDX-License-Identifier: GPL-2.0-only
"""What /proc says a process is: pid, program, arguments, environment, auxiliary vector, name, memory landmarks.

Kept: name, program, arguments, environment, auxiliary vector
"""

import os
import sys
from collections.abc import Iterator

import victim

FILES = ("cmdline", "environ", "auxv", "comm", "personality", "oom_score_adj", "timerslack_ns")


def scenario() -> Iterator[victim.Damage]:
    if "renamed" not in sys.argv:  # once more, with arguments and an environment of our own
        where = os.path.abspath(sys.argv[0])
        os.execve(sys.executable, [sys.executable, "-S", where, "renamed", "", "two words"], {"WORD": "é", "EMPTY": ""})
    with open("/proc/self/comm", "w", encoding="utf-8") as comm:
        comm.write("victim-name")
    before = facts()
    yield rename
    after = facts()
    for name, value in before.items():
        victim.equal(after[name], value, name)
    victim.equal(os.environ["WORD"], "é", "the environment in memory")


def rename() -> None:
    with open("/proc/self/comm", "w", encoding="utf-8") as comm:
        comm.write("other")


def facts() -> dict[str, object]:
    found: dict[str, object] = {"pid": os.getpid(), "tid": os.readlink("/proc/thread-self").rpartition("/")[2]}
    found["exe"] = os.readlink("/proc/self/exe")
    for name in FILES:
        try:
            with open(f"/proc/self/{name}", "rb") as file:
                found[name] = file.read()
        except FileNotFoundError:  # a kernel configured without it
            found[name] = None
    with open("/proc/self/stat", encoding="utf-8") as stat:
        fields = stat.read().rpartition(") ")[2].split()
    # startcode, endcode, startstack; start_data, end_data, start_brk, arg_start, arg_end, env_start, env_end
    found["memory landmarks"] = fields[23:26] + fields[42:49]
    return found


victim.play(scenario)

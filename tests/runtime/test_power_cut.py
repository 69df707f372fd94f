# SPDX-License-Identifier: GPL-2.0-only
"""A checkpoint on the data disk outlives a power cut: dump, kill the emulator, boot again on the same disk, restore.

A clock that counts from the boot goes on where it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from layer.target import bootfile, guest, looplog
from layer.target.shell import Shell
from layer.target.simpleloop import Loop

CLOCK = """
import time
log = open("/data/clock/log", "a")
while True:
    print(time.clock_gettime(time.CLOCK_MONOTONIC), file=log, flush=True)
    time.sleep(0.2)
"""


class Clock:
    """A program in the guest that writes down what its monotonic clock shows, in /data/clock."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell

    def start(self) -> None:
        """Until it has written something."""
        self.shell.run(f"mkdir /data/clock; cat >/data/clock/clock.py <<'END'\n{CLOCK}END")
        line = "echo $$ >pid; exec python3 clock.py"
        self.shell.run(f"cd /data/clock && (setsid sh -c '{line}' </dev/null >/dev/null 2>&1 &)")
        self._await(1)

    def dump(self) -> None:
        """And end it."""
        self.shell.run("cd /data/clock && mkdir images && pycriu dump -D images -t $(cat pid)", timeout=90)

    def restore(self, lines: int) -> None:
        """Until it has written more than `lines`."""
        self.shell.run("cd /data/clock && pycriu restore -d -D images", timeout=90)
        self.shell.run("[ $(readlink /proc/$(cat /data/clock/pid)/ns/time) != $(readlink /proc/self/ns/time) ]")
        self._await(lines + 1)

    def _await(self, lines: int) -> None:
        told = f"[ -e log ] && [ $(wc -l <log) -ge {lines} ]"
        self.shell.run(f"cd /data/clock; n=0; until {told} || [ $n -ge 300 ]; do sleep 0.2; n=$((n+1)); done; {told}")

    def shown(self) -> list[float]:
        """What it has written, in seconds."""
        return [float(line) for line in self.shell.out("cat /data/clock/log").split()]


@pytest.mark.parametrize("mounted", ["sync", "async"])
def test_the_loop_goes_on_after_a_power_cut(
    boot: bootfile.Boot,
    options: guest.Options,
    boots: Callable[[bootfile.Boot, guest.Options], AbstractContextManager[guest.Guest]],
    mounted: str,
) -> None:
    """`async`: the disk as most systems mount it; the images are safe only because the dump saw to it."""
    logs = options.logs / mounted
    logs.mkdir(parents=True, exist_ok=True)
    once = dataclasses.replace(options, keep=False, logs=logs / "before", disk=guest.scratch_disk(boot, logs))
    with boots(boot, once) as first:
        first.shell.run(f"mount -o remount,{mounted} /data")
        loop = Loop(first.shell, "/data/loop")
        pid = loop.start()
        loop.grown(0)
        # The application's own files are its own business: what it wrote must be on the disk before the dump.
        first.shell.run("sync", timeout=60)
        loop.dump(pid)
        text = loop.log()
        clock = Clock(first.shell)
        clock.start()
        clock.dump()
        shown = clock.shown()
        fsync = "fsync /data/loop/test.log /data/loop /data/clock/log /data/clock/pid /data/clock"
        first.shell.run(fsync if mounted == "async" else "true")
        first.power_cut()

    with boots(boot, dataclasses.replace(once, logs=logs / "after")) as second:
        loop = Loop(second.shell, "/data/loop")
        assert loop.pids() == []
        assert loop.log() == text
        second.shell.run("cd /data/loop", inside=True)
        loop.restore()
        assert loop.pids() == [pid]
        before = len(looplog.stamps(text))
        after = loop.grown(before)
        assert loop.log().startswith(text)
        assert [gap.after for gap in looplog.gaps(after, int(4 + second.slowness))] in ([before], [])
        clock = Clock(second.shell)
        clock.restore(len(shown))
        assert clock.shown()[: len(shown)] == shown
        went_on = clock.shown()[len(shown)] - shown[-1]
        assert 0 < went_on < 5 * second.slowness, f"CLOCK_MONOTONIC went from {shown[-1]} by {went_on}"
